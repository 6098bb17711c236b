"""The kNN probe: what the geometry of a representation says, with nothing learned but k.

    standardise --> unit length --> the k most similar training rows --> mean label, weighted by 1 / cosine distance

A label takes its neighbours among the training rows in which it is known.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from threadpoolctl import threadpool_limits

from dynfusion.evaluation.probes.labelled import Labelled, ProbeTask, indicators
from dynfusion.evaluation.probes.prior import prior
from dynfusion.evaluation.probes.scaler import mean_and_scale
from dynfusion.evaluation.probes.selection import best_of
from dynfusion.evaluation.settings import ProbeSettings

ROWS_AT_ONCE = 512
LEAST_DISTANCE = 1e-6
"""Rounding of a cosine in single precision: below it two rows are one."""


@dataclass(frozen=True)
class NeighboursHead:
    """Training rows and their labels."""

    mean: Float[np.ndarray, " dim"]
    scale: Float[np.ndarray, " dim"]
    unit: Float32[np.ndarray, "rows dim"]
    values: Float[np.ndarray, "rows outputs"]
    """0 or 1 (one-hot for classes) or real numbers; 0 where unknown."""
    known: Bool[np.ndarray, "rows outputs"]
    prior: Float[np.ndarray, " outputs"]
    """What is said of an output that no training row knows."""
    neighbours: tuple[int, ...]

    def scores(self, values: Float[np.ndarray, "rows dim"]) -> Float[np.ndarray, "rows outputs"]:
        """Probabilities 0..1 of the positive class or of every class, or predictions in units of the labels."""
        with threadpool_limits(limits=1):
            return self.curve(values)[-1]

    def curve(self, values: Float[np.ndarray, "rows dim"]) -> Float[np.ndarray, "grid rows outputs"]:
        """Scores for every k."""
        found = np.tile(self.prior, (len(self.neighbours), len(values), 1))
        unit = _unit(values, self.mean, self.scale)
        for start in range(0, len(unit), ROWS_AT_ONCE):
            block = slice(start, start + ROWS_AT_ONCE)
            similarity = unit[block] @ self.unit.T
            for outputs, rows in self._alike():
                known = similarity if len(rows) == similarity.shape[1] else similarity[:, rows]
                found[:, block, outputs] = self._means(known, self.values[np.ix_(rows, outputs)])
        return found

    def _alike(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Outputs that are known in the same training rows, with these rows, where there are any."""
        patterns, group = np.unique(self.known, axis=1, return_inverse=True)
        for number, pattern in enumerate(patterns.T):
            if pattern.any():
                yield np.flatnonzero(group == number), np.flatnonzero(pattern)

    def _means(self, similarity: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Weighted mean label [grid, rows, outputs] of the nearest."""
        most = min(self.neighbours[-1], similarity.shape[1])
        cosine, nearest = (part.numpy() for part in torch.topk(torch.from_numpy(similarity), most, dim=1))
        weight = 1 / np.maximum(1 - cosine.astype(np.float64), LEAST_DISTANCE)
        total = np.cumsum(weight[:, :, None] * values[nearest], axis=1) / np.cumsum(weight, axis=1)[:, :, None]
        return np.stack([total[:, min(k, most) - 1] for k in self.neighbours])


class NeighboursProbe:
    """k nearest neighbours by cosine; its hyper-parameter is `neighbours`, the k."""

    def choose(
        self, train: Labelled, valid: Labelled, *, target: ProbeTask, seed: int, settings: ProbeSettings
    ) -> dict[str, float]:
        """The k of the grid that does best on validation rows, else over inner folds; ties to the smaller."""

        def curve(fit: Labelled, check: np.ndarray) -> np.ndarray:
            return _head(fit, target, settings.neighbours).curve(check)

        grid = tuple(float(k) for k in settings.neighbours)
        with threadpool_limits(limits=1):
            best = best_of(grid, curve, train, valid, target=target, folds=settings.folds, seed=seed)
        return {"neighbours": best}

    def fit(
        self, train: Labelled, *, target: ProbeTask, chosen: Mapping[str, float], seed: int, settings: ProbeSettings
    ) -> NeighboursHead:
        """The head with the chosen k, whatever the seed."""
        return _head(train, target, (int(chosen["neighbours"]),))


def _head(train: Labelled, target: ProbeTask, neighbours: tuple[int, ...]) -> NeighboursHead:
    values, labels = train
    mean, scale = mean_and_scale(values)
    unit = _unit(values, mean, scale)
    return NeighboursHead(mean, scale, unit, *indicators(labels, target), prior(labels, target), neighbours)


def _unit(values: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> Float32[np.ndarray, "rows dim"]:
    scaled = (values - mean) / scale
    norms = np.linalg.norm(scaled, axis=1, keepdims=True)
    return np.divide(scaled, norms, out=np.zeros_like(scaled), where=norms > 0).astype(np.float32)
