"""A pickle that acts when it is loaded, in every place where a file is given: nothing happens but an error."""

import hashlib
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from dynfusion.encoders.folder import read_folder
from dynfusion.evaluation.protocol.cells import read_result, write_result
from dynfusion.fusion.api import FusionModel
from dynfusion.fusion.losses import LossSettings
from dynfusion.fusion.model import FusionNetwork
from dynfusion.fusion.objective import FusionObjective
from dynfusion.store.pack import pack
from dynfusion.store.pack_inputs import PackInputs
from dynfusion.training.config import EngineSettings, TrainSettings
from dynfusion.training.engine import OPTIMIZER_FILE, TorchEngine
from tests.fuzz.examples import DIMS, MODEL, Examples, make_examples
from tests.fuzz.parsers_results import finished_group


class Acting:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    return make_examples(tmp_path_factory.mktemp("examples"))


def objects(acting: Acting) -> np.ndarray:
    array = np.empty((2, 2), object)
    array[:] = acting
    return array


def test_the_pickle_acts_where_it_is_loaded(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Acting(tmp_path / "acted")))
    assert (tmp_path / "acted").is_dir()


@pytest.mark.parametrize("name", ["e.npy", "e.npz", "e.parquet", "e.arrow", "e.csv"])
@pytest.mark.parametrize("kind", ["pickle", "objects", "torch"])
def test_vectors_to_pack(tmp_path: Path, name: str, kind: str) -> None:
    acting, path = Acting(tmp_path / "acted"), tmp_path / name
    if kind == "pickle":
        path.write_bytes(pickle.dumps(acting))
    elif kind == "torch":
        torch.save({"ids": ["a", "b"], "x": acting}, path)
    elif name.endswith(".npz"):
        np.savez(path, ids=np.array(["a", "b"]), embeddings=objects(acting))
    else:
        with path.open("wb") as file:
            np.save(file, objects(acting), allow_pickle=True)
    (tmp_path / "e.ids.txt").write_text("a\nb\n")
    with pytest.raises(ValueError, match=r"e\.(npy|npz|parquet|arrow|csv)"):
        pack(PackInputs({"m": path}), out=tmp_path / "packed")
    assert not acting.folder.exists()


@pytest.mark.parametrize("name", ["ids.npy", "reasons.npy", "embeddings.npy"])
def test_a_folder_as_embed_writes_it(tmp_path: Path, name: str) -> None:
    folder, acting = tmp_path / "d", Acting(tmp_path / "acted")
    folder.mkdir()
    np.save(folder / "embeddings.npy", np.ones((2, 2), np.float16))
    for text in ("ids.txt", "smiles.txt", "groups.txt", "encoder.txt")[name == "ids.npy" :]:
        (folder / text).write_text("a\nb\n")
    np.save(folder / "reasons.npy", np.zeros(2, np.uint8))
    np.save(folder / name, objects(acting)[0] if name != "embeddings.npy" else objects(acting), allow_pickle=True)
    with pytest.raises(ValueError, match=r"\.npy"):
        pack(PackInputs({"m": folder}), out=tmp_path / "packed")
    if name != "ids.npy":
        with pytest.raises(ValueError, match=name):
            read_folder(folder)
    assert not acting.folder.exists()


@pytest.mark.parametrize("kind", ["pickle", "torch"])
def test_a_model_folder(examples: Examples, tmp_path: Path, kind: str) -> None:
    acting = Acting(tmp_path / "acted")
    for name, content in examples.model.items():
        (tmp_path / name).write_bytes(content)
    if kind == "pickle":
        (tmp_path / "model.safetensors").write_bytes(pickle.dumps(acting))
    else:
        torch.save({"towers.0.mean": acting}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="not readable as safetensors"):
        FusionModel.load(tmp_path)
    assert not acting.folder.exists()


def test_the_optimizer_state_of_the_torch_engine(tmp_path: Path) -> None:
    acting = Acting(tmp_path / "acted")
    objective = FusionObjective(FusionNetwork(DIMS, MODEL), LossSettings())
    engine = TorchEngine(objective, TrainSettings(), EngineSettings(), torch.device("cpu"))
    for wrong in ({"state": acting}, acting):
        torch.save(wrong, tmp_path / OPTIMIZER_FILE)
        with pytest.raises(ValueError, match="something else than tensors and plain values"):
            engine.load(tmp_path, engine.weights())
    (tmp_path / OPTIMIZER_FILE).write_bytes(pickle.dumps(acting))
    with pytest.raises(ValueError, match="something else than tensors and plain values"):
        engine.load(tmp_path, engine.weights())
    assert not acting.folder.exists()


def test_a_finished_cell_of_an_evaluation(tmp_path: Path) -> None:
    """Objects in its arrays count as nothing finished."""
    acting = Acting(tmp_path / "acted")
    result = finished_group()
    write_result(tmp_path, result)
    path, record = tmp_path / f"{result.group.name}.npz", tmp_path / f"{result.group.name}.json"
    assert read_result(tmp_path, result.group) is not None
    np.savez(path, scores=objects(acting), resampled_roc_auc=np.zeros((1, 5)))
    content = json.loads(record.read_text())
    content["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    record.write_text(json.dumps(content))
    assert read_result(tmp_path, result.group) is None
    assert not acting.folder.exists()
