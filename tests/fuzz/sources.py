"""A modality read to its end, as `pack` reads it."""

from typing import Any

import numpy as np

from dynfusion.store.sources import open_source
from tests.fuzz.judge import Files
from tests.fuzz.memory import memory_files

CHUNK_ROWS = 16


def read_source(uri: str) -> Any:
    """What reads the modality at this address of a case's files."""

    def read(files: Files) -> None:
        read_all(open_source("m", uri, files=memory_files(files)), memory_files(files))

    return read


def read_all(source: Any, files: Any) -> None:
    """Every chunk of every piece, and what must hold of each."""
    for piece in source.pieces:
        for chunk in piece.read(files, CHUNK_ROWS):
            assert len(chunk.ids) == len(chunk.vectors)
            assert chunk.vectors.shape[1] == source.dim
            chunk.ids.to_pylist()
            with np.errstate(invalid="ignore"):  # a NaN that signals
                chunk.vectors.astype(np.float64)
