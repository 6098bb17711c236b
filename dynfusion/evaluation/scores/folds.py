"""Differences over cross-validation folds, whose training parts overlap: the corrected resampled t-test.

Folds that share training rows give differences that agree more than independent ones would, so the plain t interval is
too narrow. The correction replaces the variance of the mean, s^2 / J for J folds, by (1 / J + test / train) s^2.

Source: Nadeau and Bengio (2003), Inference for the Generalization Error, Machine Learning 52, 239-281, section 3; its
use over repeated cross-validation: Bouckaert and Frank (2004). Several tasks: Welch (1947) and Satterthwaite (1946).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import stdtr, stdtrit


@dataclass(frozen=True)
class FoldDifferences:
    """Differences of two representations on one task."""

    values: Float[np.ndarray, "folds"]
    """One for every fold of every repeat; NaN where the metric is undefined (left out)."""
    test_share: float
    """Share of the task's molecules that a fold tests: 0.2 in fivefold cross-validation."""

    def __post_init__(self) -> None:
        if not 0 < self.test_share < 1:
            raise ValueError(f"test_share: found {self.test_share}, allowed is above 0 and below 1")


@dataclass(frozen=True)
class FoldInterval:
    """A mean difference and how sure the folds are of it; NaN where a task has fewer than two folds."""

    difference: float
    low: float
    high: float
    p: float
    """Two-sided, of no difference."""
    degrees_of_freedom: float


def corrected_difference(tasks: Sequence[FoldDifferences], *, confidence: float) -> FoldInterval:
    """The mean over tasks of the mean over folds, with the corrected t interval.

    With several tasks the variances of their means are added and divided by the square of their number, and the
    degrees of freedom are Welch's and Satterthwaite's; with one task they are folds - 1.
    """
    found = [one.values[~np.isnan(one.values)] for one in tasks]
    difference = float(np.mean([values.mean() if len(values) else np.nan for values in found])) if found else np.nan
    if not found or min(map(len, found)) < 2:
        return FoldInterval(difference, np.nan, np.nan, np.nan, np.nan)
    freedoms = np.array([len(values) - 1 for values in found])
    variances = (
        np.array(
            [
                (1 / len(values) + one.test_share / (1 - one.test_share)) * values.var(ddof=1)
                for one, values in zip(tasks, found, strict=True)
            ]
        )
        / len(tasks) ** 2
    )
    variance = float(variances.sum())
    if variance == 0:
        return FoldInterval(difference, difference, difference, float(difference == 0), float(freedoms.sum()))
    freedom = variance**2 / float((variances**2 / freedoms).sum())
    error = np.sqrt(variance)
    half = float(stdtrit(freedom, (1 + confidence) / 2) * error)
    p = float(2 * stdtr(freedom, -abs(difference) / error))
    return FoldInterval(difference, difference - half, difference + half, p, freedom)
