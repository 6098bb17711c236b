"""Mean, spread and range per dimension in float64, merged piece by piece."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

HALVES_AT_ONCE = 1 << 13
"""So many float16 numbers add up exactly in float64."""


@dataclass(frozen=True)
class Moments:
    """Of `count` rows: mean, sum of squared deviations from it, minimum and maximum of each dimension."""

    count: int
    mean: Float64[np.ndarray, " dim"]
    deviation: Float64[np.ndarray, " dim"]
    minimum: Float64[np.ndarray, " dim"]
    maximum: Float64[np.ndarray, " dim"]

    @property
    def std(self) -> Float64[np.ndarray, " dim"]:
        """Population standard deviation; zero for no rows."""
        return np.sqrt(self.deviation / max(self.count, 1))


def no_moments(dim: int) -> Moments:
    """The moments of no rows: zeros, so that they merge with anything and print as numbers."""
    zero = np.zeros(dim)
    return Moments(0, zero, zero, zero, zero)


def moments_of(rows: np.ndarray) -> Moments:
    """The moments of rows [n, dim] of any float type.

    The deviation is taken from the first row and moved to the mean: one pass, and nothing cancels when all are near.
    """
    if len(rows) == 0:
        return no_moments(rows.shape[1])
    exact = rows.astype(np.float64, copy=False)
    gaps = exact - exact[0]
    total = gaps.sum(axis=0)
    deviation = np.einsum("ij,ij->j", gaps, gaps) - np.square(total) / len(rows)
    return Moments(
        len(rows), exact[0] + total / len(rows), np.maximum(deviation, 0), exact.min(axis=0), exact.max(axis=0)
    )


def moments_of_halves(rows: Float64[np.ndarray, "n dim"]) -> Moments:
    """The moments of at most `HALVES_AT_ONCE` rows that were float16 numbers and are now float64.

    Their sum is exact (40 bits and 13 more), and so are squares (22 bits), so that a dimension that never changes
    deviates by exactly nothing and one that does, which in float16 is by 1/2048 of its size at least, loses nothing
    that matters: no need to take the mean off first, which would cost a quarter of the time.
    """
    if len(rows) == 0:
        return no_moments(rows.shape[1])
    total = rows.sum(axis=0)
    deviation = np.einsum("ij,ij->j", rows, rows) - np.square(total) / len(rows)
    return Moments(len(rows), total / len(rows), np.maximum(deviation, 0), rows.min(axis=0), rows.max(axis=0))


def merge(first: Moments, second: Moments) -> Moments:
    """The moments of both sets of rows together.

    Source: Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979,
    equation 2.1.
    """
    if first.count == 0 or second.count == 0:
        return second if first.count == 0 else first
    count = first.count + second.count
    gap = second.mean - first.mean
    return Moments(
        count,
        first.mean + gap * (second.count / count),
        first.deviation + second.deviation + np.square(gap) * (first.count * second.count / count),
        np.minimum(first.minimum, second.minimum),
        np.maximum(first.maximum, second.maximum),
    )


def without(whole: Moments, part: Moments) -> Moments:
    """The moments of the rows of `whole` that are not in `part`; minimum and maximum stay those of the whole.

    `merge` solved for one of its sides, equal up to rounding.
    """
    count = whole.count - part.count
    if count == 0 or part.count == 0:
        return whole if count else no_moments(len(whole.mean))
    mean = (whole.mean * whole.count - part.mean * part.count) / count
    spread = np.square(part.mean - mean) * (count * part.count / whole.count)
    return Moments(count, mean, np.maximum(whole.deviation - part.deviation - spread, 0), whole.minimum, whole.maximum)
