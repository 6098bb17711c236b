"""What a probe is fitted on: small classes, each from what is shown to features.

    "morgan", ...       Single          one modality alone, standardised
    "morgan+selfies"    Joined          several side by side, where all of them are visible
    "concat-mean"       MeanImputed     every modality side by side, the invisible ones at the pool's training mean
    "concat-ridge"      RidgeImputed    the same, the invisible ones predicted from the visible by ridge regression
    "pca-512"           Projected       concat-mean on its leading principal axes in the pool, or on random axes
    "ecfp"              Fingerprint     counts of circular substructures: needs the SMILES and no modality
    "fused"             Fused           (fused.py) the fusion model's embedding of the visible ones
    "late-fusion"       Contestant      not features: the mean prediction of the heads of the visible single modalities

Rows are features of exactly what is visible: a naturally absent cell and a hidden one are treated alike. To add one,
write a class here and give it a line in table.py.
"""

import hashlib
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float

from dynfusion.evaluation.hiding.masks import Shown, donors
from dynfusion.evaluation.representations.imputers import Imputers, impute
from dynfusion.evaluation.tasks.task import TaskData

CONCAT_MEAN = "concat-mean"
CONCAT_RIDGE = "concat-ridge"
LATE_FUSION = "late-fusion"
FUSED = "fused"
PROJECTION_MEAN = "projection-mean"
FINGERPRINT = "ecfp"


@dataclass(frozen=True)
class Features:
    """Features of some rows; `usable` is False where the representation has nothing visible to work with."""

    values: Float[np.ndarray, "rows dim"]
    usable: Bool[np.ndarray, "rows"]


@runtime_checkable
class Representation(Protocol):
    """A way from visible modalities to features."""

    @property
    def name(self) -> str:
        """Unique in an evaluation, several fusion models apart."""
        ...

    def covers(self, visible: tuple[str, ...]) -> bool:
        """Whether it is scored when only these may be visible."""
        ...

    def features(self, task: TaskData, shown: Shown) -> Features:
        """Features of the rows of a standardised task."""
        ...

    def fingerprint(self) -> str:
        """Changes with every number that does not come from the task."""
        ...


@dataclass(frozen=True)
class Contestant:
    """A line of a table: one representation with its head, or several whose heads vote."""

    name: str
    members: tuple[Representation, ...]
    """Predictions are averaged over the members that are usable for a molecule."""
    model: str | None = None
    """Name of the fusion model, None for one that needs none."""
    seed: int = 0
    """Which of the fusion model's training runs, where several differ by their seed; they share the line."""

    def covers(self, visible: tuple[str, ...]) -> bool:
        """Whether some member is scored when only these may be visible."""
        return any(member.covers(visible) for member in self.members)

    def showing(self, visible: tuple[str, ...]) -> "Contestant":
        """The same without the members that are not scored when only these may be visible: they cannot be fitted."""
        covering = tuple(member for member in self.members if member.covers(visible))
        return self if len(covering) == len(self.members) else replace(self, members=covering)

    def fingerprint(self) -> str:
        """Changes with every number that does not come from the task."""
        return "|".join(member.fingerprint() for member in self.members)


def values_of(task: TaskData, shown: Shown, name: str) -> Float[np.ndarray, "rows dim"]:
    """One modality's values of the rows, those of other molecules where it is corrupted."""
    rows = donors(task, name)[shown.rows] if shown.corrupted == name else shown.rows
    return task.values[name][rows]


@dataclass(frozen=True)
class Single:
    """One modality alone."""

    name: str

    def covers(self, visible: tuple[str, ...]) -> bool:
        return self.name in visible

    def features(self, task: TaskData, shown: Shown) -> Features:
        return Features(values_of(task, shown, self.name), shown.visible[:, task.modalities.index(self.name)])

    def fingerprint(self) -> str:
        return self.name


@dataclass(frozen=True)
class Joined:
    """Some modalities side by side, for molecules that show all of them."""

    parts: tuple[str, ...]

    @property
    def name(self) -> str:
        return "+".join(self.parts)

    def covers(self, visible: tuple[str, ...]) -> bool:
        return set(self.parts) <= set(visible)

    def features(self, task: TaskData, shown: Shown) -> Features:
        columns = [task.modalities.index(name) for name in self.parts]
        values = [values_of(task, shown, name) for name in self.parts]
        return Features(np.concatenate(values, axis=1), np.asarray(shown.visible[:, columns].all(axis=1)))

    def fingerprint(self) -> str:
        return self.name


@dataclass(frozen=True)
class MeanImputed:
    """All modalities side by side, zero (the pool's mean) where invisible."""

    name: str = CONCAT_MEAN

    def covers(self, visible: tuple[str, ...]) -> bool:
        return True

    def features(self, task: TaskData, shown: Shown) -> Features:
        values = [
            np.where(shown.visible[:, [column]], values_of(task, shown, name), np.float32(0))
            for column, name in enumerate(task.modalities)
        ]
        return Features(np.concatenate(values, axis=1), np.asarray(shown.visible.any(axis=1)))

    def fingerprint(self) -> str:
        return self.name


@dataclass(frozen=True)
class RidgeImputed:
    """All modalities side by side, the invisible ones predicted from the visible."""

    imputers: Imputers
    name: str = CONCAT_RIDGE

    def covers(self, visible: tuple[str, ...]) -> bool:
        return True

    def features(self, task: TaskData, shown: Shown) -> Features:
        values = {name: values_of(task, shown, name) for name in task.modalities}
        filled = impute(self.imputers, values, shown.visible)
        return Features(np.concatenate(list(filled.values()), axis=1), np.asarray(shown.visible.any(axis=1)))

    def fingerprint(self) -> str:
        return self.imputers.fingerprint


@dataclass(frozen=True)
class Projected:
    """Mean-imputed concatenation on fixed axes."""

    name: str
    axes: Float[np.ndarray, "inputs outputs"]

    def covers(self, visible: tuple[str, ...]) -> bool:
        return True

    def features(self, task: TaskData, shown: Shown) -> Features:
        joined = MeanImputed().features(task, shown)
        return Features(joined.values @ self.axes, joined.usable)

    def fingerprint(self) -> str:
        return hashlib.sha256(np.ascontiguousarray(self.axes).tobytes()).hexdigest()[:16]


@dataclass(frozen=True)
class Fingerprint:
    """ECFP counts of the molecule itself, whatever is hidden; the reference that needs no pretrained encoder."""

    name: str = FINGERPRINT

    def covers(self, visible: tuple[str, ...]) -> bool:
        return False

    def features(self, task: TaskData, shown: Shown) -> Features:
        assert task.structure is not None
        counts = task.structure.fingerprints[shown.rows].astype(np.float32)
        return Features(counts, task.structure.keys[shown.rows] != "")

    def fingerprint(self) -> str:
        return self.name
