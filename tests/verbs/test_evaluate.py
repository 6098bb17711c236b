"""An evaluation from a pool and a labelled pack to its report: real molecules, real Ray, small made embeddings."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from rdkit import Chem

from dynfusion.edges.ray_cluster import cluster
from dynfusion.encoders.embedded_data import load
from dynfusion.fusion.api import FusionModel
from dynfusion.fusion.model import FusionNetwork, ModelSettings
from dynfusion.store.dataset import Dataset, open_dataset
from dynfusion.store.pack import pack
from dynfusion.store.pack_inputs import PackInputs
from dynfusion.verbs import evaluate as verb
from dynfusion.verbs.evaluated_models import open_models
from dynfusion.verbs.evaluation_settings import read_settings

DIMS = {"a": 12, "b": 20, "c": 16}
POOL, TASK = 400, 160
SMALL = (
    *("evaluation.split.repeats=1", "evaluation.hiding.rates=[0.5]", "evaluation.hiding.draws=1"),
    *("evaluation.hiding.training_rates=[0.5]", "evaluation.probe.inverse_penalties=[0.01,0.1]"),
    *("evaluation.probe.rounds=[3]", "evaluation.probe.neighbours=[5]"),
)
IN_POOL = ("c1ccccc1CCO", "OCCc1ccccc1")
"""One molecule in two spellings: the first in the pool, the second among the test molecules."""
IN_TRAIN = ("N[C@@H](C)C(=O)O", "N[C@H](C)C(=O)O")
"""Two stereoisomers: the first among the training molecules, the second among the test molecules."""


@dataclass(frozen=True)
class World:
    """Folders of everything an evaluation reads."""

    pool: Path
    task: Path
    models: dict[str, str]

    def command(self, out: Path, *more: str) -> list[str]:
        models = f"fused={self.models['first']},{self.models['second']}"
        ablation = ["--ablation", f"none={self.models['none']}"]
        return ["evaluate", "--model", models, *ablation, "--tasks", f"t={self.task}", "--out", str(out), *more, *SMALL]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    smiles = [*load().tasks["freesolv"].smiles[: POOL + TASK]]
    smiles[0], smiles[-1] = IN_POOL
    smiles[POOL], smiles[-2] = IN_TRAIN
    draw = np.random.default_rng(0)
    factors = draw.normal(size=(len(smiles), 5))
    values = {
        name: factors @ draw.normal(size=(5, dim)) + 0.5 * draw.normal(size=(len(smiles), dim))
        for name, dim in DIMS.items()
    }
    pool = _packed(folder / "pool", slice(0, POOL), values, {"smiles": smiles})
    split = ["train"] * 100 + ["valid"] * 20 + ["test"] * (len(smiles) - POOL - 120)
    labels = {"y": (factors[:, 0] > 0).astype(int).tolist(), "split": [""] * POOL + split, "smiles": smiles}
    task = _packed(folder / "task", slice(POOL, None), values, labels)
    models = {
        name: _model(folder / name, open_dataset(pool), seed, name)
        for seed, name in enumerate(("first", "second", "none"))
    }
    return World(pool, task, models)


def _packed(folder: Path, rows: slice, values: dict[str, np.ndarray], columns: dict[str, list[Any]]) -> Path:
    ids = [f"m{row:04d}" for row in range(POOL + TASK)][rows]
    for name, found in values.items():
        (folder / name).mkdir(parents=True)
        np.save(folder / name / "embeddings.npy", found[rows].astype(np.float16))
        (folder / name / "ids.txt").write_text("".join(f"{one}\n" for one in ids))
    pq.write_table(
        pa.table({"id": ids, **{name: found[rows] for name, found in columns.items()}}), folder / "table.parquet"
    )
    labels = ("y",) if "y" in columns else ()
    inputs = PackInputs(
        {name: folder / name for name in values},
        folder / "table.parquet",
        labels=labels,
        split_column="split" if labels else None,
    )
    pack(inputs, out=folder / "packed")
    return folder / "packed"


def _model(folder: Path, pool: Dataset, seed: int, name: str) -> str:
    """An untrained network: what is tested here is what happens around it."""
    torch.manual_seed(seed)
    made = FusionNetwork(DIMS, ModelSettings(dim=8, gate_hidden=4, decoder_hidden=4, score_hidden=4))
    made.set_statistics({spec.name: (list(spec.mean), list(spec.std)) for spec in pool.manifest.modalities})
    FusionModel(made).save(folder)
    settings = {"train": {"seed": seed, "epochs": 1 + (name == "none")}}
    data = {"uri": str(pool.uri), "fingerprint": pool.manifest.fingerprint}
    (folder / "training.json").write_text(json.dumps({"data": data, "settings": settings}))
    return str(folder)


@pytest.fixture(scope="module")
def two_workers() -> Iterator[None]:
    with cluster(cpus=2):
        yield


def evaluated(world: World, out: Path, *overrides: str, workers: int | None = None) -> dict[str, bytes]:
    """What the report's files hold."""
    models = open_models({"fused": [world.models["first"], world.models["second"]]}, {"none": [world.models["none"]]})
    settings = read_settings([*SMALL, *overrides])
    verb.evaluate_models(models, tasks={"t": world.task}, out=out, settings=settings, workers=workers)
    return written(out)


