"""Vectors in Parquet, Arrow IPC (Feather) and CSV files: a list column, a binary column or one column per feature."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from dynfusion.store.files import Files
from dynfusion.store.source import (
    PIECE_BYTES,
    TEXTS,
    Chunk,
    OpenedFile,
    Piece,
    binary_width,
    blank_to_null,
    first_line,
    typed,
)

_CSV_BLOCK_BYTES = 1 << 23
_MAGIC = b"ARROW1"
Read = Callable[[Files, int], Iterator[pa.RecordBatch]]
"""Batches of the wanted columns, at most so many rows each (an Arrow file keeps its own batches)."""


@dataclass(frozen=True)
class TablePiece:
    """A part of a table: its rows (None when unknown before reading), about its bytes, and how to read it."""

    first_row: int
    rows: int | None
    bytes: int
    read: Read


@dataclass(frozen=True)
class Shape:
    """Where the vectors stand: one column of lists or bytes, or one column per feature; `dtype` is that of bytes."""

    columns: tuple[str, ...]
    kind: str
    dim: int
    dtype: str


def open_columnar(where: str, uri: str, files: Files, *, binary_dtype: str) -> OpenedFile:
    """A Parquet, Arrow or CSV file with a column `id` and vectors; `binary_dtype` is the type of vectors in bytes.

    Raises ValueError, naming file and column, for anything that cannot be packed.
    """
    schema, pieces = open_table(where, uri, files, texts=("id", *TEXTS), numbers=float)
    if "id" not in schema.names:
        raise ValueError(f"{where}: {uri} has no column id, found {', '.join(schema.names)}")
    shape = _find_vectors(f"{where}: {uri}", schema, binary_dtype)
    texts = tuple(name for name in TEXTS if name in schema.names)
    if shape.kind == "list" and not shape.dim:
        shape = Shape(shape.columns, shape.kind, _first_width(f"{where}: {uri}", pieces, shape, files), shape.dtype)
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
    encoder = (schema.metadata or {}).get(b"encoder", b"").decode()
    return OpenedFile(uri, uri, shape.dim, encoder, texts, opened)


def open_table(
    where: str, uri: str, files: Files, *, texts: Sequence[str], numbers: type | None = None
) -> tuple[pa.Schema, tuple[TablePiece, ...]]:
    """The columns of a Parquet, Arrow or CSV file and its pieces.

    In a CSV file the columns `texts` are text; the others are numbers when `numbers` is float, else what they look
    like. Raises ValueError for a file that is empty, damaged or something else.
    """
    kind, opener = _opener(where, uri)
    with files.open(uri) as file:
        if file.seek(0, 2) == 0 and kind != "CSV":
            raise ValueError(f"{where}: {uri} is empty")
        file.seek(0)
        try:
            return opener(uri, file, texts=texts, numbers=numbers)
        except (OSError, pa.ArrowException) as error:
            note = "" if kind == "CSV" else " file (pickles are never read)"
            name = "not readable as CSV" if kind == "CSV" else f"not a readable {kind}"
            raise ValueError(f"{where}: {uri} is {name}{note}, {first_line(error)}") from None


def _opener(where: str, uri: str) -> tuple[str, Callable[..., tuple[pa.Schema, tuple[TablePiece, ...]]]]:
    suffix = uri.rpartition(".")[2].lower()
    if suffix not in KINDS:
        raise ValueError(f"{where}: {uri} is of no known kind, its name must end with {', '.join(SUFFIXES)}")
    return KINDS[suffix]


def _open_parquet(uri: str, file: BinaryIO, **_: Any) -> tuple[pa.Schema, tuple[TablePiece, ...]]:
    parquet = pq.ParquetFile(file)
    pieces, group = [], 0
    first_row = 0
    while group < parquet.num_row_groups:
        groups: list[int] = []
        rows = size = 0
        while group < parquet.num_row_groups and (not groups or size < PIECE_BYTES):
            meta = parquet.metadata.row_group(group)
            groups.append(group)
            rows, size, group = rows + meta.num_rows, size + meta.total_byte_size, group + 1
        pieces.append(TablePiece(first_row, rows, size, partial(_read_parquet, uri, tuple(groups))))
        first_row += rows
    return parquet.schema_arrow, tuple(pieces)


def _read_parquet(uri: str, groups: Sequence[int], files: Files, chunk_rows: int) -> Iterator[pa.RecordBatch]:
    with files.open(uri) as file:
        yield from pq.ParquetFile(file).iter_batches(chunk_rows, row_groups=list(groups), use_threads=False)


def _open_arrow(uri: str, file: BinaryIO, **_: Any) -> tuple[pa.Schema, tuple[TablePiece, ...]]:
    """A file is cut at its batches; a stream (as Hugging Face datasets write it) is one piece."""
    size = file.seek(0, 2)
    file.seek(0)
    if file.read(6) != _MAGIC:
        file.seek(0)
        schema = pa.ipc.open_stream(file).schema
        return schema, (TablePiece(0, None, size, partial(_read_stream, uri)),)
    file.seek(0)
    reader = pa.ipc.open_file(file)
    count = reader.num_record_batches
    step = max(count * PIECE_BYTES // max(size, 1), 1)
    return reader.schema, tuple(
        TablePiece(0, None, size * step // max(count, 1), partial(_read_arrow, uri, start, min(start + step, count)))
        for start in range(0, count, step)
    )


def _read_arrow(uri: str, start: int, stop: int, files: Files, chunk_rows: int) -> Iterator[pa.RecordBatch]:
    with files.open(uri) as file:
        reader = pa.ipc.open_file(file)
        for number in range(start, stop):
            batch = reader.get_batch(number)
            for first in range(0, batch.num_rows, chunk_rows):
                yield batch.slice(first, chunk_rows)


def _read_stream(uri: str, files: Files, chunk_rows: int) -> Iterator[pa.RecordBatch]:
    with files.open(uri) as file:
        for batch in pa.ipc.open_stream(file):
            for first in range(0, batch.num_rows, chunk_rows):
                yield batch.slice(first, chunk_rows)


def _open_csv(
    uri: str, file: BinaryIO, *, texts: Sequence[str], numbers: type | None
) -> tuple[pa.Schema, tuple[TablePiece, ...]]:
    size = file.seek(0, 2)
    file.seek(0)
    names = pa.csv.open_csv(file).schema.names
    types = {name: pa.float64() for name in names} if numbers is float else _looks(file, texts)
    types |= {name: pa.string() for name in names if name in texts}
    schema = pa.schema([pa.field(name, types[name]) for name in names])
    return schema, (TablePiece(0, None, size, partial(_read_csv, uri, types)),)


def _looks(file: BinaryIO, texts: Sequence[str]) -> dict[str, pa.DataType]:
    """The type of each column over the whole file; pyarrow's reader of large files goes by the first block alone."""
    file.seek(0)
    names = pa.csv.open_csv(file).schema.names
    file.seek(0)
    options = pa.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()))
    types = {name: pa.null() for name in names}
    for batch in pa.csv.open_csv(file, pa.csv.ReadOptions(block_size=_CSV_BLOCK_BYTES), convert_options=options):
        for name, column in zip(names, batch.columns, strict=True):
            if name not in texts and types[name] != pa.string():
                types[name] = _wider(types[name], column)
    return types


