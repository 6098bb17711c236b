from dataclasses import replace

import numpy as np
import pytest

from dynfusion.evaluation.settings import SplitSettings
from dynfusion.evaluation.tasks.splits import folds, scaffold_fold_numbers, scaffold_split
from dynfusion.evaluation.tasks.structure import scaffold_groups
from dynfusion.settings import build
from tests.evaluation.molecules import freesolv, molecule_task

BENZENES = ["Cc1ccccc1", "CCc1ccccc1", "Oc1ccccc1", "Nc1ccccc1", "Clc1ccccc1"]
PYRIDINES = ["c1ccncc1", "Cc1ccncc1"]
CV = SplitSettings(kind="scaffold-cv", repeats=3, folds=5)


def test_every_molecule_is_tested_once_a_repeat_and_no_group_is_cut() -> None:
    task = freesolv()
    assert task.structure is not None
    cut, names = folds(task, CV), scaffold_groups(task.structure)
    assert [(fold.repeat, fold.number) for fold in cut] == [(r, n) for r in range(3) for n in range(5)]
    assert len({fold.name for fold in cut}) == len(cut)
    for repeat in range(3):
        tests = np.stack([fold.split == "test" for fold in cut if fold.repeat == repeat])
        assert (tests.sum(axis=0) == 1).all()
    for fold in cut:
        assert set(fold.split) == {"train", "test"}
        train, test = fold.rows("train"), fold.rows("test")
        assert not set(names[train]) & set(names[test])
        assert not set(task.structure.keys[train]) - {""} & set(task.structure.keys[test]) - {""}


def test_folds_are_of_a_size_but_for_a_group_larger_than_a_share() -> None:
    task = freesolv()
    assert task.structure is not None
    names = scaffold_groups(task.structure)
    benzene = int((names == "c1ccccc1").sum())
    assert benzene > len(names) / 5
    for repeat in range(4):
        sizes = np.bincount(scaffold_fold_numbers(names, folds=2, key=str(repeat)))
        assert abs(sizes[0] - sizes[1]) <= 1
        sizes = np.sort(np.bincount(scaffold_fold_numbers(names, folds=5, key=str(repeat))))
        assert sizes[-1] == benzene
        assert sizes[3] <= -(-len(names) // 5)


def test_repeats_and_seeds_differ_and_a_run_repeats_itself() -> None:
    task, halves = freesolv(), SplitSettings(repeats=5, folds=2)
    first, again = folds(task, halves), folds(task, halves)
    assert all(np.array_equal(one.split, two.split) for one, two in zip(first, again, strict=True))
    other = folds(task, halves.model_copy(update={"seed": 1}))
    assert len({tuple(fold.rows("test")) for fold in (*first, *other)}) == 20


def test_large_scaffolds_meet_in_some_repeats_and_not_in_others() -> None:
    names = np.repeat(["a", "b", *(f"s{row}" for row in range(60))], [20, 20, *[1] * 60])
    together = [len(set(scaffold_fold_numbers(names, folds=2, key=str(key))[[0, 20]])) == 1 for key in range(40)]
    assert 8 < sum(together) < 32


def test_where_rows_stand_decides_nothing() -> None:
    names = scaffold_groups(freesolv().structure)
    names = names[np.char.find(names, "row ") < 0]  # what cannot be read goes by its row
    order = np.random.default_rng(0).permutation(len(names))
    there = scaffold_fold_numbers(names, folds=5, key="0")
    np.testing.assert_array_equal(scaffold_fold_numbers(names[order], folds=5, key="0"), there[order])


def test_a_task_may_have_folds_of_its_own_and_rows_of_no_part_stay_out() -> None:
    task = freesolv()
    settings = build(SplitSettings, {"repeats": 1, "folds": 2, "per_task": {"freesolv": [2, 3]}})
    out = replace(task, split=np.where(np.arange(len(task.split)) < 7, "", task.split))
    cut = folds(out, settings)
    assert len(cut) == 6
    assert all((fold.split[:7] == "").all() and (fold.split[7:] != "").all() for fold in cut)
    assert len(folds(replace(task, name="other"), settings)) == 2


def test_the_given_split_is_the_tasks_own() -> None:
    task = replace(freesolv(), structure=None)
    (fold,) = folds(task, SplitSettings(kind="given"))
    assert fold.name == "given"
    np.testing.assert_array_equal(fold.split, task.split)


def test_the_scaffold_split_is_deepchems_worked_by_hand() -> None:
    """By (size, first row), both descending: benzene (5, 0), acyclic (2, 7), pyridine (2, 5), furan (1, 9).

    Train holds 8 of 10: 5 + 2 = 7, pyridine would make 9. Valid and train together hold 9: pyridine makes 9, goes to
    valid. Furan makes 8 in train, which is allowed.
    """
    task = molecule_task([*BENZENES, *PYRIDINES, "CCO", "CCCC", "c1ccoc1"])
    (fold,) = folds(task, SplitSettings(kind="scaffold"))
    assert fold.split.tolist() == ["train"] * 5 + ["valid"] * 2 + ["train"] * 3


def test_the_scaffold_split_equals_deepchems_loop_on_real_molecules() -> None:
    task = freesolv()
    assert task.structure is not None
    rows = np.flatnonzero(task.structure.readable)
    scaffolds: dict[str, list[int]] = {}
    for row in range(len(rows)):
        scaffolds.setdefault(str(task.structure.scaffolds[rows[row]]), []).append(row)
    ordered = sorted(scaffolds.items(), key=lambda entry: (len(entry[1]), entry[1][0]), reverse=True)
    parts: dict[str, list[int]] = {"train": [], "valid": [], "test": []}
    for _, members in ordered:
        if len(parts["train"]) + len(members) > 0.8 * len(rows):
            over = len(parts["train"]) + len(parts["valid"]) + len(members) > 0.9 * len(rows)
            parts["test" if over else "valid"] += members
        else:
            parts["train"] += members
    split = scaffold_split(task.structure, rows)
    for part, members in parts.items():
        assert members
        assert np.flatnonzero(split == part).tolist() == sorted(members)


def test_what_cannot_be_cut_is_said_in_one_sentence() -> None:
    task = molecule_task([*BENZENES, *PYRIDINES])
    with pytest.raises(ValueError, match="task t: found 2 scaffold groups in 7 rows, too few for 5 folds"):
        folds(task, CV)
    with pytest.raises(ValueError, match="task t: split scaffold needs SMILES, found none; allowed is split given"):
        folds(replace(task, structure=None), SplitSettings(kind="scaffold"))
    apart = molecule_task([*BENZENES, *PYRIDINES], labels=[0] * 5 + [1] * 2)
    with pytest.raises(ValueError, match=r"task t: the training part of scaffold-cv-0-0 has \d rows in which no label"):
        folds(apart, SplitSettings(repeats=1, folds=2))
    with pytest.raises(ValueError, match=r"setting per_task\.hiv\.1: found 1, allowed is greater than or equal to 2"):
        build(SplitSettings, {"per_task": {"hiv": [1, 1]}})
