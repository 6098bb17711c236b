"""Whether a head's probabilities are true: Brier score, calibration error, confidence, of every resample.

Labels are binary, missing ones (NaN) left out, and averaged as metrics are (resampling.py); one label of several
classes is taken class by class, each against the rest. Probabilities that stay as they were when inputs disappear are
the failure looked for: confidence should not rise, and calibration error should stay low, as modalities are removed.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, UInt8

from dynfusion.evaluation.scores.drawn import drawn_sums, ratio
from dynfusion.evaluation.scores.resampling import mean_of_defined, outputs_of

BINS = 15
OneOutput = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def brier(
    scores: Float[np.ndarray, "rows outputs"],
    labels: Float[np.ndarray, "rows labels"],
    counts: UInt8[np.ndarray, "rows resamples"],
) -> Float[np.ndarray, "resamples"]:
    """Mean squared error of the probabilities, 0 perfect, 0.25 for a constant one half; NaN where nothing was drawn.

    Source: Brier (1950), the half of it that scikit-learn's `brier_score_loss` returns.
    """
    return _over_outputs(_brier, scores, labels, counts)


def calibration_error(
    scores: Float[np.ndarray, "rows outputs"],
    labels: Float[np.ndarray, "rows labels"],
    counts: UInt8[np.ndarray, "rows resamples"],
) -> Float[np.ndarray, "resamples"]:
    """Expected calibration error over 15 bins of equal mass, 0 perfect, 1 worst; NaN where nothing was drawn.

    Mean over the drawn molecules of |mean probability - share of positives| in their bin. Bins are those of the sample
    in every resample; equal scores share a bin. It is biased upwards when bins hold few molecules, and resamples more
    so: compare it between subsets of one test set, not between sets.

    Source: Naeini et al. (2015); equal mass: Nixon et al. (2019), Measuring Calibration in Deep Learning.
    """
    return _over_outputs(_calibration_error, scores, labels, counts)


def confidence(
    scores: Float[np.ndarray, "rows outputs"],
    labels: Float[np.ndarray, "rows labels"],
    counts: UInt8[np.ndarray, "rows resamples"],
) -> Float[np.ndarray, "resamples"]:
    """Mean probability of the likelier side, 0.5..1, over the molecules whose label is known."""
    return _over_outputs(_confidence, scores, labels, counts)


def _over_outputs(one: OneOutput, scores: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
    if not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError(f"scores: found {scores.min():g} to {scores.max():g}, allowed are probabilities from 0 to 1")
    return mean_of_defined(
        np.stack([one(score, label, counts[known]) for score, label, known in outputs_of(scores, labels)])
    )


def _brier(scores: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return _mean((scores - labels) ** 2, counts)


def _confidence(scores: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return _mean(np.maximum(scores, 1 - scores), counts)


def _calibration_error(scores: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
    if len(scores) == 0:
        return np.full(counts.shape[1], np.nan)
    edges = np.unique(np.quantile(scores, np.arange(1, BINS) / BINS))
    number = np.searchsorted(edges, scores)
    excess = np.zeros((len(edges) + 1, len(scores)))
    excess[number, np.arange(len(scores))] = scores - labels
    *bins, drawn = drawn_sums(counts, *excess, np.ones(len(scores)))
    return ratio(np.abs(bins).sum(axis=0), drawn)


def _mean(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    total, drawn = drawn_sums(counts, values, np.ones(len(values)))
    return ratio(total, drawn)