def _wider(found: pa.DataType, column: pa.Array) -> pa.DataType:
    """The type that holds what was found before and these texts: true/false, numbers, else text."""
    known = column.filter(
        pc.invert(pc.is_in(column, pa.array(["", "NA", "NaN", "nan", "null", "NULL", "N/A", "None"])))
    )
    if not len(known):
        return found
    for kind in (pa.bool_(), pa.float64()):
        if found not in (pa.null(), kind):
            continue
        try:
            pc.cast(known, kind)
        except pa.ArrowInvalid:
            continue
        if kind != pa.bool_() or not pc.all(pc.is_in(known, pa.array(["0", "1"]))).as_py():
            return kind
    return pa.string()


def _read_csv(uri: str, types: dict[str, pa.DataType], files: Files, chunk_rows: int) -> Iterator[pa.RecordBatch]:
    read = pa.csv.ReadOptions(block_size=_CSV_BLOCK_BYTES, use_threads=False)
    convert = pa.csv.ConvertOptions(column_types=types)
    try:
        with files.open(uri) as file:
            for batch in pa.csv.open_csv(file, read_options=read, convert_options=convert):
                for first in range(0, batch.num_rows, chunk_rows):
                    yield batch.slice(first, chunk_rows)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{uri} is not readable as CSV, {first_line(error)}") from None


