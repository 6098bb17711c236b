"""The pack's held-out molecules, the same ones at every check, and what each visible subset leaves to be rebuilt."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64

from dynfusion.evaluation.hiding.masks import visible_mask
from dynfusion.evaluation.hiding.patterns import subsets
from dynfusion.evaluation.tasks.task import TaskData
from dynfusion.store.dataset import Dataset
from dynfusion.store.manifest import Manifest


@dataclass(frozen=True)
class View:
    """Molecules that show something of a subset, and have something outside it."""

    shown: tuple[str, ...]
    rows: Int64[np.ndarray, " rows"]
    visible: Bool[np.ndarray, "rows modalities"]

    def hidden(self, task: TaskData) -> Iterator[tuple[str, Bool[np.ndarray, " rows"]]]:
        """Every modality outside the subset, and which of the rows have it."""
        for column, name in enumerate(task.modalities):
            if name not in self.shown:
                yield name, task.present[self.rows, column]


def views(task: TaskData) -> Iterator[View]:
    """One for every visible subset but the complete one, where any molecule has something outside it."""
    for shown in subsets(task.modalities)[1:]:
        visible = visible_mask(shown, task.present, modalities=task.modalities)
        rows = np.flatnonzero(visible.any(axis=1) & (task.present & ~visible).any(axis=1))
        if len(rows):
            yield View(shown, rows, visible[rows])


def chosen_rows(total: int, most: int, *, block_rows: int) -> Int64[np.ndarray, " rows"]:
    """At most `most` of `total` rows: whole blocks (the unit of reading), evenly spaced; the pack has shuffled them."""
    if total <= most:
        return np.arange(total, dtype=np.int64)
    run = min(block_rows, most)
    first = np.linspace(0, total - run, most // run).astype(np.int64) // run * run
    return (first[:, None] + np.arange(run)).reshape(-1)


def rows_looked_at(manifest: Manifest, most: int) -> Int64[np.ndarray, " rows"]:
    """Which held-out rows are looked at; their number alone says which ones they are."""
    return chosen_rows(manifest.holdout_rows, most, block_rows=manifest.block_rows)


def held_out(dataset: Dataset, most: int) -> TaskData:
    """These rows as a task without labels."""
    manifest = dataset.manifest
    rows = dataset.read("holdout", rows_looked_at(manifest, most))
    count = len(rows.row_ids)
    return TaskData(
        name="held-out rows",
        ids=rows.row_ids.astype(str),
        smiles=np.full(count, ""),
        modalities=tuple(manifest.names),
        values={name: values.astype(np.float32) for name, values in rows.values.items()},
        present=rows.present,
        labels=np.zeros((count, 0)),
        label_names=(),
        kind="binary",
        split=np.full(count, "valid"),
    )
