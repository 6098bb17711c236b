"""What the test molecules of a fold have in common with what was learnt from: scaffolds, molecules, the pool."""

from collections.abc import Set
from dataclasses import dataclass

import numpy as np

from dynfusion.evaluation.tasks.splits import Fold
from dynfusion.evaluation.tasks.task import TaskData


@dataclass(frozen=True)
class LeakRecord:
    """Counts of test molecules. All but `test` are among those whose SMILES can be read.

    The training part is what heads are fitted on, its valid rows not included; the pool is what the fusion model was
    trained on, without labels.
    """

    task: str
    fold: str
    test: int
    readable: int
    with_scaffold: int
    """That have a scaffold: they are not acyclic."""
    scaffold_in_train: int
    """Of `with_scaffold`."""
    molecule_in_train: int
    """Whose key (stereoisomers and isotopes are one molecule) is a training molecule's."""
    molecule_in_pool: int | None
    """Whose key is in the fusion model's training pool; None when that is unknown."""


def leaks(task: TaskData, fold: Fold, *, pool_keys: Set[str] | None) -> LeakRecord:
    """The fold's leak record; `pool_keys` are canonical SMILES without stereochemistry, as `Structure.keys`.

    Raises ValueError when the task's structure is unknown.
    """
    structure = task.structure
    if structure is None:
        raise ValueError(f"task {task.name}: leaks need its SMILES to be read, found no structure")
    train, test = fold.rows("train"), fold.rows("test")
    test_keys, test_scaffolds = _given(structure.keys[test]), _given(structure.scaffolds[test])
    return LeakRecord(
        task=task.name,
        fold=fold.name,
        test=len(test),
        readable=len(test_keys),
        with_scaffold=len(test_scaffolds),
        scaffold_in_train=_shared(test_scaffolds, set(structure.scaffolds[train].tolist())),
        molecule_in_train=_shared(test_keys, set(structure.keys[train].tolist())),
        molecule_in_pool=None if pool_keys is None else _shared(test_keys, pool_keys),
    )


def _given(texts: np.ndarray) -> list[str]:
    return [text for text in texts.tolist() if text]


def _shared(texts: list[str], known: Set[str]) -> int:
    return sum(text in known for text in texts)
