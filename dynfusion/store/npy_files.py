"""Vectors in `.npy` files, their ids (and SMILES, groups, reasons) beside them."""

import math
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.lib import format as npy

from dynfusion.store.files import Files, folder_of
from dynfusion.store.source import (
    BFLOAT16,
    PIECE_BYTES,
    Chunk,
    OpenedFile,
    Piece,
    Vectors,
    blank_to_null,
    first_line,
    typed,
)
from dynfusion.store.text_lines import Lines, check_text, read_lines, split_lines
from dynfusion.store.texts import array_as_text

VECTORS = "embeddings.npy"
_COMPANIONS = {"smiles": "smiles.txt", "group": "groups.txt"}
FOLDER_FILES = ("ids.txt", "ids.npy", *_COMPANIONS.values(), "reasons.npy", "encoder.txt")
"""What counts beside `VECTORS` when it is there."""
FLOATS = ("float16", "float32", "float64", BFLOAT16)
_MAGIC = b"\x93NUMPY"
_NO_HEADER = (TypeError, SyntaxError, RecursionError, MemoryError, OverflowError, tokenize.TokenError)
"""What numpy raises, besides ValueError, for a header that is no literal of Python."""


@dataclass(frozen=True)
class Array:
    """Where an array lies in a file: bytes from `offset`, numbers of a type (bfloat16 is stored as 2 raw bytes)."""

    uri: str
    offset: int
    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        return self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))

    @property
    def kind(self) -> str:
        """The name of its type; two raw bytes are bfloat16, which is what `ml_dtypes` saves."""
        return BFLOAT16 if self.dtype == np.dtype("V2") else self.dtype.name


