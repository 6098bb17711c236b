"""The fusion model's embedding of a task, computed once for every visible subset: whatever is hidden, a look-up.

A row that shows the subset S has the embedding of the table of S, so that any pattern of hiding is a choice of rows
from 2^M - 1 tables. Only foreign values (a corrupted modality) need a table of their own.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float

from dynfusion.evaluation.hiding.masks import Shown, donors
from dynfusion.evaluation.hiding.patterns import subsets
from dynfusion.evaluation.representations.features import Features
from dynfusion.evaluation.tasks.task import TaskData
from dynfusion.evaluation.threads import one_thread


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


@runtime_checkable
class ProjectingModel(Protocol):
    """A fusion model that shows its modalities in the shared space."""

    def projections(
        self, embeddings: Mapping[str, np.ndarray | None], present: Mapping[str, np.ndarray] | None = None
    ) -> dict[str, np.ndarray]:
        """Per modality float32 [rows, dim of the fused embedding], zero where absent."""
        ...


@dataclass(frozen=True)
class Fused:
    """A fusion model's embedding of one task's rows."""

    name: str
    tables: Mapping[tuple[str, ...], np.ndarray]
    """By visible subset float32 [rows, dim]; zero where a row does not have all of the subset."""
    corrupted: Mapping[str, np.ndarray]
    """By corrupted modality float32 [rows, dim], everything present; empty where corruption is not asked for."""

    def covers(self, visible: tuple[str, ...]) -> bool:
        return True

    def features(self, task: TaskData, shown: Shown) -> Features:
        usable = np.asarray(shown.visible.any(axis=1))
        if shown.corrupted is not None:
            return Features(self.corrupted[shown.corrupted][shown.rows], usable)
        values = np.zeros((len(shown.rows), next(iter(self.tables.values())).shape[1]), dtype=np.float32)
        for subset, table in self.tables.items():
            here = (shown.visible == np.isin(task.modalities, subset)).all(axis=1)
            values[here] = table[shown.rows[here]]
        return Features(values, usable)

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for subset, table in sorted(self.tables.items()):
            digest.update("+".join(subset).encode() + np.ascontiguousarray(table).tobytes())
        for name, table in sorted(self.corrupted.items()):
            digest.update(name.encode() + np.ascontiguousarray(table).tobytes())
        return digest.hexdigest()[:16]


Encode = Callable[[Mapping[str, np.ndarray], Mapping[str, np.ndarray]], np.ndarray]
"""From embeddings and presence by modality to float32 [rows, dim]; every row has something present."""


def embed_task(name: str, encode: Encode, task: TaskData, *, corrupted: bool) -> Fused:
    """The tables of a task in original units."""
    rows = np.arange(len(task.ids))
    tables = {}
    for subset in subsets(task.modalities):
        wanted = np.isin(task.modalities, subset)
        whole = (task.present & wanted == wanted).all(axis=1)
        tables[subset] = embed_rows(encode, task, rows, visible=whole[:, None] & wanted)
    foreign = {}
    for modality in task.modalities if corrupted else ():
        values = {**task.values, modality: task.values[modality][donors(task, modality)]}
        foreign[modality] = embed_rows(encode, replace(task, values=values), rows, visible=task.present)
    return Fused(name, tables, foreign)


def mean_projection(model: ProjectingModel) -> Encode:
    """The mean of the visible modalities' projections: fusion without attention."""

    def encode(embeddings: Mapping[str, np.ndarray], present: Mapping[str, np.ndarray]) -> np.ndarray:
        projections = model.projections(embeddings, present)
        number = np.sum([present[name] for name in projections], axis=0)
        total: np.ndarray = np.sum(list(projections.values()), axis=0)
        return (total / number[:, None]).astype(np.float32)

    return encode


def embed_rows(
    encode: Encode, task: TaskData, rows: np.ndarray, *, visible: Bool[np.ndarray, "rows modalities"]
) -> Float[np.ndarray, "rows dim"]:
    """float32 embeddings of the rows, the same on any number of cores; those with nothing visible are zero."""
    usable = np.asarray(visible.any(axis=1))
    with one_thread():
        shown = encode(*visible_inputs(task, rows[usable], visible[usable]))
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
