"""Whole shards of a far dataset, brought into the shared cache in the order in which a reader will need them.

    shards in order of first use --two at a time--> ranges of 8-16 MB --many at a time--> checksums --> temporary file
        --> its name in the cache --> its place in memory

A shard that another process is bringing is left to it and looked at again later.
"""

import os
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from dynfusion.store.cache import is_verified, is_whole, mark_verified
from dynfusion.store.file_lock import take_lock
from dynfusion.store.manifest import Manifest, ShardSpec
from dynfusion.store.mapping import MappedFiles
from dynfusion.store.order import Position
from dynfusion.store.origin import CONNECTIONS, Blocks, Origin, fetch_blocks
from dynfusion.store.part import Part, blocks_of, shards_of
from dynfusion.store.shard import check_shard

RANGE_BYTES = 12 << 20
_SHARDS_AT_ONCE = 2
_LOOK_AGAIN_SECONDS = 0.05


class WholeShards:
    """The shards of one part; `files.content` is their memory, readable where `hold` says so."""

    stays = True

    def __init__(self, origin: Origin, manifest: Manifest, part: Part, *, folder: Path, table: np.ndarray) -> None:
        """`folder` is the dataset's in the cache, `table` the table of all blocks. Nothing is brought yet."""
        self._origin = origin
        self._manifest = manifest
        self._folder = folder
        self._shards = shards_of(manifest, part)
        counts = [shard.blocks for shard in self._shards]
        self._shard_of_block = np.repeat(np.arange(len(counts)), counts)
        self._tables = np.split(blocks_of(table, manifest, part), np.cumsum(counts)[:-1])
        self.files = MappedFiles([shard.bytes for shard in self._shards])
        self._changed = threading.Condition()
        self._placed = np.zeros(len(self._shards), bool)
        self._queue: deque[int] = deque()
        self._begun: set[int] = set()
        self._failure: BaseException | None = None
        self._closed = threading.Event()
        self._whole = ThreadPoolExecutor(_SHARDS_AT_ONCE, thread_name_prefix="shards")
        self._ranges = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="ranges")

    def bring(self, blocks: Int64[np.ndarray, " blocks"]) -> None:
        """Begin to bring the shards of these blocks, in this order, before those that were asked for earlier."""
        wanted = list(dict.fromkeys(self._shard_of_block[blocks].tolist()))
        with self._changed:
            ahead = [shard for shard in wanted if not self._placed[shard] and shard not in self._begun]
            others = [shard for shard in self._queue if shard not in set(ahead)]
            new = len(ahead) + len(others) - len(self._queue)
            self._queue = deque([*ahead, *others])
            for _ in range(new):
                self._whole.submit(self._bring_next).add_done_callback(self._note)

    def hold(self, rows: np.ndarray, position: Position | None) -> AbstractContextManager[None]:
        """Wait for the shards of these rows; whole shards stay."""
        if not self._placed.all():
            blocks = np.unique(rows // self._manifest.block_rows)
            if not self._placed[self._shard_of_block[blocks]].all():
                self._wait(blocks)
        return nullcontext()

    def _wait(self, blocks: np.ndarray) -> None:
        shards = np.unique(self._shard_of_block[blocks])
        self.bring(blocks)
        with self._changed:
            self._changed.wait_for(lambda: self._placed[shards].all() or self._failure or self._closed.is_set())
            if self._placed[shards].all():
                return
            if self._failure:
                raise self._failure
        raise ValueError("data set: it was closed while its shards were being read")

    def close(self) -> None:
        """Stop bringing; what is under way ends first."""
        self._closed.set()
        with self._changed:
            self._queue.clear()
            self._changed.notify_all()
        self._whole.shutdown(wait=True, cancel_futures=True)
        self._ranges.shutdown(wait=True, cancel_futures=True)

    def _note(self, done: "Future[None]") -> None:
        with self._changed:
            if not done.cancelled() and (failure := done.exception()) is not None:
                self._failure = self._failure or failure
            self._changed.notify_all()

    def _bring_next(self) -> None:
        """The next shard that no other process is bringing."""
        while not self._closed.is_set():
            with self._changed:
                if not self._queue:
                    return
                number = self._queue.popleft()
                self._begun.add(number)
            if self._bring_shard(number):
                return
            with self._changed:
                self._begun.remove(number)
                self._queue.append(number)
            self._closed.wait(_LOOK_AGAIN_SECONDS)

    def _bring_shard(self, number: int) -> bool:
        shard = self._shards[number]
        if not is_verified(self._folder, shard):
            lock = take_lock(self._folder / f"{shard.path}.lock", wait=False)
            if lock is None:
                return False
            try:
                if not is_whole(self._folder, self._manifest, shard, self._tables[number]):
                    self._download(shard, self._tables[number])
            except OSError as error:
                raise ValueError(f"data.cache_dir {self._folder}: cannot be written, {error.strerror}") from error
            finally:
                os.close(lock)
        self.files.place(number, self._folder / shard.path)
        with self._changed:
            self._placed[number] = True
        return True

    def _download(self, shard: ShardSpec, table: np.ndarray) -> None:
        partial = self._folder / f".{shard.path}.partial"
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            os.truncate(descriptor, shard.bytes)
            ranges = [self._ranges.submit(self._bring_range, descriptor, shard, table, at) for at in self._cut(shard)]
            wait(ranges, return_when="FIRST_EXCEPTION")
            for unneeded in ranges:
                unneeded.cancel()
            wait(ranges)
            for done in ranges:
                if not done.cancelled():
                    done.result()
        finally:
            os.close(descriptor)
        geometry, names = self._manifest.geometry, self._manifest.names
        check_shard(partial, geometry, size=shard.bytes, num_blocks=shard.blocks, names=names)
        partial.replace(self._folder / shard.path)
        mark_verified(self._folder, shard)

    def _cut(self, shard: ShardSpec) -> list[range]:
        """The shard's blocks in runs of about `RANGE_BYTES`."""
        step = max(RANGE_BYTES // self._manifest.geometry.block_bytes, 1)
        return [range(first, min(first + step, shard.blocks)) for first in range(0, shard.blocks, step)]

    def _bring_range(self, descriptor: int, shard: ShardSpec, table: np.ndarray, blocks: range) -> None:
        """Some blocks, verified; the first run has the file's schema before it and the last one its footer behind."""
        if self._closed.is_set():
            raise ValueError("data set: it was closed while its shards were being read")
        geometry = self._manifest.geometry
        start = geometry.first_block + blocks.start * geometry.block_bytes
        end = geometry.first_block + blocks.stop * geometry.block_bytes
        before = start if blocks.start == 0 else 0
        wanted = Blocks(shard.path, blocks.start, start, table["crc32"][blocks.start : blocks.stop].tolist())
        content = memoryview(
            fetch_blocks(
                self._origin,
                wanted,
                geometry.block_bytes,
                before=before,
                behind=shard.bytes - end if blocks.stop == shard.blocks else 0,
            )
        )
        at = start - before
        while content:
            written = os.pwrite(descriptor, content, at)
            content, at = content[written:], at + written
