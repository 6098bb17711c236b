from dataclasses import replace

import pytest

from dynfusion.encoders.molecules import canonical_key
from dynfusion.evaluation.settings import SplitSettings
from dynfusion.evaluation.tasks.leaks import LeakRecord, leaks
from dynfusion.evaluation.tasks.splits import Fold, folds
from tests.evaluation.molecules import freesolv, molecule_task

TRAIN = ["C[C@H](N)C(=O)O", "CC(C)Cc1ccc(cc1)C(C)C(=O)O", "OCCO", "C1CC"]
"""L-alanine, ibuprofen, glycol, and what cannot be read."""
TEST = ["C[C@@H](N)C(=O)O", "Cc1ccccc1", "c1ccc2ccccc2c1", "CCO", "C1CC"]
"""D-alanine (a stereoisomer), toluene (a shared scaffold), naphthalene, ethanol, and what cannot be read."""


def test_planted_leaks_are_counted() -> None:
    task = molecule_task([*TRAIN, *TEST, "c1ccc2ccccc2c1C"], split=["train"] * 4 + ["test"] * 5 + ["valid"])
    (fold,) = folds(task, SplitSettings(kind="given"))
    pool = frozenset({"c1ccc2ccccc2c1", str(canonical_key("OCC")), "CCCCCCC", ""})
    assert leaks(task, fold, pool_keys=pool) == LeakRecord(
        task="t",
        fold="given",
        test=5,
        readable=4,
        with_scaffold=2,
        scaffold_in_train=1,
        molecule_in_train=1,
        molecule_in_pool=2,
    )
    assert leaks(task, fold, pool_keys=None).molecule_in_pool is None
    assert leaks(task, fold, pool_keys=frozenset()).molecule_in_pool == 0


def test_scaffold_folds_do_not_leak_and_the_whole_task_as_a_pool_leaks_all() -> None:
    task = freesolv()
    assert task.structure is not None
    for kind in ("scaffold", "scaffold-cv"):
        for fold in folds(task, SplitSettings(kind=kind)):
            found = leaks(task, fold, pool_keys=frozenset(task.structure.keys.tolist()))
            assert (found.scaffold_in_train, found.molecule_in_train) == (0, 0)
            assert found.molecule_in_pool == found.readable <= found.test


def test_a_random_split_leaks_scaffolds() -> None:
    task = freesolv()
    fold = Fold("random", 0, 0, task.split.copy())
    fold.split[:] = ["test" if row % 5 == 0 else "train" for row in range(len(fold.split))]
    found = leaks(task, fold, pool_keys=None)
    assert found.scaffold_in_train > found.with_scaffold / 2


def test_without_structure_there_is_no_leak_record() -> None:
    task = replace(freesolv(), structure=None)
    with pytest.raises(ValueError, match="task freesolv: leaks need its SMILES to be read, found no structure"):
        leaks(task, Fold("given", 0, 0, task.split), pool_keys=None)
