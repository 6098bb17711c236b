"""Vectors in Parquet, Arrow and CSV files: a list column, a binary column or one column per feature."""

import re
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dynfusion.printable import printable
from dynfusion.store.files import Files
from dynfusion.store.source import TEXTS, Chunk, OpenedFile, Piece, binary_width, blank_to_null, typed
from dynfusion.store.table_files import Read, TablePiece, check_once, open_table
from dynfusion.store.texts import as_text

_SHOWN_NAMES = 5
_INDEX = re.compile(r"|index|Unnamed: \d+|level_\d+|__index_level_\d+__")
"""Names under which programs write row numbers."""


@dataclass(frozen=True)
class Shape:
    """Where the vectors stand: one column of lists or bytes, or one column per feature; `dtype` is that of bytes."""

    columns: tuple[str, ...]
    kind: str
    dim: int
    dtype: str


def open_columnar(
    where: str,
    uri: str,
    files: Files,
    *,
    binary_dtype: str,
    like: OpenedFile | None = None,
    elsewhere: Container[str] = (),
) -> OpenedFile:
    """A Parquet, Arrow or CSV file with a column `id` and vectors; `binary_dtype` is the type of vectors in bytes.

    `like` is a file of the same modality: features are read in its order, and vectors that are all missing have its
    width (0 without it). A row without a vector, null or all NaN, is absent, the encoder failed. No feature may have a
    name that is taken `elsewhere`: labels and the split.

    Raises ValueError, naming file and column, for anything that cannot be packed.
    """
    schema, pieces = open_table(where, uri, files, texts=("id", *TEXTS), numbers=float)
    if "id" not in schema.names:
        raise ValueError(f"{where}: {uri} has no column id, found {printable(', '.join(schema.names))}")
    check_once(f"{where}: {uri}", schema, schema.names)
    shape = _find_vectors(f"{where}: {uri}", schema, binary_dtype)
    if shape.kind == "columns":
        _check_features(f"{where}: {uri}", shape.columns, elsewhere)
    if like and like.features and shape.kind == "columns":
        shape = replace(shape, columns=_same_features(f"{where}: {uri}", shape.columns, like))
    texts = tuple(name for name in TEXTS if name in schema.names)
    if shape.kind == "list" and not shape.dim:
        shape = replace(shape, dim=_first_width(pieces, shape, files) or (like.dim if like else 0))
    opened = tuple(
        Piece(
            uri,
            piece.first_row,
            piece.rows,
            piece.bytes,
            partial(_read_chunks, f"{where}: {uri}", piece.read, shape, texts),
        )
        for piece in pieces
    )
    encoder = " ".join((schema.metadata or {}).get(b"encoder", b"").decode("utf-8", "replace").split())
    return OpenedFile(
        uri, uri, shape.dim, encoder, texts, opened, features=shape.columns if shape.kind == "columns" else ()
    )


def _check_features(where: str, names: Sequence[str], elsewhere: Container[str]) -> None:
    """Refuse columns that stand among the features by mistake."""
    for name in names:
        if name in elsewhere:
            raise ValueError(
                f"{where}, column {printable(name)}, is a label, the split or the id of the table and would become a "
                "feature, write the file without it (the table keeps it)"
            )
        if _INDEX.fullmatch(name):
            raise ValueError(
                f"{where}, column {name!r}, looks like row numbers and would become a feature, write the file without "
                "it (pandas: index=False) or, if it is a feature, under another name"
            )


def _same_features(where: str, names: Sequence[str], like: OpenedFile) -> tuple[str, ...]:
    """The names in the order of the other file."""
    more, less = set(names).difference(like.features), set(like.features).difference(names)
    if more or less:
        raise ValueError(
            f"{where} has the features {_some(names, more)} where {like.uri} has "
            f"{_some(like.features, less)}, the files of a modality need the same"
        )
    return like.features


def _some(names: Sequence[str], wanted: Container[str]) -> str:
    """The first of the wanted names."""
    shown = [printable(name) for name in names if name in wanted]
    return ", ".join([*shown[:_SHOWN_NAMES], *(["..."] if len(shown) > _SHOWN_NAMES else [])]) or "none"


def _column(field: pa.Field) -> str:
    return f"column {printable(field.name)}"


