"""What every probe is told: how it is tuned, and what kind of labels it reads."""

from dataclasses import dataclass

import numpy as np
from pydantic import Field, field_validator

from dynfusion.evaluation.tasks.task import Kind
from dynfusion.settings import Settings

Labelled = tuple[np.ndarray, np.ndarray]
"""Features [rows, dim] and labels float64 [rows, labels], NaN where missing."""


class ProbeSettings(Settings):
    """How the heads are fitted; the same for every representation."""

    inverse_penalties: tuple[float, ...] = Field(
        (1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1), min_length=1, description="grid for C of the linear probe"
    )
    neighbours: tuple[int, ...] = Field((1, 3, 5, 9, 15, 31), min_length=1, description="grid for k of the kNN probe")
    rounds: tuple[int, ...] = Field(
        (25, 50, 100), min_length=1, description="grid for the number of trees of the gradient boosting probe"
    )
    folds: int = Field(
        3, ge=2, le=20, description="inner folds that choose from a grid where the task has no validation rows"
    )
    max_iterations: int = Field(2000, ge=100, description="most L-BFGS iterations of one fit of the linear probe")

    @field_validator("inverse_penalties", "neighbours", "rounds")
    @classmethod
    def _positive_and_ascending(cls, grid: tuple[float, ...] | tuple[int, ...]) -> tuple[float, ...] | tuple[int, ...]:
        if list(grid) != sorted(set(grid)) or grid[0] <= 0:
            raise ValueError(f"found {grid}, allowed are positive numbers in ascending order")
        return grid


@dataclass(frozen=True)
class ProbeTask:
    """What the labels are."""

    kind: Kind
    classes: int = 0
    """Number of classes of a multiclass label, else 0."""


def indicators(labels: np.ndarray, target: ProbeTask) -> tuple[np.ndarray, np.ndarray]:
    """Labels without NaN (one-hot for classes), and where they are known."""
    known = ~np.isnan(labels)
    if target.kind != "multiclass":
        return np.where(known, labels, 0.0), known
    one_hot = labels == np.arange(target.classes)
    return one_hot.astype(np.float64), np.broadcast_to(known, one_hot.shape)
