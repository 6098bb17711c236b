"""What every encoder returns: one vector a molecule, and a reason where there is none."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float16, Float32, UInt8

from dynfusion.store.reasons import Reason

FLOAT16_MAX = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class Encoded:
    """`values`: one vector a molecule, NaN throughout where absent. `reasons`: 0 present, else why it is absent."""

    values: Float32[np.ndarray, "rows dim"]
    reasons: UInt8[np.ndarray, " rows"]


def encode_each(
    smiles: Sequence[str], dim: int, vector: Callable[[str], Float32[np.ndarray, " dim"] | None]
) -> Encoded:
    """Row by row `vector(smiles)`; a row for which it returns None is absent with the reason "encoder failed"."""
    values = np.full((len(smiles), dim), np.nan, np.float32)
    row_reasons = np.full(len(smiles), Reason.PRESENT, np.uint8)
    for row, text in enumerate(smiles):
        row_vector = vector(text)
        if row_vector is None:
            row_reasons[row] = Reason.FAILED
        else:
            values[row] = row_vector
    return Encoded(values, row_reasons)


def to_float16(encoded: Encoded) -> tuple[Float16[np.ndarray, "rows dim"], UInt8[np.ndarray, " rows"]]:
    """Values and reasons as stored: a present row that is not finite or leaves float16's range becomes absent."""
    fits = (np.abs(encoded.values) <= FLOAT16_MAX).all(axis=1)
    row_reasons = encoded.reasons.copy()
    row_reasons[(row_reasons == Reason.PRESENT) & ~fits] = Reason.NOT_FINITE
    present = (row_reasons == Reason.PRESENT)[:, None]
    return np.where(present, encoded.values, np.nan).astype(np.float16), row_reasons


def log_counts(counts: np.ndarray) -> Float32[np.ndarray, "..."]:
    """log(1 + count): large molecules repeat a pattern tens of times, a linear head should not weigh it as much."""
    return np.log1p(counts.astype(np.float32))
