"""How well absent embeddings are filled in: from every visible subset to every modality outside it.

Scored on the test molecules that really have the target and at least one of the visible modalities. Errors are in
standardised units (imputers.py), over dimensions whose pool standard deviation is above 1e-3. Raw cosine never
stands alone: for some encoders a constant already scores above 0.95.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from dynfusion.evaluation.hiding.patterns import subsets
from dynfusion.evaluation.representations.features import Model, standardised, visible_inputs
from dynfusion.evaluation.representations.imputers import STD_FLOOR, Imputers, impute, standardise
from dynfusion.evaluation.scores.resampling import StatisticsSettings, interval, once, resample_counts
from dynfusion.evaluation.tasks.task import TaskData

Record = dict[str, object]


@dataclass(frozen=True)
class Filled:
    """One target on some rows: the truth and three guesses."""

    truth: Float[np.ndarray, "rows dim"]
    """Original units, as is `model`."""
    model: Float[np.ndarray, "rows dim"]
    ridge: Float[np.ndarray, "rows dim"]
    """Standardised units."""


def reconstruction_records(
    model: Model, task: TaskData, imputers: Imputers, *, settings: StatisticsSettings
) -> list[Record]:
    """One record for every (visible subset, absent modality) of a task in original units.

    Cosines are means over molecules, -1..1. `r2` is 1 for perfect and 0 for the best constant of these molecules.
    `skill_mean` and `skill_ridge` are 1 - MSE of the model / MSE of the pool mean or of ridge regression: 1 is perfect,
    0 level, negative worse; with bootstrap intervals over molecules.
    """
    test = task.rows("test")
    counts = resample_counts(task.name, len(test), settings=settings)
    statistics = model.statistics()
    scaled = standardised(task, statistics)
    records: list[Record] = []
    for shown in subsets(task.modalities)[1:]:
        visible = task.present[test] & np.array([name in shown for name in task.modalities])
        usable = np.flatnonzero(visible.any(axis=1))
        rows = test[usable]
        rebuilt = model.reconstruct(*visible_inputs(task, rows, visible[usable]))
        values = {name: scaled.values[name][rows] for name in task.modalities}
        by_ridge = impute(imputers, values, visible[usable])
        for target in (name for name in task.modalities if name not in shown):
            known = task.present[rows, task.modalities.index(target)]
            filled = Filled(task.values[target][rows[known]], rebuilt[target][known], by_ridge[target][known])
            scores = _scores(filled, statistics[target], counts[usable[known]], settings.confidence)
            records.append({"task": task.name, "target": target, "visible": list(shown), **scores})
    return records


def skill_over_mean(
    truth: Float[np.ndarray, "rows dim"],
    guess: Float[np.ndarray, "rows dim"],
    statistics: tuple[np.ndarray, np.ndarray],
) -> float:
    """`skill_mean` alone, of arrays in original units; NaN where the pool mean makes no error."""
    scaled, guessed = standardise(truth, statistics), standardise(guess, statistics)
    return float(_skill(once(len(truth)), _squared(scaled - guessed), _squared(scaled))[0])


def _scores(
    filled: Filled, statistics: tuple[np.ndarray, np.ndarray], counts: np.ndarray, confidence: float
) -> Mapping[str, float | int]:
    mean, std = statistics
    varied = std > STD_FLOOR
    truth, guess = standardise(filled.truth, statistics)[:, varied], standardise(filled.model, statistics)[:, varied]
    error = _squared(truth - guess)
    scores: dict[str, float | int] = {
        "cosine": _mean_cosine(filled.truth, filled.model),
        "centred_cosine": _mean_cosine(filled.truth - mean, filled.model - mean),
        "r2": float(_skill(once(len(truth)), error, _squared(truth - truth.mean(axis=0)))[0])
        if len(truth)
        else float("nan"),
    }
    for name, rival in (("skill_mean", _squared(truth)), ("skill_ridge", _squared(truth - filled.ridge[:, varied]))):
        resampled = _skill(counts, error, rival)
        low, high = interval(resampled, confidence=confidence)
        scores |= {name: float(resampled[0]), f"{name}_low": low, f"{name}_high": high}
    return scores | {"molecules": len(truth)}


def _squared(difference: np.ndarray) -> np.ndarray:
    """Sum of squares per molecule, float64."""
    return np.square(difference, dtype=np.float64).sum(axis=1)


def _skill(counts: np.ndarray, error: np.ndarray, rival: np.ndarray) -> np.ndarray:
    """1 - (error / rival) of every resample; NaN where the rival makes no error at all."""
    bottom = rival @ counts
    return 1 - np.divide(error @ counts, bottom, out=np.full(len(bottom), np.nan), where=bottom > 0)


def _mean_cosine(first: np.ndarray, second: np.ndarray) -> float:
    """Mean over molecules; a zero vector has cosine 0 with everything; NaN without molecules."""
    if len(first) == 0:
        return float("nan")
    first, second = first.astype(np.float64), second.astype(np.float64)
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    products = (first * second).sum(axis=1)
    return float(np.divide(products, norms, out=np.zeros(len(norms)), where=norms > 0).mean())
