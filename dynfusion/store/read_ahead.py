"""Files that a library reads ahead in a thread of its own: the end of that, before anybody else goes on."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.csv


class _Readable:
    """A file of which nothing more is read once it was ended."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._lock, self._ended = file, threading.Lock(), False

    def read(self, size: int = -1) -> bytes:
        with self._lock:
            return b"" if self._ended else self._file.read(size)

    def end(self) -> None:
        with self._lock:
            self._ended = True

    def close(self) -> None:
        """Whoever opened the file closes it."""


@contextmanager
def csv_reader(
    file: BinaryIO,
    parse: pa.csv.ParseOptions,
    *,
    read: pa.csv.ReadOptions | None = None,
    convert: pa.csv.ConvertOptions | None = None,
) -> Iterator[Any]:
    """pyarrow's streaming reader of a CSV file, from where the file stands.

    It reads ahead in a thread, even when nobody wants more. One that still wants the interpreter's lock while the
    interpreter ends kills the process ("terminate called without an active exception"), and one that reads on moves the
    place in a file that others read: leaving the `with` ends both.
    """
    readable = _Readable(file)
    try:
        with pa.csv.open_csv(readable, read, parse, convert) as reader:
            yield reader
    finally:
        readable.end()
