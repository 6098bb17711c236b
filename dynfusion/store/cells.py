"""Which cells are present, and why the others are not: found once, at pack time, never silently."""

from typing import Literal

import numpy as np

from dynfusion.store.reasons import Reason

OnBad = Literal["error", "absent"]
ZeroRows = Literal["keep", "absent"]
_INFINITE = 0x7C00


def find_reasons(
    vectors: np.ndarray, half: np.ndarray, *, given: np.ndarray | None, zero_rows: ZeroRows
) -> tuple[np.ndarray, np.ndarray]:
    """The `Reason` of every row of vectors [rows, dim] (0 where present), and which rows are bad, [rows] each.

    `half` are the vectors as float16, `given` the reasons that the source itself gives. A row of NaN is a failed
    encoder; a row with some NaN, an infinity or a number that float16 cannot hold is not finite, and bad; so is a row
    that becomes all zeros in float16 and is not.

    Raises ValueError for given reasons outside the table.
    """
    largest = _largest(half)
    odd = largest >= _INFINITE
    if half is not vectors:
        zeros = np.flatnonzero(largest == 0)
        odd[zeros[(vectors[zeros] != 0).any(axis=1)]] = True
    reasons = np.where(odd, np.uint8(Reason.NOT_FINITE), np.uint8(Reason.PRESENT))
    some = np.flatnonzero(odd)
    reasons[some[np.isnan(vectors[some]).all(axis=1)]] = Reason.FAILED
    if zero_rows == "absent":
        reasons[~(vectors != 0).any(axis=1)] = Reason.FAILED
    if given is not None:
        if given.max(initial=0) > max(Reason):
            raise ValueError(f"reasons.npy holds {given.max()}, known are 0 to {max(Reason):d}")
        reasons = np.where(given > 0, given, reasons)
    bad = reasons == Reason.NOT_FINITE
    return reasons, bad if given is None else bad & (given == Reason.PRESENT)


def to_half(vectors: np.ndarray) -> np.ndarray:
    """The vectors as float16 (the same array when they are); what float16 cannot hold becomes infinite, silently."""
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        return vectors.astype(np.float16, copy=False)


def _largest(half: np.ndarray) -> np.ndarray:
    """The bits of each row's largest number without its sign: 0 when all are zeros, from `_INFINITE` on when there is a
    NaN or an infinity (float16 numbers whose exponent is all ones)."""
    step = max((1 << 20) // max(half.shape[1], 1), 1)
    bits = np.ascontiguousarray(half).view(np.uint16)
    pieces = [(bits[row : row + step] & 0x7FFF).max(axis=1) for row in range(0, len(bits), step)]
    return np.concatenate(pieces) if pieces else np.zeros(0, np.uint16)
