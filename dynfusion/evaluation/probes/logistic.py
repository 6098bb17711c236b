"""The logistic probe: how much a frozen representation says about a label to a linear reader.

    training rows --StandardScaler--> rotation onto their row space --> LogisticRegression per label

The rotation changes nothing but the time: with an L2 penalty the optimal weights lie in the span of the training rows
(representer theorem), so min(rows, dim) coordinates give the same probabilities as all of them. C comes from one grid
shared by all representations and is chosen once per head on training and validation rows alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Float
from pydantic import Field, field_validator
from scipy.linalg import qr
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from dynfusion.evaluation.scores.resampling import metric_resamples, once
from dynfusion.settings import Settings


class ProbeSettings(Settings):
    """How the heads are fitted; the same for every representation."""

    inverse_penalties: tuple[float, ...] = Field(
        (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 1.0), min_length=1, description="grid for C of the logistic probe"
    )
    folds: int = Field(5, ge=2, le=20, description="inner folds that choose C where the task has no validation rows")
    max_iterations: int = Field(2000, ge=100, description="most lbfgs iterations of one fit")

    @field_validator("inverse_penalties")
    @classmethod
    def _positive_and_ascending(cls, grid: tuple[float, ...]) -> tuple[float, ...]:
        if list(grid) != sorted(set(grid)) or grid[0] <= 0:
            raise ValueError(f"found {grid}, allowed are positive numbers in ascending order")
        return grid


Head: TypeAlias = LogisticRegression | float | None
"""A classifier; or the one class that the training rows have; or nothing where they have no label."""
Fold = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
TOLERANCE = 1e-5


@dataclass(frozen=True)
class LogisticProbe:
    """A fitted head: standardise, rotate, then one classifier for every output."""

    scaler: StandardScaler
    rotation: Float[np.ndarray, "dim rank"] | None
    heads: tuple[Head, ...]
    classes: int
    inverse_penalty: float

    def scores(self, values: Float[np.ndarray, "rows dim"]) -> Float[np.ndarray, "rows outputs"]:
        """Probabilities, 0..1: of the positive class per label, or of every class of a multiclass label."""
        return _predict(self.heads, _rotate(self.scaler, self.rotation, values), self.classes)


def prior(labels: Float[np.ndarray, "rows labels"], *, classes: int) -> Float[np.ndarray, "outputs"]:
    """Share of every class among training labels: the score of a molecule that shows nothing."""
    if classes:
        known = labels[~np.isnan(labels[:, 0]), 0]
        return np.bincount(known.astype(int), minlength=classes) / max(len(known), 1)
    return np.array([column[~np.isnan(column)].mean() if not np.isnan(column).all() else 0.5 for column in labels.T])


def fit_logistic(
    train: tuple[np.ndarray, np.ndarray],
    valid: tuple[np.ndarray, np.ndarray],
    *,
    classes: int,
    seed: int,
    settings: ProbeSettings,
) -> LogisticProbe:
    """Head on (features, labels) of training rows; validation rows choose C, inner folds do where there are none.

    `classes` is the number of classes of a multiclass label, 0 for binary labels (one head for each). `seed` deals the
    training rows to inner folds. Ties of the grid go to the smaller C (the stronger penalty). Same bytes on any number
    of cores.
    """
    with threadpool_limits(limits=1):
        return _fit_logistic(train, valid, classes, seed, settings)


def _fit_logistic(
    train: tuple[np.ndarray, np.ndarray],
    valid: tuple[np.ndarray, np.ndarray],
    classes: int,
    seed: int,
    settings: ProbeSettings,
) -> LogisticProbe:
    values, labels = train
    scaler = StandardScaler().fit(values.astype(np.float64))
    scaled = scaler.transform(values.astype(np.float64))
    rotation = _row_space(scaled)
    rotated = scaled if rotation is None else scaled @ rotation
    if len(valid[1]):
        folds = [(rotated, labels, _rotate(scaler, rotation, valid[0]), valid[1])]
    else:
        folds = [
            (rotated[fit], labels[fit], rotated[check], labels[check])
            for fit, check in _inner_folds(labels, folds=settings.folds, seed=seed)
        ]
    inverse_penalty = _choose(folds, classes, settings)
    heads = next(_fits(rotated, labels, (inverse_penalty,), settings.max_iterations))
    return LogisticProbe(scaler, rotation, heads, classes, inverse_penalty)


def _row_space(scaled: np.ndarray) -> np.ndarray | None:
    """Orthonormal basis of the space that the rows span, or None where there are more rows than dimensions."""
    if scaled.shape[0] >= scaled.shape[1]:
        return None
    basis, _ = qr(scaled.T, mode="economic", check_finite=False)
    return basis


def _rotate(scaler: StandardScaler, rotation: np.ndarray | None, values: np.ndarray) -> np.ndarray:
    scaled = scaler.transform(values.astype(np.float64))
    return scaled if rotation is None else scaled @ rotation


def _inner_folds(labels: np.ndarray, *, folds: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    if labels.shape[1] == 1 and not np.isnan(labels).any():
        smallest = int(np.unique(labels, return_counts=True)[1].min())
        if smallest >= 2:
            dealer = StratifiedKFold(min(folds, smallest), shuffle=True, random_state=seed)
            return list(dealer.split(labels, labels[:, 0]))
    return list(KFold(min(folds, len(labels)), shuffle=True, random_state=seed).split(labels))


def _choose(folds: list[Fold], classes: int, settings: ProbeSettings) -> float:
    """The C whose ROC-AUC, averaged over the folds in which it is defined, is largest."""
    grid = settings.inverse_penalties
    if len(grid) == 1:
        return grid[0]
    total, defined = np.zeros(len(grid)), 0
    for values, labels, check_values, check_labels in folds:
        fitted = _fits(values, labels, grid, settings.max_iterations)
        scores = (_predict(heads, check_values, classes) for heads in fitted)
        found = np.array(
            [metric_resamples("roc_auc", score, check_labels, once(len(check_labels)))[0] for score in scores]
        )
        if not np.isnan(found).any():
            total += found
            defined += 1
    return grid[int(np.argmax(total))] if defined else grid[len(grid) // 2]


def _fits(
    values: np.ndarray, labels: np.ndarray, grid: tuple[float, ...], max_iterations: int
) -> Iterator[tuple[Head, ...]]:
    """Heads for every C of an ascending grid, each started where the one before ended; use them before the next."""
    heads = tuple(_unfitted(label, max_iterations) for label in labels.T)
    for inverse_penalty in grid:
        for head, label in zip(heads, labels.T, strict=True):
            if isinstance(head, LogisticRegression):
                rows = ~np.isnan(label)
                head.set_params(C=inverse_penalty).fit(values[rows], label[rows])
        yield heads


def _unfitted(label: np.ndarray, max_iterations: int) -> Head:
    seen = np.unique(label[~np.isnan(label)])
    if len(seen) < 2:
        return float(seen[0]) if len(seen) else None
    return LogisticRegression(warm_start=True, max_iter=max_iterations, tol=TOLERANCE)


def _predict(heads: tuple[Head, ...], rotated: np.ndarray, classes: int) -> np.ndarray:
    if classes == 0:
        return np.stack([_positive(head, rotated) for head in heads], axis=1)
    (head,) = heads
    scores = np.zeros((len(rotated), classes))
    if isinstance(head, LogisticRegression):
        scores[:, head.classes_.astype(int)] = head.predict_proba(rotated)
    elif head is not None:
        scores[:, int(head)] = 1
    return scores


def _positive(head: Head, rotated: np.ndarray) -> np.ndarray:
    if isinstance(head, LogisticRegression):
        return head.predict_proba(rotated)[:, 1]
    return np.full(len(rotated), 0.5 if head is None else head)
