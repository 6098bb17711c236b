"""Counter-based permutations: any element of a shuffled range in constant time, nothing held.

    index --split--> (left, right) --six rounds: one side shifted by the other's hash--> join --outside? again-->

The range [0, size) lies inside a rectangle of `height * width` cells that is barely larger (by less than its height),
so the walk over cells outside the range ends at once for nearly every index.
"""

import numpy as np
from jaxtyping import Int64

from dynfusion.store.hashing import mix

_ROUNDS = 6
_HALF = np.uint64(32)

Whole = int | np.ndarray


def permute(index: np.ndarray, size: Whole, *, key: Whole) -> Int64[np.ndarray, "*shape"]:
    """Where a keyed pseudo-random permutation of [0, size) sends each index; size and key may differ per element.

    Source: Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002 (generalised Feistel network and
    cycle walking). Sizes up to 2**52.
    """
    return _walk(index, size, key, inverse=False)


def unpermute(index: np.ndarray, size: Whole, *, key: Whole) -> Int64[np.ndarray, "*shape"]:
    """The inverse of `permute` with the same size and key."""
    return _walk(index, size, key, inverse=True)


def _walk(index: np.ndarray, size: Whole, key: Whole, *, inverse: bool) -> np.ndarray:
    cell = np.asarray(index).astype(np.uint64)
    sizes = np.asarray(size, dtype=np.uint64)
    height = np.ceil(np.sqrt(sizes.astype(np.float64))).astype(np.uint64)
    width = (sizes + height - np.uint64(1)) // height
    keys = _round_keys(key)
    cell = _rounds(cell, height, width, keys, inverse)
    outside = np.flatnonzero(cell >= sizes)
    while outside.size:
        parts = [_part(array, cell.shape, outside) for array in (height, width, *keys)]
        again = _rounds(cell.flat[outside], parts[0], parts[1], parts[2:], inverse)
        cell.flat[outside] = again
        outside = outside[again >= _part(sizes, cell.shape, outside)]
    return cell.astype(np.int64)


def _round_keys(key: Whole) -> list[np.ndarray]:
    keys = np.asarray(key, dtype=np.uint64)[None] if np.ndim(key) == 0 else np.asarray(key, dtype=np.uint64)
    return [mix(keys ^ np.uint64(number)) for number in range(_ROUNDS)]


def _part(array: np.ndarray, shape: tuple[int, ...], chosen: np.ndarray) -> np.ndarray:
    return array if array.size == 1 else np.broadcast_to(array, shape).flat[chosen]


def _rounds(
    cell: np.ndarray, height: np.ndarray, width: np.ndarray, keys: list[np.ndarray], inverse: bool
) -> np.ndarray:
    left, right = np.divmod(cell, width)
    for number in reversed(range(_ROUNDS)) if inverse else range(_ROUNDS):
        if number % 2 == 0:
            left = _shift(left, right, height, keys[number], inverse)
        else:
            right = _shift(right, left, width, keys[number], inverse)
    return left * width + right


def _shift(side: np.ndarray, other: np.ndarray, size: np.ndarray, key: np.ndarray, inverse: bool) -> np.ndarray:
    """`side` plus (or minus) a hash of `other`, modulo `size`, without a division."""
    number = (other ^ key) * np.uint64(0xBF58476D1CE4E5B9)
    number ^= number >> _HALF
    number *= np.uint64(0x94D049BB133111EB)
    number >>= _HALF
    number *= size
    number >>= _HALF
    shifted = side + (size - number if inverse else number)
    return np.where(shifted >= size, shifted - size, shifted)
