"""Where a far dataset's bytes come from, checked on the way in. The functions that fetch them are handed in."""

import hashlib
import os
import socket
import zlib
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from pydantic import Field

from dynfusion.settings import Settings
from dynfusion.store.file_lock import locked
from dynfusion.store.manifest import MANIFEST_NAME, FileSpec, Geometry

CONNECTIONS = min(max(4 * (os.cpu_count() or 1), 8), 32)
_ATTEMPTS = 3


class CacheSettings(Settings):
    """Where a far dataset is kept on this node. Its files are shared by every process that names the same folder."""

    cache_dir: str | None = Field(
        default=None, description="folder for a remote data set's shards; without one, blocks are streamed into memory"
    )
    cache_bytes: int = Field(default=1 << 38, ge=1, description="bytes that the folder may hold, over all processes")


@runtime_checkable
class Origin(Protocol):
    """A folder far away. Both functions are called from many threads, retry what passes, and pickle with the object.

    They raise FileNotFoundError when there is no such file, and ValueError, one sentence, for what does not pass.
    """

    def read(self, path: str) -> bytes:
        """The whole of a small file; its path is relative to the folder."""

    def read_range(self, path: str, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of a file; exactly that many."""


@dataclass(frozen=True)
class Remote:
    """What opens a far dataset: its bytes, where to keep them, and how many processes of this run share the node."""

    origin: Origin
    cache: CacheSettings
    processes: int = 1
    manifest_name: str = MANIFEST_NAME


@dataclass(frozen=True)
class Blocks:
    """Consecutive blocks of one shard: the file, the first byte, and each block's checksum; all have one size."""

    path: str
    first_block: int
    start: int
    checksums: Sequence[int]


def fetch_file(origin: Origin, file: FileSpec, where: Path) -> None:
    """Bring a small file to this path, under a temporary name of its own first; whoever calls holds its lock.

    Raises ValueError when it is missing or its checksum stays wrong.
    """
    host = f".{where.name}.{socket.gethostname()}-"
    for _ in range(_ATTEMPTS):
        try:
            content = origin.read(file.path)
        except FileNotFoundError:
            raise ValueError(f"{file.path}: the manifest lists it but the store does not have it") from None
        if hashlib.sha256(content).hexdigest() == file.sha256:
            for left in where.parent.glob(f"{host}*.partial"):
                left.unlink(missing_ok=True)  # its process was killed: the lock is here
            partial = where.with_name(f"{host}{os.getpid()}.partial")
            partial.write_bytes(content)
            partial.replace(where)
            return
    raise ValueError(f"{file.path}: its SHA-256 is not the manifest's, fetched {_ATTEMPTS} times")


def fetch_blocks(origin: Origin, blocks: Blocks, block_bytes: int, *, before: int = 0, behind: int = 0) -> bytes:
    """The bytes of these blocks, and so many before and behind them, every block's checksum verified.

    Raises ValueError when the shard is missing or a checksum stays wrong.
    """
    size = len(blocks.checksums) * block_bytes
    wrong = None
    for _ in range(_ATTEMPTS):
        try:
            content = origin.read_range(blocks.path, blocks.start - before, blocks.start + size + behind)
        except FileNotFoundError:
            raise ValueError(f"shard {blocks.path}: the manifest lists it but the store does not have it") from None
        wrong = _first_wrong(memoryview(content)[before : before + size], blocks.checksums, block_bytes)
        if wrong is None:
            return content
    assert wrong is not None
    raise ValueError(
        f"shard {blocks.path}: the checksum of block {blocks.first_block + wrong} is wrong, fetched {_ATTEMPTS} times; "
        "what the store holds is damaged"
    )


def _first_wrong(content: memoryview, checksums: Sequence[int], block_bytes: int) -> int | None:
    for number, checksum in enumerate(checksums):
        if zlib.crc32(content[number * block_bytes : (number + 1) * block_bytes]) != checksum:
            return number
    return None


def wrong_block(content: np.ndarray, table: np.ndarray, geometry: Geometry) -> int | None:
    """The first block of a shard's bytes whose checksum is not its entry's in the block table."""
    size = geometry.block_bytes
    return _first_wrong(content[geometry.first_block :].data, table["crc32"].tolist(), size)


def fetch_files(origin: Origin, files: Sequence[FileSpec], folder: Path, pool: Executor) -> None:
    """Bring the small files that are not in the folder yet, several at a time; each is brought by one process only.

    Raises ValueError as `fetch_file`.
    """

    def bring(file: FileSpec) -> None:
        with locked(folder / f"{file.path}.lock"):
            if not _is_there(folder / file.path, file):
                fetch_file(origin, file, folder / file.path)

    list(pool.map(bring, [file for file in files if not _is_there(folder / file.path, file)]))


def _is_there(path: Path, file: FileSpec) -> bool:
    if not (path.is_file() and path.stat().st_size == file.bytes):
        return False
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest() == file.sha256
