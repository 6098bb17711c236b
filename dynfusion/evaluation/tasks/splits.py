"""Which molecules are trained on and which are scored: the task's own split, the scaffold split, scaffold-group CV.

Everything is decided by hashes and row order, so that a task is cut alike on any machine and by any number of workers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

import numpy as np
from jaxtyping import Int64

from dynfusion.evaluation.settings import SplitSettings
from dynfusion.evaluation.tasks.structure import Structure, scaffold_groups
from dynfusion.evaluation.tasks.task import TaskData

TRAIN_SHARE = 0.8
VALID_SHARE = 0.1


@dataclass(frozen=True)
class Fold:
    """One way to cut a task; repeats and folds count from 0, both are 0 where there is one way only."""

    name: str
    repeat: int
    number: int
    split: np.ndarray
    """[rows] of "train", "valid" or "test", empty for a row of no part."""

    def rows(self, part: str) -> np.ndarray:
        """Row numbers of one part, ascending."""
        return np.flatnonzero(self.split == part)

    def of(self, task: TaskData) -> TaskData:
        """The task with this split as its own."""
        return replace(task, split=self.split, split_name=self.name)

    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with the name and with any row's part."""
        return blake2b("\0".join([self.name, *self.split.tolist()]).encode(), digest_size=8).hexdigest()


def folds(task: TaskData, settings: SplitSettings) -> list[Fold]:
    """The task's folds, in order of repeat and number. Rows of no part in the task (an empty split) stay out of all.

    "given": one, the task's own. "scaffold": one, see `scaffold_split`. "scaffold-cv": repeats x folds of them, see
    `scaffold_fold_numbers`; there is no valid part, and within a repeat each row is in one test part.

    Raises ValueError when the structure is needed and unknown, when there are too few scaffold groups, or when no label
    takes two values in a fold's training part.
    """
    if settings.kind == "given":
        cut = [Fold(task.split_name, 0, 0, task.split)]
    elif settings.kind == "scaffold":
        rows = np.flatnonzero(task.split != "")
        split = np.full(len(task.split), "", dtype="<U5")
        split[rows] = scaffold_split(_structure(task, settings.kind), rows)
        cut = [Fold("scaffold", 0, 0, split)]
    else:
        cut = _cross_validation(task, settings)
    for fold in cut:
        _check(task, fold)
    return cut


def scaffold_split(structure: Structure, rows: Int64[np.ndarray, " rows"]) -> np.ndarray:
    """[rows] "train", "valid" or "test" of some rows: whole scaffolds, the largest first, fill 80 %, then 10 %.

    A scaffold that would overfill training goes to valid, one that would overfill both to test. Of equally large
    scaffolds the one whose first row comes last is first. All acyclic molecules are one scaffold; a molecule that
    cannot be read stands alone.

    Source: DeepChem's ScaffoldSplitter, which is deterministic although it takes a seed, and which leaves out what
    cannot be read. Its row order is that of a file, ours that of the ids, so ties may fall otherwise.
    """
    names = np.where(structure.readable, structure.scaffolds, scaffold_groups(structure))[rows]
    groups = _members(names)
    groups.sort(key=lambda members: (len(members), members[0]), reverse=True)
    split = np.full(len(rows), "test", dtype="<U5")
    train = valid = 0
    for members in groups:
        if train + len(members) <= TRAIN_SHARE * len(rows):
            split[members], train = "train", train + len(members)
        elif train + valid + len(members) <= (TRAIN_SHARE + VALID_SHARE) * len(rows):
            split[members], valid = "valid", valid + len(members)
    return split


def scaffold_fold_numbers(names: np.ndarray, *, folds: int, key: str) -> Int64[np.ndarray, " rows"]:
    """[rows] in which fold each row is tested, 0..folds-1; rows of one name (see `scaffold_groups`) are together.

    Groups are dealt largest first, each to a fold drawn by a hash of `key` and name from those that have room for it
    within a fair share of the rows, else to the emptiest. So folds differ in size only where one group is larger than
    a share, or by less than the smallest groups; and which large scaffolds meet differs from key to key.
    """
    groups = {str(names[members[0]]): members for members in _members(names)}
    draws = {name: int.from_bytes(blake2b(f"{key}|{name}".encode(), digest_size=8).digest()) for name in groups}
    fair = -(-len(names) // folds)
    filled = [0] * folds
    numbers = np.empty(len(names), dtype=np.int64)
    for name, members in sorted(groups.items(), key=lambda group: (-len(group[1]), draws[group[0]])):
        room = [fold for fold in range(folds) if filled[fold] + len(members) <= fair]
        fold = room[draws[name] % len(room)] if room else filled.index(min(filled))
        numbers[members] = fold
        filled[fold] += len(members)
    return numbers


def _cross_validation(task: TaskData, settings: SplitSettings) -> list[Fold]:
    structure = _structure(task, settings.kind)
    repeats, count = settings.per_task.get(task.name, (settings.repeats, settings.folds))
    rows = np.flatnonzero(task.split != "")
    names = scaffold_groups(structure)[rows]
    cut = []
    for repeat in range(repeats):
        numbers = scaffold_fold_numbers(names, folds=count, key=f"{settings.seed}|{repeat}")
        if len(np.unique(numbers)) < count:
            raise ValueError(
                f"task {task.name}: found {len(np.unique(names))} scaffold groups in {len(rows)} rows, too few for "
                f"{count} folds, set fewer folds or another kind of split"
            )
        for number in range(count):
            split = np.full(len(task.split), "", dtype="<U5")
            split[rows] = np.where(numbers == number, "test", "train")
            cut.append(Fold(f"scaffold-cv-{repeat}-{number}", repeat, number, split))
    return cut


def _members(names: np.ndarray) -> list[np.ndarray]:
    """Positions of each name, ascending; the groups in alphabetical order."""
    order = np.argsort(names, kind="stable")
    starts = np.flatnonzero(names[order][1:] != names[order][:-1]) + 1
    return np.split(order, starts)


def _structure(task: TaskData, kind: str) -> Structure:
    if task.structure is None:
        raise ValueError(f"task {task.name}: split {kind} needs SMILES, found none; allowed is split given")
    return task.structure


def _check(task: TaskData, fold: Fold) -> None:
    """Raises ValueError when there is nothing to learn from the training part."""
    labels = task.labels[fold.rows("train")]
    if not any(_values(column) > 1 for column in labels.T):
        found = f"{len(labels)} rows in which no label takes two values"
        raise ValueError(f"task {task.name}: the training part of {fold.name} has {found}, so nothing can be learnt")


def _values(labels: Sequence[float] | np.ndarray) -> int:
    """How many different values are observed."""
    observed = np.asarray(labels)
    return len(np.unique(observed[~np.isnan(observed)]))
