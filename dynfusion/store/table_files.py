"""Parquet, Arrow IPC (Feather) and CSV (or TSV) files as columns, read piece by piece."""

import io
import mmap
import os
from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from dynfusion.printable import quoted
from dynfusion.store.files import Files, check_unchanged, looks_of
from dynfusion.store.read_ahead import csv_reader
from dynfusion.store.source import PIECE_BYTES, first_line

_CSV_BLOCK_BYTES = 1 << 23
_WHOLE_GROUP_BYTES = 8 << 20
_PARQUET_BYTES = 16 << 20
_MAGIC = b"ARROW1"
_MISSING = [*pa.csv.ConvertOptions().null_values, "None"]
"""What stands for no number in a CSV file."""

Read = Callable[[Files, int], Iterator[pa.RecordBatch]]
"""Batches of the wanted columns, at most so many rows each (an Arrow file keeps its own batches)."""


@dataclass(frozen=True)
class TablePiece:
    """A part of a table: its rows (None when unknown before reading), about its bytes, and how to read it."""

    first_row: int
    rows: int | None
    bytes: int
    read: Read


def open_table(
    where: str,
    uri: str,
    files: Files,
    *,
    texts: Sequence[str],
    numbers: type | None = None,
    wanted: Container[str] | None = None,
) -> tuple[pa.Schema, tuple[TablePiece, ...]]:
    """The columns of a Parquet, Arrow or CSV file and its pieces.

    In a CSV file the columns `texts` are text; the others are numbers when `numbers` is float, else what they look
    like. Of an Arrow file, the columns `wanted` (all, if None) are checked before they are given, the others never
    looked at. Raises ValueError for a file that is empty, damaged or something else.
    """
    kind, opener = _opener(where, uri)
    with files.open(uri) as file:
        if file.seek(0, 2) == 0 and kind != "CSV":
            raise ValueError(f"{where}: {uri} is empty")
        file.seek(0)
        with _readable(f"{where}: {uri}", kind):
            schema, pieces = opener(uri, file, texts=texts, numbers=numbers)
            _ = schema.names  # here a name that is not UTF-8 is an error
    return schema, tuple(replace(piece, read=partial(_read_sound, uri, kind, piece.read, wanted)) for piece in pieces)


