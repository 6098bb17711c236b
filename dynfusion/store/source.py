"""What can be packed, whatever file it comes from: pieces that are read chunk by chunk."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dynfusion.store.files import Files

PIECE_BYTES = 64 << 20
TEXTS = ("smiles", "group")
BFLOAT16 = "bfloat16"
_WIDTHS = {"float16": 2, "float32": 4, "float64": 8, BFLOAT16: 2}


@dataclass(frozen=True)
class Chunk:
    """Some neighbouring rows of a file: ids, vectors [rows, dim] of any float type, and what else is known of them.

    `reasons` (uint8, 0 = present) says why a row is absent. `texts` are the columns of `TEXTS` that the file has (null
    when unknown) or, in a metadata table, all its columns. A table has no vectors. All is valid until the next chunk.
    """

    ids: pa.Array
    vectors: np.ndarray | None
    reasons: np.ndarray | None
    texts: dict[str, pa.Array]


@dataclass(frozen=True)
class Vectors:
    """float16 numbers [rows, dim] as they lie in one file, from byte `offset` on."""

    uri: str
    offset: int
    rows: int
    dim: int

    @property
    def bytes(self) -> int:
        return 2 * self.rows * self.dim


@dataclass(frozen=True)
class Piece:
    """A part of one file that is read at a time: `read(files, chunk_rows)` yields its chunks, at most so long.

    `rows` is None when a file tells only by being read; `bytes` is about what its vectors take in memory. `packed` rows
    come from a packed dataset: their zeros are vectors whatever the settings say. `lying` are the file's vectors where
    they lie as a pack has them, so that row `first_row` is the piece's first.
    """

    uri: str
    first_row: int
    rows: int | None
    bytes: int
    read: Callable[[Files, int], Iterator[Chunk]]
    packed: bool = False
    lying: Vectors | None = None


@dataclass(frozen=True)
class OpenedFile:
    """What is known of one file of vectors before its rows are read; `ids_uri` names where its ids stand, `texts` are
    the columns of `TEXTS` that it has, `features` the names of its numbers in their order where each has a column.
    `dim` is 0 when it has no vector that would tell."""

    uri: str
    ids_uri: str
    dim: int
    encoder: str
    texts: tuple[str, ...]
    pieces: tuple[Piece, ...]
    features: tuple[str, ...] = ()


def typed(raw: np.ndarray, dtype: str) -> np.ndarray:
    """Bytes [rows, bytes] as numbers [rows, dim] of a type of `binary_width`; bfloat16 becomes float32, exactly."""
    if dtype != BFLOAT16:
        return raw.view(dtype)
    return (raw.view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)


def binary_width(dtype: str) -> int:
    """Bytes of one number of a type that vectors may have as bytes.

    Raises ValueError for any other type.
    """
    if dtype not in _WIDTHS:
        raise ValueError(f"binary_dtype: found {dtype!r}, allowed are {', '.join(_WIDTHS)}")
    return _WIDTHS[dtype]


def blank_to_null(column: pa.Array) -> pa.Array:
    """Text in which an empty string means unknown."""
    return pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column)


def first_line(error: Exception) -> str:
    """What a library says, as the end of one sentence."""
    text = str(error)
    return text.splitlines()[0].rstrip(".") if text else "it ends too early"
