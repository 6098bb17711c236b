"""Vectors that a pack gathers from the file in which they lie, rather than writing them to buckets first.

    every row read once: ids, reasons, row numbers --join--> places --gather from the map--> shards

This saves a write, a read and a removal of their bytes; the price is that the pages of the file count as resident.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dynfusion.store.files import Files, Looks, check_unchanged, looks_of
from dynfusion.store.source import Vectors
from dynfusion.store.sources import Source

_ROW_BYTES = 512
"""Narrower rows are gathered faster from a bucket that fits the cache."""


@dataclass(frozen=True)
class MappedRows:
    """The vectors of one file on disk, mapped once a process; another machine maps them anew. `seen` is how the file
    looked when the pack began."""

    path: Path
    vectors: Vectors
    seen: Looks

    @cached_property
    def rows(self) -> np.ndarray:
        """The file's float16 vectors [rows, dim], read when they are touched."""
        shape = (self.vectors.rows, self.vectors.dim)
        return np.memmap(self.path, "<f2", mode="r", offset=self.vectors.offset, shape=shape).view(np.ndarray)

    def unchanged(self) -> np.ndarray:
        """The same rows, once the file was looked at again: beyond the end of a file that was cut, memory has nothing.

        Raises ValueError when it was changed meanwhile.
        """
        check_unchanged(str(self.path), self.seen, looks_of(os.stat(self.path)))
        return self.rows

    def __reduce__(self) -> tuple[Any, ...]:
        return MappedRows, (self.path, self.vectors, self.seen)


def map_sources(sources: Sequence[Source], files: Files, *, memory_bytes: int) -> Mapping[str, MappedRows]:
    """By name, the sources of one file on disk of wide float16 rows, in their order for as long as all their bytes fit
    the memory."""
    mapped = {}
    for source in sources:
        vectors = _only_file(source)
        path = files.path(vectors.uri) if vectors is not None else None
        if vectors is not None and path is not None and vectors.bytes <= memory_bytes:
            mapped[source.name] = MappedRows(path, vectors, looks_of(os.stat(path)))
            memory_bytes -= vectors.bytes
    return mapped


def _only_file(source: Source) -> Vectors | None:
    found = {piece.lying for piece in source.pieces}
    vectors = found.pop() if len(found) == 1 else None
    return vectors if vectors is not None and 2 * vectors.dim >= _ROW_BYTES else None
