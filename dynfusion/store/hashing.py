"""Counter-based hashing on whole arrays: keys from text, one 64-bit hash per number or per string.

Equal on every machine and in every process (Python's own `hash` is not).
"""

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import UInt64

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_STRINGS_AT_ONCE = 1 << 16


def key_of(*parts: object) -> int:
    """One 64-bit key from the text of its parts, for seeding `mix` and the permutations."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def mix(counter: UInt64[np.ndarray, "*shape"]) -> UInt64[np.ndarray, "*shape"]:
    """A bijection of 64-bit numbers whose output bits all depend on all input bits.

    Source: the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014, doi:10.1145/2660193.2660195).
    """
    z = counter + _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def hash_strings(strings: pa.Array | pa.ChunkedArray, *, key: int) -> UInt64[np.ndarray, " rows"]:
    """One 64-bit hash per string, the same whatever the other strings are; a null hashes as the empty string.

    Every (byte, place in the string) pair has its own pseudo-random number; a string's hash is the mixed sum of them
    (tabulation hashing, Zobrist 1970), so that the work is a handful of passes over the bytes.
    """
    if isinstance(strings, pa.ChunkedArray):
        strings = strings.combine_chunks()
    pieces = [
        _hash_piece(strings.slice(start, _STRINGS_AT_ONCE), key) for start in range(0, len(strings), _STRINGS_AT_ONCE)
    ]
    return np.concatenate(pieces) if pieces else np.empty(0, np.uint64)


def _hash_piece(strings: pa.Array, key: int) -> UInt64[np.ndarray, " rows"]:
    whole = pa.concat_arrays([pc.fill_null(strings.cast(pa.large_string()), "")])
    _, offsets_buffer, data_buffer = whole.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int64)[whole.offset : whole.offset + len(whole) + 1]
    data = np.frombuffer(data_buffer or b"", np.uint8)[offsets[0] : offsets[-1]]
    lengths = np.diff(offsets)
    place = np.arange(len(data)) - np.repeat(offsets[:-1] - offsets[0], lengths)
    numbers = mix((place.astype(np.uint64) << np.uint64(8) | data) ^ np.uint64(key))
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(numbers, dtype=np.uint64)])
    ends = offsets - offsets[0]
    return mix((sums[ends[1:]] - sums[ends[:-1]]) ^ mix(lengths.astype(np.uint64) ^ np.uint64(key)))
