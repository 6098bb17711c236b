"""Real molecules as a task: labels and SMILES that come with installed packages, structure read by RDKit."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from dynfusion.encoders.embedded_data import load
from dynfusion.encoders.structure import structure_arrays
from dynfusion.evaluation.tasks.structure import Structure
from dynfusion.evaluation.tasks.task import TaskData


def molecule_task(
    smiles: Sequence[str], *, labels: Sequence[float] | None = None, split: Sequence[str] | None = None, name: str = "t"
) -> TaskData:
    """A task without embeddings; by default labels alternate and all rows but the last are for training."""
    rows = len(smiles)
    return TaskData(
        name=name,
        ids=np.array([f"m{row:05d}" for row in range(rows)]),
        smiles=np.array(smiles, dtype=str),
        modalities=(),
        values={},
        present=np.zeros((rows, 0), dtype=bool),
        labels=np.array(labels if labels is not None else [row % 2 for row in range(rows)], dtype=float)[:, None],
        label_names=("y",),
        kind="binary",
        split=np.array(split if split is not None else ["train"] * (rows - 1) + ["test"]),
        structure=Structure(*structure_arrays(smiles)),
    )


@lru_cache(maxsize=1)
def freesolv() -> TaskData:
    """642 molecules, many of them acyclic, and three that cannot be read."""
    task = load().tasks["freesolv"]
    smiles, split = [*task.smiles, "C1CC", "not a molecule", ""], [*task.split, "train", "test", "train"]
    return molecule_task(smiles, labels=[*task.labels.tolist(), 0, 1, 0], split=split, name="freesolv")