KINDS = {
    "parquet": ("Parquet", _open_parquet),
    "arrow": ("Arrow", _open_arrow),
    "feather": ("Arrow", _open_arrow),
    "ipc": ("Arrow", _open_arrow),
    "csv": ("CSV", _open_csv),
}
SUFFIXES = (".npy", ".npz", *(f".{suffix}" for suffix in KINDS))


def _find_vectors(where: str, schema: pa.Schema, binary_dtype: str) -> Shape:
    others = [field for field in schema if field.name not in ("id", *TEXTS)]
    whole = [field for field in others if pa.types.is_nested(field.type) or pa.types.is_fixed_size_binary(field.type)]
    if len(whole) == 1:
        field = whole[0]
        if pa.types.is_fixed_size_binary(field.type):
            dtype = (field.metadata or {}).get(b"dtype", binary_dtype.encode()).decode()
            dim, rest = divmod(field.type.byte_width, binary_width(dtype))
            if rest:
                raise ValueError(f"{where}, column {field.name}, holds {field.type}, no whole number of {dtype}")
            return Shape((field.name,), "binary", dim, dtype)
        if not pa.types.is_floating(getattr(field.type, "value_type", pa.null())):
            raise ValueError(
                f"{where}, column {field.name}, holds {field.type}, allowed is a list of float16, float32 or float64"
            )
        return Shape((field.name,), "list", max(getattr(field.type, "list_size", 0), 0), "")
    if whole or not others:
        raise ValueError(
            f"{where} needs exactly one vector column (a list of floats, bytes, or one column per feature), "
            f"found {[field.name for field in whole] or 'none'}"
        )
    for field in others:
        if not (pa.types.is_floating(field.type) or pa.types.is_integer(field.type)):
            raise ValueError(f"{where}, column {field.name}, holds {field.type}, a feature is a column of numbers")
    return Shape(tuple(field.name for field in others), "columns", len(others), "")


def _first_width(where: str, pieces: Sequence[TablePiece], shape: Shape, files: Files) -> int:
    for piece in pieces:
        for batch in piece.read(files, 1024):
            width = pc.list_value_length(batch.column(shape.columns[0])).drop_null()
            if len(width):
                return int(width[0].as_py())
    raise ValueError(f"{where}, column {shape.columns[0]}, has vectors of no numbers, all need one width")


def _read_chunks(
    where: str, read: Read, shape: Shape, texts: Sequence[str], files: Files, chunk_rows: int
) -> Iterator[Chunk]:
    for batch in read(files, chunk_rows):
        yield Chunk(
            ids=batch.column("id").cast(pa.string()),
            vectors=_vectors(where, batch, shape),
            reasons=None,
            texts={name: blank_to_null(batch.column(name).cast(pa.string())) for name in texts},
        )


def _vectors(where: str, batch: pa.RecordBatch, shape: Shape) -> np.ndarray:
    """Vectors [rows, dim]; a missing vector becomes a row of NaN."""
    if shape.kind == "columns":
        columns = [batch.column(name).to_numpy(zero_copy_only=False) for name in shape.columns]
        return np.stack(
            [column if column.dtype.kind == "f" else column.astype(np.float64) for column in columns], axis=1
        )
    column = batch.column(shape.columns[0])
    where = f"{where}, column {shape.columns[0]},"
    given = column.is_valid().to_numpy(zero_copy_only=False)
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