def _find_vectors(where: str, schema: pa.Schema, binary_dtype: str) -> Shape:
    others = [field for field in schema if field.name not in ("id", *TEXTS)]
    if len(others) == 1 and pa.types.is_null(others[0].type):  # a writer that saw no vector
        return Shape((others[0].name,), "list", 0, "")
    whole = [field for field in others if pa.types.is_nested(field.type) or pa.types.is_fixed_size_binary(field.type)]
    if len(whole) == 1:
        field = whole[0]
        if pa.types.is_fixed_size_binary(field.type):
            dtype = (field.metadata or {}).get(b"dtype", binary_dtype.encode()).decode("utf-8", "replace")
            dim, rest = divmod(field.type.byte_width, binary_width(dtype))
            if rest:
                raise ValueError(f"{where}, {_column(field)}, holds {field.type}, no whole number of {dtype}")
            return Shape((field.name,), "binary", dim, dtype)
        if not pa.types.is_floating(getattr(field.type, "value_type", pa.null())):
            raise ValueError(
                f"{where}, {_column(field)}, holds {field.type}, allowed is a list of float16, float32 or float64"
            )
        return Shape((field.name,), "list", max(getattr(field.type, "list_size", 0), 0), "")
    if whole or not others:
        raise ValueError(
            f"{where} needs exactly one vector column (a list of floats, bytes, or one column per feature), "
            f"found {[field.name for field in whole] or 'none'}"
        )
    for field in others:
        if not (pa.types.is_floating(field.type) or pa.types.is_integer(field.type)):
            raise ValueError(f"{where}, {_column(field)}, holds {field.type}, a feature is a column of numbers")
    return Shape(tuple(field.name for field in others), "columns", len(others), "")


def _first_width(pieces: Sequence[TablePiece], shape: Shape, files: Files) -> int:
    """Numbers in the first vector that there is, 0 when there is none."""
    for piece in pieces:
        for batch in piece.read(files, 1024):
            column = batch.column(shape.columns[0]).drop_null()
            if len(column):
                return int(pc.list_value_length(column[:1])[0].as_py())
    return 0


def _read_chunks(
    where: str, read: Read, shape: Shape, texts: Sequence[str], files: Files, chunk_rows: int
) -> Iterator[Chunk]:
    for batch in read(files, chunk_rows):
        yield Chunk(
            ids=as_text(batch.column("id"), f"{where}, column id,", numbers="whole"),
            vectors=_vectors(where, batch, shape),
            reasons=None,
            texts={
                name: blank_to_null(as_text(batch.column(name), f"{where}, column {name},", numbers="any"))
                for name in texts
            },
        )


def _vectors(where: str, batch: pa.RecordBatch, shape: Shape) -> np.ndarray:
    """Vectors [rows, dim]; a missing vector becomes a row of NaN."""
    if shape.kind == "columns":
        columns = [batch.column(name).to_numpy(zero_copy_only=False) for name in shape.columns]
        return np.stack(
            [column if column.dtype.kind == "f" else column.astype(np.float64) for column in columns], axis=1
        )
    column = batch.column(shape.columns[0])
    where = f"{where}, column {printable(shape.columns[0])},"
    given = column.is_valid().to_numpy(zero_copy_only=False)
    if not given.any():
        return np.full((len(column), shape.dim), np.nan, np.float32)
    dense = column if given.all() else column.filter(pa.array(given))
    numbers = _bytes_of(dense, shape) if shape.kind == "binary" else _lists_of(where, dense, shape.dim)
    if given.all():
        return numbers
    matrix = np.full((len(column), shape.dim), np.nan, numbers.dtype)
    matrix[given] = numbers
    return matrix


def _bytes_of(column: pa.Array, shape: Shape) -> np.ndarray:
    width = column.type.byte_width
    raw = np.frombuffer(column.buffers()[1], np.uint8)[column.offset * width :][: len(column) * width]
    return typed(raw.reshape(len(column), width), shape.dtype)


def _lists_of(where: str, column: pa.Array, dim: int) -> np.ndarray:
    widths = np.unique(pc.list_value_length(column).to_numpy(zero_copy_only=False))
    if dim == 0 or (widths != dim).any():
        found = ", ".join(map(str, sorted({dim, *widths.tolist()})))
        raise ValueError(f"{where} has vectors of {found} numbers, all need one width")
    flat = column.flatten()
    if flat.null_count:
        raise ValueError(f"{where} has {flat.null_count} missing numbers inside vectors, make the whole vector missing")
    return flat.to_numpy().reshape(-1, dim)
