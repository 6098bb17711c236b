"""Checksums of the blocks of local shards: each is checked once a reader, when it is first touched.

Far blocks are checked on their way here (`origin.py`); a file on a local disk may be damaged after it was packed.
"""

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


class CheckedBlocks:
    """Stands before a mapped part (`MappedPart.behind`): rows may be read once the checksums of their blocks were
    right. A block that is in place stays, and is not checked again."""

    stays = True

    def __init__(self, part: MappedPart, folder: Path, manifest: Manifest, which: Part) -> None:
        """Nothing is checked yet. Raises ValueError when the table of blocks does not fit the manifest."""
        self._part, self._folder, self._shards = part, folder, shards_of(manifest, which)
        self._bytes, self._block_rows = manifest.geometry.block_bytes, manifest.block_rows
        self._checksums = blocks_of(read_blocks(folder, manifest), manifest, which)["crc32"]
        self._right = np.zeros(len(self._checksums), bool)

    def hold(self, rows: Int64[np.ndarray, " rows"], position: Position | None) -> AbstractContextManager[None]:
        """Check the blocks of these rows. Raises ValueError that names shard and block when a checksum is wrong."""
        if not self._right.all():
            blocks = rows // self._block_rows
            self._check(np.unique(blocks[~self._right[blocks]]))
        return nullcontext()

    def close(self) -> None:
        """Nothing is under way."""

    def _check(self, blocks: np.ndarray) -> None:
        starts, _ = self._part.starts(blocks * self._block_rows)
        step = max(_JOB_BYTES // self._bytes, 1)
        jobs = [list(zip(blocks[i : i + step], starts[i : i + step], strict=True)) for i in range(0, len(blocks), step)]
        run_on_threads(self._check_some, jobs, finished=_nothing, threads=min(_THREADS, available_cores()))

    def _check_some(self, places: list[tuple[np.int64, np.int64]]) -> None:
        for block, start in places:
            if zlib.crc32(self._part.content[start : start + self._bytes].data) != self._checksums[block]:
                raise ValueError(self._sentence(int(block)))
            self._right[block] = True

    def _sentence(self, block: int) -> str:
        for shard in self._shards:
            if block < shard.blocks:
                break
            block -= shard.blocks
        return wrong_checksum(self._folder / shard.path, block)


def _nothing(number: int, result: None) -> None:
    """A job is done."""
