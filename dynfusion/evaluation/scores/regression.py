"""RMSE, R2 and Spearman's rank correlation of every bootstrap resample; counts weigh the molecules.

A resample's ranks are those of the drawn molecules: a molecule drawn twice takes two ranks, and ties share the mean of
theirs (midranks), so the value is that of the sample written out with its repetitions.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64, UInt8

from dynfusion.evaluation.scores.drawn import accumulate_rows, drawn_by_group, drawn_sums, ratio

_CACHED_VALUES = 2**19
_LEAST_AT_ONCE = 64
_RELATIVE_ROUNDING = 1e-12


@dataclass(frozen=True)
class Predictions:
    """Predictions beside labels, in label units."""

    scores: Float[np.ndarray, "rows"]
    labels: Float[np.ndarray, "rows"]
    counts: UInt8[np.ndarray, "rows resamples"]


def rmse(sample: Predictions) -> Float[np.ndarray, "resamples"]:
    """Root of the mean squared error in label units, 0 perfect; NaN where nothing was drawn."""
    squared, drawn = drawn_sums(sample.counts, (sample.scores - sample.labels) ** 2, np.ones(len(sample.labels)))
    return np.sqrt(ratio(squared, drawn))


def r2(sample: Predictions) -> Float[np.ndarray, "resamples"]:
    """1 - squared error / squared error of the best constant of the drawn molecules: 1 perfect, 0 that constant.

    Negative where the predictions are worse than the constant; NaN where all drawn labels are equal.
    """
    centred = sample.labels - sample.labels.mean() if len(sample.labels) else sample.labels
    error, square, linear, drawn = drawn_sums(
        sample.counts, (sample.scores - sample.labels) ** 2, centred**2, centred, np.ones(len(centred))
    )
    spread = square - linear * ratio(linear, drawn)
    return 1 - ratio(error, np.where(spread > _RELATIVE_ROUNDING * square, spread, 0))


def spearman(sample: Predictions) -> Float[np.ndarray, "resamples"]:
    """Spearman's rank correlation, -1..1, of every resample; NaN where all drawn labels are equal.

    Where labels differ and all drawn predictions are equal it is 0, chance, as ROC-AUC is 0.5 there: a constant orders
    nothing. (SciPy calls that undefined.)

    Source: Pearson's correlation of midranks (Spearman 1904), every molecule as often as it is drawn.
    """
    guess, truth = (np.unique(values, return_inverse=True)[1] for values in (sample.scores, sample.labels))
    found = np.full(sample.counts.shape[1], np.nan)
    at_once = max(_LEAST_AT_ONCE, _CACHED_VALUES // max(len(guess), 1))
    for start in range(0, len(found) if len(guess) else 0, at_once):
        block = slice(start, start + at_once)
        counts = np.ascontiguousarray(sample.counts[:, block])
        found[block] = _rank_correlation(guess, truth, counts)
    return found


def _rank_correlation(
    guess: Int64[np.ndarray, "rows"], truth: Int64[np.ndarray, "rows"], counts: UInt8[np.ndarray, "rows resamples"]
) -> Float[np.ndarray, "resamples"]:
    """Of values given as numbers of their levels."""
    guessed, known = _centred_ranks(guess, counts), _centred_ranks(truth, counts)
    weighed = counts * known
    product = np.einsum("nr,nr->r", weighed, guessed)
    spread = np.sqrt(np.einsum("nr,nr->r", weighed, known) * np.einsum("nr,nr,nr->r", counts, guessed, guessed))
    defined = (weighed != 0).any(axis=0)
    return np.where(defined, np.divide(product, spread, out=np.zeros_like(product), where=spread > 0), np.nan)


def _centred_ranks(
    level: Int64[np.ndarray, "rows"], counts: UInt8[np.ndarray, "rows resamples"]
) -> Float[np.ndarray, "rows resamples"]:
    """Twice (midrank - mean rank) of every row among the drawn molecules, a whole number.

    With `until` drawn at or below the row's level, the midrank is (until before + 1 + until) / 2 and the mean rank is
    (all drawn + 1) / 2.
    """
    drawn = drawn_by_group(level, np.arange(len(level)), counts, groups=int(level.max()) + 1).astype(np.float64)
    until = drawn.copy()
    accumulate_rows(until)
    return (2 * until - drawn - until[-1])[level]
