"""Choosing from a grid on training and validation rows alone.

the task has labelled validation rows:  fit on the training rows, score the validation rows
it has none (or of one class only):     inner folds of the training rows
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from dynfusion.evaluation.probes.labelled import Labelled, ProbeTask
from dynfusion.evaluation.scores.metrics import PRIMARY
from dynfusion.evaluation.scores.resampling import metric_resamples, once

Curve = Callable[[Labelled, np.ndarray], Iterable[np.ndarray]]
"""(rows to fit, features to score) to scores [rows, outputs] for every entry of the grid, in its order."""


def best_of(
    grid: tuple[float, ...],
    curve: Curve,
    train: Labelled,
    valid: Labelled,
    *,
    target: ProbeTask,
    folds: int,
    seed: int,
) -> float:
    """The entry whose primary metric, averaged over the folds in which it is defined, is highest.

    Ties go to the earlier entry. Where the metric is defined in no fold, or there are
    fewer training rows than folds, it is the middle of the grid. `seed` deals the
    training rows to inner folds.
    """
    if len(grid) == 1:
        return grid[0]
    if len(train[1]) < folds:
        return grid[len(grid) // 2]
    for pairs in (_validation(train, valid), _inner_folds(train, target, folds=folds, seed=seed)):
        found = np.array([_values(curve(fit, check[0]), check[1], target) for fit, check in pairs])
        defined = found[~np.isnan(found).any(axis=1)] if len(found) else found
        if len(defined):
            return grid[int(np.argmax(defined.sum(axis=0)))]
    return grid[len(grid) // 2]


def _values(curve: Iterable[np.ndarray], labels: np.ndarray, target: ProbeTask) -> list[float]:
    counts = once(len(labels))
    return [float(metric_resamples(PRIMARY[target.kind], scores, labels, counts)[0]) for scores in curve]


def _validation(train: Labelled, valid: Labelled) -> Iterator[tuple[Labelled, Labelled]]:
    if not np.isnan(valid[1]).all():
        yield train, valid


def _inner_folds(train: Labelled, target: ProbeTask, *, folds: int, seed: int) -> Iterator[tuple[Labelled, Labelled]]:
    values, labels = train
    for fit, check in _deal(labels, target, folds=folds, seed=seed):
        yield (values[fit], labels[fit]), (values[check], labels[check])


def _deal(labels: np.ndarray, target: ProbeTask, *, folds: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    from sklearn.model_selection import KFold, StratifiedKFold  # takes a second, see scaler.py

    if target.kind != "regression" and labels.shape[1] == 1 and not np.isnan(labels).any():
        smallest = int(np.unique(labels, return_counts=True)[1].min())
        if smallest >= 2:
            dealer = StratifiedKFold(min(folds, smallest), shuffle=True, random_state=seed)
            yield from dealer.split(labels, labels[:, 0])
            return
    if len(labels) >= 2:
        yield from KFold(min(folds, len(labels)), shuffle=True, random_state=seed).split(labels)
