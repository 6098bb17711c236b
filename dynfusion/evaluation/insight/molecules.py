"""Whom insight looks at, and what it asks of a model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int64

from dynfusion.evaluation.hiding.masks import visible_mask
from dynfusion.evaluation.representations.fused import Model
from dynfusion.evaluation.tasks.task import TaskData

Record = dict[str, object]


@runtime_checkable
class InsightModel(Model, Protocol):
    """A fusion model that shows how it fuses; every method takes what `encode` takes."""

    def attention(
        self, embeddings: Mapping[str, np.ndarray | None], present: Mapping[str, np.ndarray] | None = None
    ) -> np.ndarray:
        """[rows, modalities]: weights that sum to 1 over a row, 0 where absent."""
        ...

    def projections(
        self, embeddings: Mapping[str, np.ndarray | None], present: Mapping[str, np.ndarray] | None = None
    ) -> dict[str, np.ndarray]:
        """Per modality [rows, dim of the fused embedding], zero where absent."""
        ...

    def gates(
        self, embeddings: Mapping[str, np.ndarray | None], present: Mapping[str, np.ndarray] | None = None
    ) -> dict[str, np.ndarray]:
        """Per modality [rows, its width], 0..1, zero where absent."""
        ...


@dataclass(frozen=True)
class Molecules:
    """Test molecules of one task that have at least one modality, in original units."""

    task: str
    modalities: tuple[str, ...]
    values: dict[str, np.ndarray]
    """Per modality float32 [rows, dim]."""
    present: Bool[np.ndarray, "rows modalities"]
    positions: Int64[np.ndarray, " rows"]
    """Which of the task's test rows they are."""

    def column(self, name: str) -> int:
        """Number of a modality."""
        return self.modalities.index(name)

    def visible(self, shown: tuple[str, ...]) -> Bool[np.ndarray, "rows modalities"]:
        """What is present and shown."""
        return visible_mask(shown, self.present, modalities=self.modalities)

    def inputs(
        self, rows: np.ndarray, visible: Bool[np.ndarray, "rows modalities"]
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Arguments for a model's methods: embeddings of these rows and where they are visible."""
        masks = {name: visible[:, column] for column, name in enumerate(self.modalities)}
        return {name: np.where(masks[name][:, None], self.values[name][rows], 0) for name in self.modalities}, masks

    def encoded(
        self, model: Model, rows: np.ndarray, visible: Bool[np.ndarray, "rows modalities"]
    ) -> Float[np.ndarray, "rows dim"]:
        """The fused embedding of rows that each show something."""
        return model.encode(*self.inputs(rows, visible))


def scored_molecules(task: TaskData, most: int) -> Molecules:
    """At most `most` test molecules that have something present, evenly spaced."""
    test = task.rows("test")
    there = np.flatnonzero(task.present[test].any(axis=1))
    chosen = there[evenly_spaced(len(there), most)]
    rows = test[chosen]
    values = {name: task.values[name][rows] for name in task.modalities}
    return Molecules(task.name, task.modalities, values, task.present[rows], chosen)


def evenly_spaced(rows: int, most: int) -> Int64[np.ndarray, " chosen"]:
    """`most` of `rows` row numbers, ascending, first and last among them; all when there are no more."""
    if rows <= most:
        return np.arange(rows, dtype=np.int64)
    return np.unique(np.linspace(0, rows - 1, most).astype(np.int64))