@contextmanager
def _readable(where: str, kind: str) -> Iterator[None]:
    """What a library says of a damaged file, as one sentence; a disk or a store that fails is no fault of the file."""
    try:
        yield
    except (pa.ArrowException, UnicodeDecodeError, MemoryError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        note = "" if kind == "CSV" else " file (pickles are never read)"
        name = "not readable as CSV" if kind == "CSV" else f"not a readable {kind}"
        said = "it asks for more memory than there is" if isinstance(error, MemoryError) else first_line(error)
        raise ValueError(f"{where} is {name}{note}, {said}") from None


def _read_sound(
    uri: str, kind: str, read: Read, wanted: Container[str] | None, files: Files, chunk_rows: int
) -> Iterator[pa.RecordBatch]:
    """The batches of a piece; of an Arrow file, each once every offset in the wanted columns was found to lie inside:
    Arrow itself follows a wrong one wherever it leads."""
    batches = read(files, chunk_rows)
    while True:
        with _readable(uri, kind):
            batch = next(batches, None)
            if batch is None:
                return
            for name, column in zip(batch.schema.names, batch.columns, strict=True):
                if kind == "Arrow" and (wanted is None or name in wanted):
                    column.validate(full=True)
        yield batch


def check_once(where: str, schema: pa.Schema, names: Sequence[str]) -> None:
    """Raises ValueError for a column that stands more than once."""
    for name, times in Counter(schema.names).items():
        if times > 1 and name in names:
            raise ValueError(f"{where} has the column {quoted(name)} {times} times, each may stand once")


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
    """Small row groups are read whole; of a large one's columns, each through a buffer of its own. Far away, that would
    fetch many columns over and over: there they are read whole."""
    with files.open(uri) as file:
        meta = pq.read_metadata(file)
        largest = max(meta.row_group(group).total_byte_size for group in groups)
        buffer = min(max(_PARQUET_BYTES // max(meta.num_columns, 1), 1 << 14), 1 << 20)
        if largest <= _WHOLE_GROUP_BYTES or (buffer < 1 << 20 and not _is_local(file)):
            buffer = 0
        parquet = pq.ParquetFile(file, metadata=meta, buffer_size=buffer, pre_buffer=False)
        yield from parquet.iter_batches(chunk_rows, row_groups=list(groups), use_threads=False)


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
    with _mapped(uri, files) as (source, forget):
        reader = pa.ipc.open_file(source)
        for number in range(start, stop):
            yield from _slices(reader.get_batch(number), chunk_rows, forget)


def _read_stream(uri: str, files: Files, chunk_rows: int) -> Iterator[pa.RecordBatch]:
    with _mapped(uri, files) as (source, forget):
        for batch in pa.ipc.open_stream(source):
            yield from _slices(batch, chunk_rows, forget)


def _slices(batch: pa.RecordBatch, chunk_rows: int, forget: Callable[[], None]) -> Iterator[pa.RecordBatch]:
    for first in range(0, batch.num_rows, chunk_rows):
        yield batch.slice(first, chunk_rows)
        forget()


@contextmanager
def _mapped(uri: str, files: Files) -> Iterator[tuple[Any, Callable[[], None]]]:
    """What an Arrow reader reads, and a function that lets go of the pages read so far and says when the file changed.

    A local file is mapped: an uncompressed batch, however large, then takes only what is looked at. Any other is read,
    and so is a compressed batch: whole.
    """
    with files.open(uri) as file:
        if not _is_local(file):
            yield file, _nothing
            return
        seen = looks_of(os.fstat(file.fileno()))
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

        def forget() -> None:
            check_unchanged(uri, seen, looks_of(os.fstat(file.fileno())))
            _forget(pages)

        yield pa.BufferReader(pa.py_buffer(pages)), forget


def _is_local(file: BinaryIO) -> bool:
    return isinstance(getattr(file, "raw", None), io.FileIO)


def _forget(pages: mmap.mmap) -> None:
    """The file keeps what they hold: whoever looks again gets it from there."""
    if hasattr(mmap, "MADV_DONTNEED"):
        pages.madvise(mmap.MADV_DONTNEED)


def _nothing() -> None:
    """What was read is let go of without being told."""


def _open_csv(
    uri: str, file: BinaryIO, *, texts: Sequence[str], numbers: type | None, delimiter: str = ","
) -> tuple[pa.Schema, tuple[TablePiece, ...]]:
    size = file.seek(0, 2)
    file.seek(0)
    parse = pa.csv.ParseOptions(delimiter=delimiter)
    with csv_reader(file, parse, read=pa.csv.ReadOptions(use_threads=False)) as reader:
        names = reader.schema.names
    types = {name: pa.float64() for name in names} if numbers is float else _looks(file, names, texts, parse)
    types |= {name: pa.string() for name in names if name in texts}
    schema = pa.schema([pa.field(name, types[name]) for name in names])
    return schema, (TablePiece(0, None, size, partial(_read_csv, uri, types, delimiter)),)


def _looks(
    file: BinaryIO, names: Sequence[str], texts: Sequence[str], parse: pa.csv.ParseOptions
) -> dict[str, pa.DataType]:
    """The type of each column over the whole file; pyarrow's reader of large files goes by the first block alone."""
    file.seek(0)
    convert = pa.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()))
    types = {name: pa.null() for name in names}
    with csv_reader(file, parse, read=pa.csv.ReadOptions(block_size=_CSV_BLOCK_BYTES), convert=convert) as reader:
        for batch in reader:
            for name, column in zip(names, batch.columns, strict=True):
                if name not in texts and types[name] != pa.string():
                    types[name] = _wider(types[name], column)
    return types


def _wider(found: pa.DataType, column: pa.Array) -> pa.DataType:
    """The type that holds what was found before and these texts: true/false, numbers, else text."""
    known = column.filter(pc.invert(pc.is_in(column, pa.array(_MISSING))))
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


def _read_csv(
    uri: str, types: dict[str, pa.DataType], delimiter: str, files: Files, chunk_rows: int
) -> Iterator[pa.RecordBatch]:
    read = pa.csv.ReadOptions(block_size=_CSV_BLOCK_BYTES, use_threads=False)
    convert = pa.csv.ConvertOptions(column_types=types, null_values=_MISSING)
    parse = pa.csv.ParseOptions(delimiter=delimiter)
    with files.open(uri) as file, csv_reader(file, parse, read=read, convert=convert) as reader:
        for batch in reader:
            for first in range(0, batch.num_rows, chunk_rows):
                yield batch.slice(first, chunk_rows)


KINDS: dict[str, tuple[str, Callable[..., tuple[pa.Schema, tuple[TablePiece, ...]]]]] = {
    "parquet": ("Parquet", _open_parquet),
    "arrow": ("Arrow", _open_arrow),
    "feather": ("Arrow", _open_arrow),
    "ipc": ("Arrow", _open_arrow),
    "csv": ("CSV", _open_csv),
    "tsv": ("CSV", partial(_open_csv, delimiter="\t")),
}
SUFFIXES = (".npy", ".npz", *(f".{suffix}" for suffix in KINDS))
