"""Valid files of every kind, small, made by the product itself; what the mutations begin with."""

import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from dynfusion.fusion.api import FusionModel
from dynfusion.fusion.losses import LossSettings
from dynfusion.fusion.model import FusionNetwork, ModelSettings
from dynfusion.fusion.objective import FusionObjective
from dynfusion.run_settings import RunSettings, identity
from dynfusion.settings import build, to_toml
from dynfusion.store.dataset import Dataset, open_dataset
from dynfusion.store.pack import pack
from dynfusion.store.pack_inputs import PackInputs, PackSettings
from dynfusion.training.checkpoint import State, save_checkpoint
from dynfusion.training.config import EngineSettings, TrainSettings
from dynfusion.training.engine import TorchEngine
from dynfusion.training.run_folder import Identity
from tests.fuzz.judge import Files
from tests.tuning.sweep_example import write_example

DIMS = {"a": 3, "b": 4}
ROWS = 44
MODEL = ModelSettings(dim=4, gate_hidden=2, decoder_hidden=3, score_hidden=2)


@dataclass(frozen=True)
class Examples:
    """Contents by name of valid files; `dataset` and `folder` are of the packed data set on disk, which is mutated in
    copies only; `scratch` is an empty folder for files that must be on a disk."""

    folder: Path
    dataset: Dataset
    packed: Files
    vectors: np.ndarray
    ids: tuple[str, ...]
    model: Files
    checkpoint: Files
    run: Files
    run_file: str
    sweep: Files
    scratch: Path

    @property
    def settings(self) -> RunSettings:
        return build(RunSettings, {"data": {"uri": "packed"}})

    @property
    def identity(self) -> Identity:
        return identity(self.settings, "0" * 32)


def make_examples(folder: Path) -> Examples:
    """The examples, made in `folder`, which should lie in memory."""
    draw = np.random.default_rng(0)
    vectors = draw.standard_normal((ROWS, max(DIMS.values()))).astype(np.float16)
    ids = tuple(f"m{number}" for number in range(ROWS))
    dataset = _pack(folder, vectors, ids)
    FusionModel(FusionNetwork(DIMS, MODEL)).save(folder / "model")
    settings = build(RunSettings, {"data": {"uri": "packed"}, "train": {"epochs": 3}})
    training = {
        "data": {"uri": "packed", "fingerprint": dataset.manifest.fingerprint, "rows": ROWS},
        "settings": settings.model_dump(mode="json"),
        "steps": 8,
    }
    (folder / "model" / "training.json").write_text(json.dumps(training))
    _save_checkpoint(folder / "checkpoint-00000008-001")
    write_example(folder / "sweep", samples=6)
    (folder / "scratch").mkdir()
    claimed = {"identity": vars(identity(settings, "0" * 32)), "settings": settings.model_dump(mode="json")}
    return Examples(
        folder=folder,
        dataset=dataset,
        packed=contents(folder / "packed"),
        vectors=vectors,
        ids=ids,
        model=contents(folder / "model"),
        checkpoint=contents(folder / "checkpoint-00000008-001"),
        run={"run.json": json.dumps(claimed).encode(), "attempts.json": b'{"used": 2}'},
        run_file=to_toml(settings),
        sweep=contents(folder / "sweep"),
        scratch=folder / "scratch",
    )


def contents(folder: Path) -> Files:
    """Every file below a folder by its path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def npy(array: np.ndarray) -> bytes:
    """The bytes of a `.npy` file."""
    out = io.BytesIO()
    np.save(out, array, allow_pickle=False)
    return out.getvalue()


def parquet(table: pa.Table) -> bytes:
    """The bytes of a Parquet file; a struct without fields, which Parquet cannot hold, is left out."""
    held = [number for number, field in enumerate(table.schema) if not _is_empty(field.type)]
    out = io.BytesIO()
    pq.write_table(table if len(held) == table.num_columns else table.select(held), out)
    return out.getvalue()


def _is_empty(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) and kind.num_fields == 0


def arrow(table: pa.Table, *, stream: bool = False, compression: str | None = None) -> bytes:
    """The bytes of an Arrow file or stream."""
    out, options = io.BytesIO(), pa.ipc.IpcWriteOptions(compression=compression)
    made = pa.ipc.new_stream if stream else pa.ipc.new_file
    with made(out, table.schema, options=options) as writer:
        writer.write_table(table)
    return out.getvalue()


def _pack(folder: Path, vectors: np.ndarray, ids: tuple[str, ...]) -> Dataset:
    for number, (name, dim) in enumerate(DIMS.items()):
        values = vectors[:, :dim].copy()
        values[5 + number :: 7] = np.nan
        values[11] = np.nan  # without any modality: dropped
        (folder / name).mkdir(parents=True)
        (folder / name / "embeddings.npy").write_bytes(npy(values))
        (folder / name / "ids.txt").write_text("".join(f"{text}\n" for text in ids))
    rows = "".join(f"{text},C{'C' * n},{n % 2},{('train', 'valid', 'test')[n % 3]}\n" for n, text in enumerate(ids))
    (folder / "table.csv").write_text(f"id,smiles,y,split\n{rows}")
    inputs = PackInputs(
        {name: folder / name for name in DIMS}, table=folder / "table.csv", labels=("y",), split_column="split"
    )
    settings = PackSettings(block_rows=8, holdout=0.2, shard_bytes=2 * 16 * sum(DIMS.values()), lanes=2)
    pack(inputs, out=folder / "packed", settings=settings)
    return open_dataset(folder / "packed")


def _save_checkpoint(folder: Path) -> None:
    objective = FusionObjective(FusionNetwork(DIMS, MODEL), LossSettings())
    engine = TorchEngine(objective, TrainSettings(), EngineSettings(), torch.device("cpu"))
    state = State(8, "f" * 16, "0" * 32, 1, list(range(256)))
    history = [{"step": 4, "loss": 1.5}, {"step": 8, "loss": 1.25, "validation": {"score": 0.5}}]
    save_checkpoint(folder, engine, objective.network, state, history)
