"""Mean, spread and range per dimension in float64, merged piece by piece."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64


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
    """The moments of rows [n, dim] of any float type; a dimension that never changes deviates by exactly nothing.

    The deviation is taken from the first row and moved to the mean: one pass, and nothing cancels when all are near.
    """
    if len(rows) == 0:
        return no_moments(rows.shape[1])
    exact = rows.astype(np.float64, copy=False)
    gaps = exact - exact[0]
    total = gaps.sum(axis=0)
    squares = np.einsum("ij,ij->j", gaps, gaps)
    deviation = np.maximum(squares - np.square(total) / len(rows), 0)
    return Moments(len(rows), exact[0] + total / len(rows), deviation, exact.min(axis=0), exact.max(axis=0))


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
