"""Vectors in `.npz` archives with their ids inside."""

import math
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
from numpy.lib import format as npy

from dynfusion.store.files import Files
from dynfusion.store.npy_files import FLOATS, Array, array_header, fill, numbers, strings
from dynfusion.store.source import Chunk, OpenedFile, Piece, first_line

_DAMAGED = (
    *(ValueError, EOFError, OSError, KeyError, zipfile.BadZipFile, zlib.error),
    *(RuntimeError, NotImplementedError, MemoryError),  # encrypted, compressed in another way, a size of nonsense
)
"""What `zipfile` and numpy raise for a damaged archive."""


def open_npz(where: str, uri: str, files: Files) -> OpenedFile:
    """A `.npz` archive of `ids` and one array of vectors (named `embeddings`, or the only one with two axes).

    Raises ValueError, naming the file, for anything damaged, pickled or of another shape.
    """
    with _readable(f"{where}: {uri}"), files.open(uri) as file, zipfile.ZipFile(file) as archive:
        headers = {name.removesuffix(".npy"): _member(archive, name) for name in archive.namelist()}
    matrices = [name for name, (shape, _) in headers.items() if len(shape) == 2]
    name = "embeddings" if "embeddings" in matrices else (matrices[0] if len(matrices) == 1 else "")
    if "ids" not in headers or not name:
        raise ValueError(
            f"{where}: {uri} holds arrays {', '.join(headers) or 'none'}, needed are ids and one array of two axes"
        )
    (rows, dim), dtype = headers[name]
    array = Array(uri, 0, dtype, (rows, dim))
    if array.kind not in FLOATS or dim == 0 or headers["ids"][0] != (rows,):
        raise ValueError(
            f"{where}: {uri} holds {dtype} of shape {(rows, dim)} and {headers['ids'][0]} ids, allowed are float16, "
            "float32, float64 or bfloat16 [molecules, dim] and ids [molecules]"
        )
    piece = Piece(uri, 0, rows, rows * array.row_bytes, partial(_read_npz, array, name))
    return OpenedFile(uri, uri, dim, "", (), (piece,))


@contextmanager
def _readable(where: str) -> Iterator[None]:
    """What is raised for a damaged archive, as one sentence; a disk or a store that fails is no fault of it."""
    try:
        yield
    except _DAMAGED as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(f"{where} is not a readable .npz file, {first_line(error)}") from None


def _member(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype]:
    with archive.open(name) as member:
        shape, fortran, dtype = array_header(member)
        begin = member.tell()
    if (fortran and len(shape) > 1) or dtype.hasobject:
        raise ValueError(f"array {name} lies in column order or holds Python objects")
    found, needed = archive.getinfo(name).file_size - begin, math.prod(shape) * dtype.itemsize
    if found < needed:  # before so much memory is asked for
        raise ValueError(f"array {name} is truncated, found {found} bytes of {needed}")
    return shape, dtype


def _read_npz(array: Array, name: str, files: Files, chunk_rows: int) -> Iterator[Chunk]:
    with files.open(array.uri) as file, zipfile.ZipFile(file) as archive:
        with _readable(array.uri), archive.open("ids.npy") as member:
            ids = npy.read_array(member, allow_pickle=False)
        with archive.open(f"{name}.npy") as member:
            array_header(member)
            for first in range(0, array.shape[0], chunk_rows):
                raw = np.empty((min(chunk_rows, array.shape[0] - first), array.row_bytes), np.uint8)
                with _readable(array.uri):
                    fill(member, raw, array.uri)
                yield Chunk(
                    strings(ids[first : first + len(raw)], f"{array.uri}, array ids,"), numbers(raw, array), None, {}
                )
