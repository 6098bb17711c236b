"""ROC-AUC and average precision of every bootstrap resample at once, from one sort of the sample.

    scores of the positives          levels 0..K-1, ascending; positives with one score share a level
    score of a negative              falls between two levels or on one: 2 K + 1 slots
    drawn negatives of every slot    one sparse product: [slots, molecules] of ones by [molecules, resamples] of counts

After that nothing is as long as the sample: both areas are sums over the levels, so their cost follows the number of
positives. What is summed are integers and halves, exact in float64 up to 60 million molecules.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Num, UInt8

from dynfusion.evaluation.scores.drawn import accumulate_rows, drawn_by_group, ratio

_CACHED_VALUES = 2**15
_LEAST_AT_ONCE = 128


@dataclass(frozen=True)
class Areas:
    """Both areas of every resample; NaN where a class was not drawn."""

    roc_auc: Float[np.ndarray, "resamples"]
    """0..1, chance 0.5. Source: the Mann-Whitney statistic, ties counted half (Hanley and McNeil 1982)."""
    pr_auc: Float[np.ndarray, "resamples"]
    """0..1, chance the share of positives. Source: average precision, the sum over distinct scores of precision times
    step in recall, as scikit-learn's `average_precision_score`."""


def areas(
    scores: Float[np.ndarray, "rows"],
    labels: Num[np.ndarray, "rows"] | Bool[np.ndarray, "rows"],
    counts: UInt8[np.ndarray, "rows resamples"],
) -> Areas:
    """Both areas; a label is positive when it is 1 (or True), and a molecule counts as often as it is drawn."""
    positive = labels == 1
    levels, level = np.unique(scores[positive], return_inverse=True)
    others = scores[~positive]
    slot = np.searchsorted(levels, others, "left") + np.searchsorted(levels, others, "right")
    positives = drawn_by_group(level, np.flatnonzero(positive), counts, groups=len(levels))
    negatives = drawn_by_group(slot, np.flatnonzero(~positive), counts, groups=2 * len(levels) + 1)
    roc, precision = np.full((2, counts.shape[1]), np.nan)
    if len(levels):
        at_once = max(_LEAST_AT_ONCE, _CACHED_VALUES // len(levels))
        for start in range(0, counts.shape[1], at_once):
            block = slice(start, start + at_once)
            roc[block], precision[block] = _areas(
                positives[:, block].astype(np.float64), negatives[:, block].astype(np.float64)
            )
    return Areas(roc, precision)


def _areas(
    positives: Float[np.ndarray, "levels resamples"], negatives: Float[np.ndarray, "slots resamples"]
) -> tuple[Float[np.ndarray, "resamples"], Float[np.ndarray, "resamples"]]:
    tied = negatives[1::2]
    lower = negatives[0::2].copy()
    lower[1:] += tied
    accumulate_rows(lower)
    lower, all_negatives = lower[:-1], lower[-1]
    found = positives[::-1].copy()
    accumulate_rows(found)
    found, all_positives = found[::-1], found[-1]
    drawn = found + (all_negatives - lower)
    both = all_positives * all_negatives
    wins = np.einsum("lr,lr->r", positives, lower + tied / 2)
    precision = np.einsum("lr,lr->r", positives, found / np.maximum(drawn, 1))
    return ratio(wins, both), ratio(precision, np.where(both > 0, all_positives, 0))
