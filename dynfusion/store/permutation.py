"""Counter-based permutations: any element of a shuffled range in constant time, nothing held.

    index --split--> (left, right) --six rounds: one side shifted by the other's hash--> join --outside? again-->

The range [0, size) lies inside a rectangle of `height * width` cells that is barely larger (by less than its height),
so the walk over cells outside the range ends at once for nearly every index.
"""

import numpy as np
from jaxtyping import Int64

from dynfusion.store.hashing import mix

_ROUNDS = 6
_HALF = np.uint32(16)
_LARGEST = (1 << 32) - (1 << 16)

Whole = int | np.ndarray


def permute(index: np.ndarray, size: Whole, *, key: Whole) -> Int64[np.ndarray, "*shape"]:
    """Where a keyed pseudo-random permutation of [0, size) sends each index; size and key may differ per element.

    Source: Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002 (generalised Feistel network and
    cycle walking). Sizes up to 2**32 - 2**16.
    """
    return _walk(index, size, key, inverse=False)


def unpermute(index: np.ndarray, size: Whole, *, key: Whole) -> Int64[np.ndarray, "*shape"]:
    """The inverse of `permute` with the same size and key."""
    return _walk(index, size, key, inverse=True)


def _walk(index: np.ndarray, size: Whole, key: Whole, *, inverse: bool) -> np.ndarray:
    """Everything flat and of one length (or a single number), which is what numpy is fast at."""
    sizes = np.atleast_1d(np.asarray(size, dtype=np.int64))
    assert sizes.max() <= _LARGEST, "half a cell number must fit into 16 bits"
    height = np.ceil(np.sqrt(sizes)).astype(np.int64)
    width = -(-sizes // height)
    shape = np.shape(index)
    sides = [_flat(array.astype(np.uint32), shape) for array in (sizes, height, width)]
    keys = [_flat(array, shape) for array in _round_keys(key)]
    cell = _rounds(np.asarray(index).astype(np.uint32).reshape(-1), sides[1], sides[2], keys, inverse)
    outside = np.flatnonzero(cell >= sides[0])
    while outside.size:
        limit, *parts = [array if array.size == 1 else array[outside] for array in (*sides, *keys)]
        again = _rounds(cell[outside], parts[0], parts[1], parts[2:], inverse)
        cell[outside] = again
        outside = outside[again >= limit]
    return cell.astype(np.int64).reshape(shape)


def _round_keys(key: Whole) -> list[np.ndarray]:
    keys = np.atleast_1d(np.asarray(key, dtype=np.uint64))
    return [(mix(keys ^ np.uint64(number)) >> np.uint64(32)).astype(np.uint32) for number in range(_ROUNDS)]


def _flat(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return array.reshape(1) if array.size == 1 else np.broadcast_to(array, shape).reshape(-1)


def _rounds(
    cell: np.ndarray, height: np.ndarray, width: np.ndarray, keys: list[np.ndarray], inverse: bool
) -> np.ndarray:
    left = cell // width
    right = cell - left * width
    for number in reversed(range(_ROUNDS)) if inverse else range(_ROUNDS):
        if number % 2 == 0:
            left = _shift(left, right, height, keys[number], inverse)
        else:
            right = _shift(right, left, width, keys[number], inverse)
    left *= width
    left += right
    return left


def _shift(side: np.ndarray, other: np.ndarray, size: np.ndarray, key: np.ndarray, inverse: bool) -> np.ndarray:
    """`side` plus (or minus) a hash of `other`, modulo `size`, without a division.

    Source of the constants: `lowbias32` of Wellons, "Prospecting for hash functions", 2018.
    """
    number = other ^ key
    number ^= number >> _HALF
    number *= np.uint32(0x7FEB352D)
    number ^= number >> np.uint32(15)
    number *= np.uint32(0x846CA68B)
    number >>= _HALF
    number *= size
    number >>= _HALF
    if inverse:
        np.subtract(size, number, out=number)
    number += side
    return np.minimum(number, number - size)  # unsigned: a difference below zero is the larger one
