"""Text files of one string a line: ids, SMILES, groups."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.csv

from dynfusion.store.files import Files

_SCAN_BYTES = 1 << 24
_TAIL_BYTES = 1 << 12
_SEPARATOR = b"\x1f"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Lines:
    """A text file of one string a line: its rows, the byte where every `every`-th row starts (and the end), and how
    many of the last rows are blank."""

    uri: str
    rows: int
    every: int
    starts: tuple[int, ...]
    blank: int


def read_lines(where: str, uri: str, files: Files, *, every: int) -> Lines:
    """Find where the rows of a text file start; the line end may be Windows', the last one may lack it.

    Raises ValueError when it is missing, empty or not UTF-8.
    """
    if not files.find(uri):
        raise ValueError(f"{where}: {uri} is missing")
    rows, at, starts, rest = 0, 0, [0], b""
    with files.open(uri) as file:
        file.seek(-min(_TAIL_BYTES, file.seek(0, 2)), 2)
        blank = _blank_lines(file.read())
        file.seek(0)
        while block := file.read(_SCAN_BYTES):
            block = rest + block
            whole = block[: block.rfind(b"\n") + 1]
            rest = block[len(whole) :]
            check_text(where, uri, whole, at)
            ends = np.flatnonzero(np.frombuffer(whole, np.uint8) == ord("\n")) + 1 + at
            starts += ends[every - 1 - rows % every :: every].tolist()
            rows, at = rows + len(ends), at + len(whole)
    check_text(where, uri, rest, at)
    if rest:
        rows += 1
    if not rows:
        raise ValueError(f"{where}: {uri} is empty")
    starts = [start for start in starts if start < at + len(rest)]
    return Lines(uri, rows, every, (*starts, at + len(rest)), blank)


def _blank_lines(tail: bytes) -> int:
    """How many of the last lines hold nothing but spaces."""
    return next((n for n, line in enumerate(reversed(tail.splitlines())) if line.strip()), 0)


def check_text(where: str, uri: str, block: bytes, at: int) -> None:
    """Raises ValueError, opening with `where`, for bytes that are not UTF-8; `at` is where in the file they begin."""
    try:
        block.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: {uri} is not UTF-8 text, byte {at + error.start} is wrong") from None


def split_lines(text: bytes) -> pa.Array:
    """One string a line, without a byte order mark; through pyarrow's CSV reader, ten times as fast as Python's
    strings."""
    text = text.removeprefix(_BYTE_ORDER_MARK)
    if _SEPARATOR in text or b"\r" in text:
        return pa.array(text.decode("utf-8").replace("\r\n", "\n").removesuffix("\n").split("\n"), pa.string())
    table = pa.csv.read_csv(
        pa.BufferReader(text),
        pa.csv.ReadOptions(column_names=["line"], use_threads=False, block_size=len(text) + 1),
        pa.csv.ParseOptions(delimiter=_SEPARATOR.decode(), quote_char=False, ignore_empty_lines=False),
        pa.csv.ConvertOptions(column_types={"line": pa.string()}, strings_can_be_null=False),
    )
    return table["line"].combine_chunks()
