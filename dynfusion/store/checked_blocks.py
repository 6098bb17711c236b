"""Checksums of the blocks of local shards: each is checked once an opened dataset, when it is first touched.

Far blocks are checked on their way here (`origin.py`); a file on a local disk may be damaged after it was packed.
"""

import hashlib
import threading
import zlib
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from dynfusion.store.blocks import read_blocks, wrong_checksum
from dynfusion.store.manifest import Manifest
from dynfusion.store.order import Position
from dynfusion.store.part import MappedPart, Part, blocks_of, shards_of
from dynfusion.store.run_jobs import available_cores, run_on_threads

_JOB_BYTES = 16 << 20
_THREADS = 4
_UNCHECKED, _UNDER_WAY, _RIGHT = range(3)


class CheckedBlocks:
    """Stands before a mapped part (`MappedPart.behind`): rows may be read once the checksums of their blocks were
    right. A block that is in place stays, and is not checked again. Safe in threads: none checks what another is at.
    """

    stays = True

    def __init__(self, part: MappedPart, folder: Path, manifest: Manifest, which: Part) -> None:
        """Nothing is checked yet. Raises ValueError when the table of blocks does not fit the manifest."""
        self._part, self._folder, self._manifest, self._shards = part, folder, manifest, shards_of(manifest, which)
        self._bytes, self._block_rows = manifest.geometry.block_bytes, manifest.block_rows
        self._checksums = blocks_of(read_blocks(folder, manifest), manifest, which)["crc32"]
        self._state = np.zeros(len(self._checksums), np.uint8)
        self._left = len(self._checksums)
        self._changed = threading.Condition()

    def hold(self, rows: Int64[np.ndarray, " rows"], position: Position | None) -> AbstractContextManager[None]:
        """Check the blocks of these rows. Raises ValueError that names shard and block when a checksum is wrong."""
        if self._left:
            blocks = rows // self._block_rows
            unsure = self._state[blocks] != _RIGHT
            if unsure.any():
                self._check(np.unique(blocks[unsure]))
        return nullcontext()

    def close(self) -> None:
        """Nothing is under way."""

    def _check(self, blocks: np.ndarray) -> None:
        """Return when all of these are right. What another thread failed at is checked here, and fails here too."""
        while len(blocks):
            with self._changed:
                state = self._state[blocks]
                blocks, mine = blocks[state != _RIGHT], blocks[state == _UNCHECKED]
                if len(mine):
                    self._state[mine] = _UNDER_WAY
                elif len(blocks):
                    self._changed.wait()
            if len(mine):
                self._check_claimed(mine)

    def _check_claimed(self, blocks: np.ndarray) -> None:
        starts, _ = self._part.starts(blocks * self._block_rows)
        step = max(_JOB_BYTES // self._bytes, 1)
        jobs = [list(zip(blocks[i : i + step], starts[i : i + step], strict=True)) for i in range(0, len(blocks), step)]
        try:
            run_on_threads(self._check_some, jobs, finished=_nothing, threads=min(_THREADS, available_cores()))
        finally:
            with self._changed:
                right = self._state[blocks] == _RIGHT
                self._state[blocks[~right]] = _UNCHECKED
                self._left -= int(right.sum())
                self._changed.notify_all()

    def _check_some(self, places: list[tuple[np.int64, np.int64]]) -> None:
        for block, start in places:
            if zlib.crc32(self._part.content[start : start + self._bytes].data) != self._checksums[block]:
                raise ValueError(self._sentence(int(block)))
            self._state[block] = _RIGHT

    def _sentence(self, block: int) -> str:
        """What is damaged: the table of checksums, or the block of a shard."""
        table = self._folder / self._manifest.blocks.path
        with table.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != self._manifest.blocks.sha256:
                return (
                    f"{table}: its SHA-256 is not the manifest's, the file is damaged; copy or pack the data set again"
                )
        for shard in self._shards:
            if block < shard.blocks:
                break
            block -= shard.blocks
        return wrong_checksum(self._folder / shard.path, block)


def _nothing(number: int, result: None) -> None:
    """A job is done."""
