"""Sums over the molecules that each resample drew, for all resamples at once."""

import numpy as np
from jaxtyping import Float, Int64, UInt8, UInt16, UInt32
from scipy.sparse import csr_matrix

_ROWS_AT_ONCE = 2048


def drawn_sums(
    counts: UInt8[np.ndarray, "rows resamples"], *values: Float[np.ndarray, "rows"]
) -> Float[np.ndarray, "values resamples"]:
    """Sum over the drawn molecules of each of the values, for every resample."""
    stacked = np.stack(values)
    total = np.zeros((len(stacked), counts.shape[1]))
    for start in range(0, len(counts), _ROWS_AT_ONCE):
        block = slice(start, start + _ROWS_AT_ONCE)
        total += stacked[:, block] @ counts[block].astype(np.float64)
    return total


def accumulate_rows(values: Float[np.ndarray, "rows columns"]) -> None:
    """Turns the rows into their running sums; several times faster than `cumsum` along the rows of a wide array."""
    for row in range(1, len(values)):
        values[row] += values[row - 1]


def drawn_by_group(
    group: Int64[np.ndarray, "members"],
    rows: Int64[np.ndarray, "members"],
    counts: UInt8[np.ndarray, "rows resamples"],
    *,
    groups: int,
) -> UInt16[np.ndarray, "groups resamples"] | UInt32[np.ndarray, "groups resamples"]:
    """How many molecules of every group are drawn in each resample; `rows[i]` belongs to `group[i]`."""
    sizes = np.bincount(group, minlength=groups)
    most = int(sizes.max(initial=0)) * int(counts.max(initial=0))
    # The product is bound by memory: half as wide is three times as fast.
    ones = np.ones(len(rows), np.uint16 if most < 2**16 else np.uint32)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    members = rows[np.argsort(group, kind="stable")]
    return csr_matrix((ones, members, starts), shape=(groups, len(counts))) @ counts


def ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """top / bottom, NaN where the bottom is not positive."""
    return np.divide(top, bottom, out=np.full(np.shape(bottom), np.nan), where=bottom > 0)