def written(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in ("report.json", "report.md", "report.html", "cells.parquet")}


@pytest.fixture(scope="module")
def standard(world: World, two_workers: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("standard")
    evaluated(world, out, workers=2)
    return out


def test_one_worker_and_one_model_at_a_time_give_the_same_bytes(
    world: World, standard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verb, "EMBEDDING_BYTES", 1)
    assert evaluated(world, tmp_path, workers=1) == written(standard)


def test_runs_of_two_seeds_are_one_line_and_the_ablation_is_another(standard: Path) -> None:
    report = json.loads((standard / "report.json").read_text())
    assert [(one["name"], one["runs"], one["ablation"]) for one in report["models"]] == [
        ("fused", 2, False),
        ("none", 1, True),
    ]
    names = {row["representation"] for table in report["tables"] for row in table["rows"]}
    assert {"fused", "fused (none)", "projection-mean", "concat-ridge", "late-fusion", "ecfp"} <= names
    cells = pq.read_table(standard / "cells.parquet").to_pandas()
    chosen = (
        (cells.representation == "fused")
        & (cells.section == "given")
        & (cells.metric == "roc_auc")
        & (cells.visible == "a+b+c")
    )
    seeds = cells[chosen].set_index("seed").value
    assert set(seeds.index) == {0, 1}
    table = next(
        t for t in report["tables"] if (t["section"], t["probe"], t["metric"]) == ("given", "linear", "roc_auc")
    )
    line = next(row for row in table["rows"] if row["representation"] == "fused")
    assert line["cells"]["all present"]["value"] == pytest.approx(seeds.mean())


def test_planted_leaks_are_found(world: World, standard: Path) -> None:
    report = json.loads((standard / "report.json").read_text())
    given, *folds = report["tasks"][0]["leaks"]
    assert given["fold"] == "given"
    assert given["test"] == TASK - 120
    assert given["molecule_in_pool"] == 1
    table = pq.read_table(world.task.parent / "table.parquet").to_pandas()
    flat = table["smiles"].map(lambda text: Chem.MolToSmiles(Chem.MolFromSmiles(text), isomericSmiles=False))
    train, test = flat[table.split == "train"], flat[table.split == "test"]
    assert given["molecule_in_train"] == test.isin(set(train)).sum() >= 1
    assert [fold["molecule_in_train"] for fold in folds] == [0, 0], "scaffold groups keep stereoisomers together"
    pool = {Chem.MolToSmiles(Chem.MolFromSmiles(text), isomericSmiles=False) for text in _smiles(world.pool)}
    assert sum(fold["molecule_in_pool"] for fold in folds) == flat.isin(pool).sum()


def _smiles(pack: Path) -> list[str]:
    return pq.read_table(pack.parent / "table.parquet")["smiles"].to_pylist()


@pytest.mark.slow
def test_everything_on_every_fold(world: World, two_workers: None, tmp_path: Path) -> None:
    report = json.loads(evaluated(world, tmp_path, "evaluation.extent=full")["report.json"])
    cells = pq.read_table(tmp_path / "cells.parquet").to_pandas()
    assert set(cells.section) == {"folds", "given", "probes", "hiding", "training"}
    for section in ("folds", "probes", "hiding", "training"):
        assert set(cells[cells.section == section].split) == {"scaffold-cv"}
    assert {table["probe"] for table in report["tables"]} >= {"linear", "knn", "boosting"}


@pytest.mark.slow
def test_a_command_that_was_killed_continues_and_ends_with_the_same_bytes(
    world: World, standard: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "dynfusion", *world.command(tmp_path)]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    cells = tmp_path / "cells"
    deadline = time.monotonic() + 240
    while len(list(cells.glob("folds__*.json"))) < 5:
        assert first.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    started = [first, *psutil.Process(first.pid).children(recursive=True)]
    for process in started:
        os.kill(process.pid, signal.SIGKILL)
    first.wait()
    kept = {path.name: path.stat().st_mtime_ns for path in cells.glob("*.json")}
    subprocess.run(command, check=True, timeout=400, stdout=subprocess.DEVNULL)
    assert written(tmp_path) == written(standard)
    assert {name: (cells / name).stat().st_mtime_ns for name in kept} == kept, "what was finished was not done again"
