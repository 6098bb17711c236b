"""Is one representation better than another: two sources of doubt, both must be overcome.

    molecules   which ones are tested: paired bootstrap intervals of the difference (resampling.py), nested in seeds and
                folds by averaging over them inside every resample
    folds       which ones are trained on: the corrected t interval over cross-validation folds (folds.py)

Neither contains the other, and they are not pooled: a difference counts only where both exclude zero on the same side.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from dynfusion.evaluation.scores.folds import FoldDifferences, corrected_difference
from dynfusion.evaluation.scores.resampling import interval


@dataclass(frozen=True)
class Estimate:
    """One number of one representation in the form that keeps comparisons paired."""

    resampled: Float[np.ndarray, "resamples"]
    """The value, then its bootstrap resamples; averaged over tasks, folds and seeds."""
    folds: tuple[Float[np.ndarray, "_"], ...] = ()
    """Per task the value on each fold, averaged over seeds; nothing where there is no cross-validation."""
    test_shares: tuple[float, ...] = ()
    """Per task the share of its molecules that a fold tests."""


@dataclass(frozen=True)
class Verdict:
    """Ours less the other, with both intervals."""

    difference: float
    low: float
    high: float
    """By the bootstrap over molecules."""
    fold_low: float | None
    fold_high: float | None
    """By the corrected t interval over folds; None where some task has fewer than two."""
    p: float | None
    """Of the corrected t-test."""
    tie: bool
    """Whether one of the intervals fails to exclude zero."""


def compare(ours: Estimate, other: Estimate, *, confidence: float) -> Verdict:
    """The paired difference and whether it can be told from zero.

    Raises ValueError where the two were not measured on the same resamples and folds.
    """
    for what, first, second in (
        ("resamples", ours.resampled.shape, other.resampled.shape),
        ("folds per task", [len(values) for values in ours.folds], [len(values) for values in other.folds]),
        ("shares tested by a fold", ours.test_shares, other.test_shares),
    ):
        if first != second:
            raise ValueError(f"a paired comparison needs equal {what}, found {first} and {second}")
    differences = ours.resampled - other.resampled
    low, high = interval(differences, confidence=confidence)
    fold_differences = [
        FoldDifferences(first - second, share)
        for first, second, share in zip(ours.folds, other.folds, ours.test_shares, strict=True)
    ]
    over_folds = corrected_difference(fold_differences, confidence=confidence)
    has_folds = not np.isnan(over_folds.low)
    intervals = [(low, high), *([(over_folds.low, over_folds.high)] if has_folds else [])]
    told_apart = all(below > 0 for below, _ in intervals) or all(above < 0 for _, above in intervals)
    return Verdict(
        difference=float(differences[0]),
        low=low,
        high=high,
        fold_low=over_folds.low if has_folds else None,
        fold_high=over_folds.high if has_folds else None,
        p=over_folds.p if has_folds else None,
        tie=not told_apart,
    )


@dataclass(frozen=True)
class Ranks:
    """Who is best, and who cannot be told from the best."""

    best: str
    ties: tuple[str, ...]
    """Without the best itself; the best stands out (is printed bold) where there is none."""


def best_of(estimates: Mapping[str, Estimate], *, confidence: float, higher_is_better: bool = True) -> Ranks | None:
    """The best of a column of a table; None where fewer than two have a value."""
    defined = {name: estimate for name, estimate in estimates.items() if np.isfinite(estimate.resampled[0])}
    if len(defined) < 2:
        return None
    sign = 1 if higher_is_better else -1
    best = max(defined, key=lambda name: sign * float(defined[name].resampled[0]))
    ties = tuple(
        name
        for name, estimate in defined.items()
        if name != best and compare(defined[best], estimate, confidence=confidence).tie
    )
    return Ranks(best, ties)
