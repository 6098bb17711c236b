"""What a probe is fitted on: one table of names, each a function from a visible mask to features.

    "morgan", ...   one modality alone, standardised
    "concat-mean"   every modality side by side, the invisible ones at the pool's training mean
    "concat-ridge"  the same, the invisible ones predicted from the visible by ridge regression
    "fused"         the fusion model's embedding of the visible ones

Rows are features of exactly what `visible` shows: a naturally absent cell and a hidden one are treated alike.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float

from dynfusion.evaluation.hiding.patterns import Pattern, transferred, visible_mask
from dynfusion.evaluation.representations.imputers import Imputers, impute, standardise_present
from dynfusion.evaluation.tasks.task import TaskData

CONCAT_MEAN = "concat-mean"
CONCAT_RIDGE = "concat-ridge"
FUSED = "fused"


@runtime_checkable
class Model(Protocol):
    """What evaluation needs of a fusion model."""

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names, in the order of the model's inputs."""
        ...

    @property
    def dims(self) -> dict[str, int]:
        """Width of every modality."""
        ...

    def encode(
        self, embeddings: Mapping[str, np.ndarray | None], present: Mapping[str, np.ndarray] | None = None
    ) -> np.ndarray:
        """float32 [rows, dim]; every row must have something present."""
        ...

    def reconstruct(
        self, embeddings: Mapping[str, np.ndarray | None], present: Mapping[str, np.ndarray] | None = None
    ) -> dict[str, np.ndarray]:
        """Every modality from the visible ones, float32 [rows, dim of that modality], original units."""
        ...

    def statistics(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Mean and standard deviation of every modality over the model's training rows."""
        ...


@dataclass(frozen=True)
class Encoded:
    """A model's embedding of one task, computed once: all rows as they are, and test rows under every pattern."""

    complete: Float[np.ndarray, "rows dim"]
    test: dict[Pattern, np.ndarray]

    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with any number."""
        digest = hashlib.sha256(np.ascontiguousarray(self.complete).tobytes())
        for pattern in sorted(self.test, key=repr):
            digest.update(repr(pattern).encode() + np.ascontiguousarray(self.test[pattern]).tobytes())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Features:
    """Features of some rows; `usable` is False where the representation has nothing visible to work with."""

    values: Float[np.ndarray, "rows dim"]
    usable: Bool[np.ndarray, "rows"]


def representation_names(modalities: tuple[str, ...]) -> list[str]:
    """Every representation of a report, in the order of its table."""
    return [*modalities, CONCAT_MEAN, CONCAT_RIDGE, FUSED]


def patterns_of(representation: str, modalities: tuple[str, ...]) -> list[Pattern]:
    """Patterns a representation is scored under: a single modality only where it is visible."""
    patterns = transferred(modalities)
    if representation in modalities:
        return [pattern for pattern in patterns if representation in pattern.visible]
    return patterns


def standardised(task: TaskData, statistics: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> TaskData:
    """The task in the units every representation works in: the pool's, floored and clipped as the model sees them."""
    values = standardise_present(task.values, task.present, modalities=task.modalities, statistics=statistics)
    return replace(task, values=values)


def features(
    representation: str,
    task: TaskData,
    rows: np.ndarray,
    *,
    pattern: Pattern | None,
    imputers: Imputers | None,
    encoded: Encoded | None,
) -> Features:
    """Features of `rows` of a standardised task; `pattern=None` shows all that is present.

    With a pattern and `fused`, `rows` must be the task's test rows.
    """
    present: np.ndarray = task.present[rows]
    visible: np.ndarray = present if pattern is None else visible_mask(pattern, present, modalities=task.modalities)
    if representation in task.modalities:
        return Features(task.values[representation][rows], visible[:, task.modalities.index(representation)])
    usable = np.asarray(visible.any(axis=1))
    if representation == FUSED:
        assert encoded is not None
        return Features(encoded.complete[rows] if pattern is None else encoded.test[pattern], usable)
    values = {name: task.values[name][rows] for name in task.modalities}
    if representation == CONCAT_RIDGE:
        assert imputers is not None
        return Features(_concatenate(impute(imputers, values, visible)), usable)
    assert representation == CONCAT_MEAN
    shown = {name: np.where(visible[:, [i]], values[name], np.float32(0)) for i, name in enumerate(task.modalities)}
    return Features(_concatenate(shown), usable)


def _concatenate(values: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.concatenate(list(values.values()), axis=1)


def encode_task(model: Model, task: TaskData) -> Encoded:
    """The model's embedding of a task in original units; a row with nothing visible is zero and never looked at."""
    test = task.rows("test")
    by_pattern = {
        pattern: encode_rows(
            model, task, test, visible=visible_mask(pattern, task.present[test], modalities=task.modalities)
        )
        for pattern in transferred(task.modalities)
    }
    return Encoded(encode_rows(model, task, np.arange(len(task.ids)), visible=task.present), by_pattern)


def encode_rows(
    model: Model, task: TaskData, rows: np.ndarray, *, visible: Bool[np.ndarray, "rows modalities"]
) -> Float[np.ndarray, "rows dim"]:
    """float32 embeddings of the rows; those with nothing visible are zero."""
    usable = visible.any(axis=1)
    shown = model.encode(*visible_inputs(task, rows[usable], visible[usable]))
    embedding = np.zeros((len(rows), shown.shape[1]), dtype=np.float32)
    embedding[usable] = shown
    return embedding


def visible_inputs(
    task: TaskData, rows: np.ndarray, visible: Bool[np.ndarray, "rows modalities"]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Arguments for `encode` and `reconstruct`: embeddings and visible masks, hidden values zeroed."""
    masks = {name: visible[:, column] for column, name in enumerate(task.modalities)}
    return {name: task.values[name][rows] * masks[name][:, None] for name in task.modalities}, masks


def matched(task: TaskData, model: Model) -> TaskData:
    """The task with its modalities in the model's order.

    Raises ValueError unless the task's modalities and widths are the model's.
    """
    if set(task.modalities) != set(model.modalities):
        raise ValueError(
            f"task {task.name}: its modalities are {', '.join(task.modalities)}, allowed are the model's: "
            f"{', '.join(model.modalities)}"
        )
    for name in task.modalities:
        if task.values[name].shape[1] != model.dims[name]:
            raise ValueError(
                f"task {task.name}: modality {name} has {task.values[name].shape[1]} dimensions, "
                f"the model was trained on {model.dims[name]}"
            )
    columns = [task.modalities.index(name) for name in model.modalities]
    values = {name: task.values[name] for name in model.modalities}
    return replace(task, modalities=tuple(model.modalities), values=values, present=task.present[:, columns])
