"""Absence on purpose: which cells (molecule x modality) of a complete set are taken away, by a hash.

A cell's fate depends on the seed, the molecule's id and the modality's name alone, never on the order or the number
of the others: adding molecules to a set changes nothing for those already in it.
"""

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from jaxtyping import Bool, Float64


def drop_cells(
    ids: Sequence[str],
    modalities: Sequence[str],
    *,
    present: Bool[np.ndarray, "rows modalities"],
    fraction: float,
    seed: int,
) -> Bool[np.ndarray, "rows modalities"]:
    """The present cells to drop: each with probability `fraction`, but a row's last present cell never.

    Where the draw would take all of a row's present cells, the one that was nearest to staying stays. The realised
    share is therefore slightly below `fraction` (for three modalities and 0.15: 0.149).
    Raises ValueError when `fraction` is outside [0, 1).
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"fraction of dropped cells: found {fraction}, allowed is 0 or more and below 1")
    draws = np.where(present, _uniform(ids, modalities, seed), -1.0)
    dropped = present & (draws < fraction)
    emptied = present.any(axis=1) & ~(present & ~dropped).any(axis=1)
    dropped[emptied, draws[emptied].argmax(axis=1)] = False
    return dropped


def _uniform(ids: Sequence[str], modalities: Sequence[str], seed: int) -> Float64[np.ndarray, "rows modalities"]:
    """A number in [0, 1) for every cell, from 53 bits of a hash."""
    digests = b"".join(
        blake2b(f"{seed}\n{modality}\n{name}".encode(), digest_size=8).digest()
        for name in ids
        for modality in modalities
    )
    bits = np.frombuffer(digests, "<u8").reshape(len(ids), len(modalities))
    return (bits >> np.uint64(11)) * 2.0**-53