def open_npy(where: str, uri: str, files: Files, *, ids_uri: str, in_folder: bool) -> OpenedFile:
    """A `.npy` file whose ids are `ids_uri`; in a folder as `embed` writes it, `smiles.txt` and the like count too.

    Raises ValueError, naming the file, for anything missing, empty, truncated, pickled or of another shape.
    """
    array = read_header(where, uri, files)
    if len(array.shape) != 2 or array.kind not in FLOATS or array.shape[1] == 0:
        raise ValueError(
            f"{where}: {uri} holds {array.dtype} of shape {array.shape}, "
            "allowed is float16, float32, float64 or bfloat16 [molecules, dim]"
        )
    rows, dim = array.shape
    every = max(PIECE_BYTES // max(array.row_bytes, 1), 1)
    folder = folder_of(uri)
    there = set(files.find(folder)) if in_folder else set()
    columns: dict[str, Array | Lines] = {"id": _open_ids(where, ids_uri, files, every)}
    for key, name in _COMPANIONS.items():
        if f"{folder}/{name}" in there:
            columns[key] = read_lines(where, f"{folder}/{name}", files, every=every)
    if f"{folder}/reasons.npy" in there:
        columns["reasons"] = _open_reasons(where, f"{folder}/reasons.npy", files)
    for column in columns.values():
        found, more = (column.rows, column.blank) if isinstance(column, Lines) else (column.shape[0], 0)
        if not found - more <= rows <= found:  # blank lines at the end that are no rows
            raise ValueError(f"{where}: {column.uri} has {found} rows, {uri.rpartition('/')[2]} has {rows}")
    encoder = ""
    if f"{folder}/encoder.txt" in there:
        with files.open(f"{folder}/encoder.txt") as file:
            content = file.read()
        check_text(where, f"{folder}/encoder.txt", content, 0)
        encoder = " ".join(content.decode("utf-8").split())
    lying = Vectors(uri, array.offset, rows, dim) if array.dtype == np.dtype("<f2") else None
    pieces = tuple(
        Piece(
            uri,
            start,
            min(every, rows - start),
            min(every, rows - start) * array.row_bytes,
            partial(_read_rows, array, columns, start, min(start + every, rows)),
            lying=lying,
        )
        for start in range(0, rows, every)
    )
    return OpenedFile(uri, ids_uri, dim, encoder, tuple(key for key in _COMPANIONS if key in columns), pieces)


def read_header(where: str, uri: str, files: Files) -> Array:
    """What a `.npy` file says of itself.

    Raises ValueError when it is missing, empty, something else, truncated, in column order or full of Python objects.
    """
    if not files.find(uri):
        raise ValueError(f"{where}: {uri} is missing")
    with files.open(uri) as file:
        size = file.seek(0, 2)
        file.seek(0)
        if size == 0:
            raise ValueError(f"{where}: {uri} is empty")
        if file.read(6) != _MAGIC:
            raise ValueError(f"{where}: {uri} is not a .npy file (pickles are never read), save it with numpy.save")
        file.seek(0)
        try:
            shape, fortran, dtype = array_header(file)
        except (ValueError, EOFError) as error:
            raise ValueError(f"{where}: {uri} is truncated or holds Python objects, {first_line(error)}") from None
        array = Array(uri, file.tell(), dtype, shape)
    if dtype.hasobject:
        raise ValueError(f"{where}: {uri} is truncated or holds Python objects, which are never read")
    needed = array.offset + array.row_bytes * shape[0] if shape else array.offset + dtype.itemsize
    if size < needed:
        raise ValueError(f"{where}: {uri} is truncated or holds Python objects, found {size} bytes of {needed}")
    if fortran and len(shape) > 1 and 1 not in shape:
        raise ValueError(f"{where}: {uri} lies in column order, save numpy.ascontiguousarray of it")
    return array


def _open_ids(where: str, uri: str, files: Files, every: int) -> Array | Lines:
    if not uri.endswith(".npy"):
        return read_lines(where, uri, files, every=every)
    array = read_header(where, uri, files)
    if len(array.shape) != 1 or array.dtype.kind not in "iuUS":
        raise ValueError(f"{where}: {uri} holds {array.dtype} of shape {array.shape}, allowed is text or integers")
    return array


def _open_reasons(where: str, uri: str, files: Files) -> Array:
    array = read_header(where, uri, files)
    if array.dtype != np.uint8 or len(array.shape) != 1:
        raise ValueError(f"{where}: {uri} holds {array.dtype}, allowed is uint8 [molecules]")
    return array


def array_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether in column order, and type, as the file says from where it stands.

    Raises ValueError or EOFError for a header that is not readable or describes no array.
    """
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    try:
        shape, fortran, dtype = read(file)
    except _NO_HEADER as error:
        raise ValueError(f"its header is not readable, {first_line(error)}") from None
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > sys.maxsize:
        raise ValueError(f"it has the shape {shape}")
    return shape, fortran, dtype


def _read_rows(
    array: Array, columns: dict[str, Array | Lines], start: int, stop: int, files: Files, chunk_rows: int
) -> Iterator[Chunk]:
    """Rows [start, stop) of a `.npy` file; a piece starts where its companions' lines were counted."""
    found = {key: _column(column, start, stop, files) for key, column in columns.items()}
    with files.open(array.uri) as file:
        file.seek(array.offset + start * array.row_bytes)
        buffer = np.empty((min(chunk_rows, stop - start), array.row_bytes), np.uint8)
        for first in range(0, stop - start, chunk_rows):
            rows = min(chunk_rows, stop - start - first)
            raw = buffer[:rows]
            fill(file, raw, array.uri)
            part = slice(first, first + rows)
            reasons = found.get("reasons")
            yield Chunk(
                ids=strings(found["id"][part], columns["id"].uri),
                vectors=numbers(raw, array),
                reasons=None if reasons is None else np.asarray(reasons)[part],
                texts={key: blank_to_null(strings(found[key][part], array.uri)) for key in _COMPANIONS if key in found},
            )


def _column(column: Array | Lines, start: int, stop: int, files: Files) -> pa.Array | np.ndarray:
    with files.open(column.uri) as file:
        if isinstance(column, Array):
            file.seek(column.offset + start * column.dtype.itemsize)
            raw = np.empty((stop - start) * column.dtype.itemsize, np.uint8)
            fill(file, raw, column.uri)
            return raw.view(column.dtype)
        first = start // column.every
        file.seek(column.starts[first])
        return split_lines(file.read(column.starts[first + 1] - column.starts[first]))


def fill(file: Any, raw: np.ndarray, uri: str) -> None:
    """Read exactly these bytes. Raises ValueError when the file ends before."""
    view = memoryview(raw.data).cast("B")
    done = 0
    while done < len(view):
        got = file.readinto(view[done:])
        if not got:
            raise ValueError(f"{uri}: it ended {len(view) - done} bytes too early, it was cut while it was being read")
        done += got


def numbers(raw: np.ndarray, array: Array) -> np.ndarray:
    """Bytes [rows, row_bytes] of an array as its numbers [rows, dim]."""
    return typed(raw, BFLOAT16) if array.kind == BFLOAT16 else raw.view(array.dtype)


def strings(values: np.ndarray | pa.Array, where: str) -> pa.Array:
    """Ids or texts as strings. Raises ValueError, opening with `where`, as `array_as_text`."""
    return values if isinstance(values, pa.Array) else array_as_text(values, where)
