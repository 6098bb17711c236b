"""Which cells are present, and why the others are not: found once, at pack time, never silently."""

from typing import Literal

import numpy as np
import pyarrow as pa
from jaxtyping import UInt8

from dynfusion.store.reasons import Reason
from dynfusion.store.sources import Source

OnBad = Literal["error", "absent"]
ZeroRows = Literal["keep", "absent"]

_BYTES_AT_ONCE = 1 << 24
_SHOWN_IDS = 3


def find_reasons(source: Source, *, on_bad: OnBad, zero_rows: ZeroRows) -> UInt8[np.ndarray, " rows"]:
    """The `Reason` of every row of a source, 0 where it is present.

    A row of NaN is a failed encoder; a row with some NaN, an infinity or a number that float16 cannot hold is bad.

    Raises ValueError for bad rows under `on_bad="error"`, naming ids, and for reasons outside the table.
    """
    reasons = np.zeros(len(source.ids), np.uint8) if source.reasons is None else np.array(source.reasons)
    if reasons.max() > max(Reason):
        raise ValueError(f"modality {source.name}: reasons.npy holds {reasons.max()}, known are 0 to {max(Reason):d}")
    step = max(_BYTES_AT_ONCE // (source.dim * 4), 1)
    for start in range(0, len(reasons), step):
        piece = slice(start, start + step)
        reasons[piece] = np.where(reasons[piece] > 0, reasons[piece], _reasons_of(source.vectors[piece], zero_rows))
    bad = np.flatnonzero(reasons == Reason.NOT_FINITE)
    if source.reasons is not None:
        bad = bad[np.asarray(source.reasons)[bad] == Reason.PRESENT]
    if bad.size and on_bad == "error":
        shown = ", ".join(source.ids.take(pa.array(bad[:_SHOWN_IDS])).to_pylist())
        raise ValueError(
            f"modality {source.name}: {bad.size} rows of {source.path} have NaN, infinity or numbers beyond float16's "
            f"65504 (ids {shown}{', ...' if bad.size > _SHOWN_IDS else ''}), --on-bad absent leaves them out"
        )
    return reasons


def to_half(vectors: np.ndarray) -> np.ndarray:
    """The vectors as float16; what float16 cannot hold becomes infinite, without a warning."""
    with np.errstate(over="ignore", invalid="ignore"):
        return vectors.astype(np.float16)


def _reasons_of(vectors: np.ndarray, zero_rows: ZeroRows) -> np.ndarray:
    half = to_half(vectors).view(np.uint16)
    odd = ((half & 0x7C00) == 0x7C00).any(axis=1)
    reasons = np.where(odd, Reason.NOT_FINITE, Reason.PRESENT).astype(np.uint8)
    some = np.flatnonzero(odd)
    reasons[some[np.isnan(vectors[some]).all(axis=1)]] = Reason.FAILED
    if zero_rows == "absent":
        reasons[~(vectors != 0).any(axis=1)] = Reason.FAILED
    return reasons
