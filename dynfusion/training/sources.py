"""The data sets of a run taken together: what their modalities are, and who they are."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from dynfusion.store.dataset import Dataset
from dynfusion.store.manifest import ModalitySpec
from dynfusion.store.statistics import Moments, merge


@dataclass(frozen=True)
class Sources:
    """Data sets with the same modalities, and how often an epoch passes over each."""

    datasets: tuple[Dataset, ...]
    weights: tuple[float, ...]

    @property
    def fingerprint(self) -> str:
        """Of the content: the data set's own, or one of all and their weights."""
        if len(self.datasets) == 1:
            return self.datasets[0].manifest.fingerprint
        parts = [f"{d.manifest.fingerprint} {w!r}" for d, w in zip(self.datasets, self.weights, strict=True)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    @property
    def rows(self) -> int:
        return sum(dataset.manifest.rows for dataset in self.datasets)

    @property
    def modalities(self) -> tuple[ModalitySpec, ...]:
        """Names and widths, with the statistics of all training rows together."""
        every = [dataset.manifest.modalities for dataset in self.datasets]
        return every[0] if len(every) == 1 else tuple(_together(specs) for specs in zip(*every, strict=True))


def join(datasets: Sequence[Dataset], weights: Sequence[float]) -> Sources:
    """The data sets as one; `weights` may be empty, which is 1 for each.

    Raises ValueError when their modalities differ or there are not as many weights as data sets.
    """
    if weights and len(weights) != len(datasets):
        raise ValueError(f"setting data.weights: found {len(weights)} of them, allowed are {len(datasets)} or none")
    first = datasets[0]
    wanted = {spec.name: spec.dim for spec in first.manifest.modalities}
    for dataset in datasets[1:]:
        found = {spec.name: spec.dim for spec in dataset.manifest.modalities}
        if list(found.items()) != list(wanted.items()):
            raise ValueError(
                f"setting data.uri: {dataset.uri} has the modalities {_listed(found)}, allowed are those of "
                f"{first.uri} in their order, {_listed(wanted)}"
            )
    return Sources(tuple(datasets), tuple(weights) or (1.0,) * len(datasets))


def _together(specs: Sequence[ModalitySpec]) -> ModalitySpec:
    moments = reduce(merge, [_moments(spec) for spec in specs])
    update = {
        "mean": tuple(moments.mean.tolist()),
        "std": tuple(moments.std.tolist()),
        "minimum": tuple(moments.minimum.tolist()),
        "maximum": tuple(moments.maximum.tolist()),
        "present_rows": moments.count,
    }
    return specs[0].model_copy(update=update)


def _moments(spec: ModalitySpec) -> Moments:
    mean, std, minimum, maximum = (np.array(part) for part in (spec.mean, spec.std, spec.minimum, spec.maximum))
    return Moments(spec.present_rows, mean, np.square(std) * spec.present_rows, minimum, maximum)


def _listed(dims: dict[str, int]) -> str:
    return ", ".join(f"{name} {dim}" for name, dim in dims.items())
