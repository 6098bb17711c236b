"""One process's hold on a far dataset: how its files come here, and what stays.

    a cache folder that holds the dataset     whole shards, shared by all processes, kept for the next run
    a smaller one                             the blocks of the coming steps and those needed soonest again, in a file
    none                                      the blocks of the coming steps, in memory

The batches are the same in all three.
"""

import logging
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from dynfusion.store.block_catalogue import BlockCatalogue
from dynfusion.store.blocks import read_blocks
from dynfusion.store.cache import Room, block_room, whole_room
from dynfusion.store.foresight import Foresight, least_blocks, steps_per_window
from dynfusion.store.manifest import FileSpec, Manifest
from dynfusion.store.order import Order, Position
from dynfusion.store.origin import CONNECTIONS, Remote, fetch_files
from dynfusion.store.part import MappedPart, Part, block_offsets, shard_starts, shards_of
from dynfusion.store.streamed_blocks import Slots, StreamedBlocks
from dynfusion.store.whole_shards import WholeShards

_log = logging.getLogger(__name__)

_READ_AT_ONCE_BYTES = 256 << 20
_WAIT_SECONDS = 60.0


class Residence:
    """Brings a far dataset's files. Nothing is fetched before it is asked for."""

    def __init__(self, remote: Remote, manifest: Manifest) -> None:
        self._remote = remote
        self._manifest = manifest
        self._whole_parts: dict[Part, MappedPart] = {}

    def small_files(self, files: Sequence[FileSpec]) -> Path:
        """The folder that now holds these small files."""
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            fetch_files(self._remote.origin, files, self._folder, pool)
        return self._folder

    def part_along(self, order: Order, lanes: range, start: Position) -> MappedPart:
        """The training rows for one reader that follows the order on these lanes from `start` on."""
        foresight = Foresight(order, lanes, start)
        if self._room is None:
            return self._streamed(order, lanes, foresight, start)
        whole = self._whole("train")
        whole.bring(foresight.rest_of_epoch())
        return self._mapped(whole, "train")

    def pieces(self, part: Part, rows: np.ndarray) -> Iterator[tuple[np.ndarray, MappedPart]]:
        """Places in `rows`, and a part in which those rows can be read now; together all places once."""
        if self._room is not None:
            if part not in self._whole_parts:
                self._whole_parts[part] = self._mapped(self._whole(part), part)
            with self._whole_parts[part].held(rows):
                yield np.arange(len(rows)), self._whole_parts[part]
            return
        blocks = rows // self._manifest.block_rows
        unique = np.unique(blocks)
        step = max(_READ_AT_ONCE_BYTES // self._manifest.geometry.block_bytes, 1)
        for first in range(0, len(unique), step):
            some = unique[first : first + step]
            yield np.flatnonzero(np.isin(blocks, some)), self._loaded(part, some)

    @cached_property
    def _room(self) -> Room | None:
        cache = self._remote.cache
        if cache.cache_dir is None:
            return None
        room = whole_room(Path(cache.cache_dir).expanduser(), self._manifest, cache.cache_bytes)
        if room is not None:
            weakref.finalize(self, room.release)
        return room

    @cached_property
    def _folder(self) -> Path:
        if self._room is not None:
            return self._room.path
        folder = tempfile.mkdtemp(prefix="dynfusion-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return Path(folder)

    @cached_property
    def _table(self) -> np.ndarray:
        return read_blocks(self.small_files([self._manifest.blocks]), self._manifest)

    def _whole(self, part: Part) -> WholeShards:
        assert self._room is not None
        return WholeShards(self._remote.origin, self._manifest, part, folder=self._room.path, table=self._table)

    def _mapped(self, whole: WholeShards, part: Part) -> MappedPart:
        offsets = block_offsets(self._table, self._manifest, part)
        starts = offsets + shard_starts(whole.files.starts, shards_of(self._manifest, part))
        return MappedPart(self._manifest, part, whole.files.content, starts, owner=(whole, self._room), comings=whole)

    def _streamed(self, order: Order, lanes: range, foresight: Foresight, start: Position) -> MappedPart:
        catalogue = BlockCatalogue(self._manifest, "train", self._table)
        slots = self._slots(least_blocks(order, lanes), catalogue)
        stream = StreamedBlocks(
            self._remote.origin,
            catalogue,
            foresight,
            start=foresight.number(start),
            horizon=steps_per_window(order),
            block_rows=order.layout.block_rows,
            slots=slots,
        )
        content = slots.memory.reshape(-1)
        return MappedPart(self._manifest, "train", content, stream.block_starts, owner=slots, comings=stream)

    def _slots(self, least: int, catalogue: BlockCatalogue) -> Slots:
        """Slots in memory, or in a file of the cache when there is one."""
        cache, size = self._remote.cache, catalogue.slot_bytes
        if cache.cache_dir is None:
            return Slots(np.empty((min(2 * least, len(catalogue)), size), np.uint8), None)
        share = cache.cache_bytes // self._remote.processes
        room = block_room(
            Path(cache.cache_dir).expanduser(),
            wanted_bytes=min(max(share // size, least), len(catalogue)) * size,
            least_bytes=least * size,
            limit_bytes=cache.cache_bytes,
            wait_seconds=_WAIT_SECONDS,
            say=_log.warning,
        )
        slots = room.path.stat().st_size // size
        return Slots(np.memmap(room.path, np.uint8, mode="r+", shape=(slots, size)), room)

    def _loaded(self, part: Part, blocks: np.ndarray) -> MappedPart:
        """These blocks of a part, one after another in memory of their own."""
        catalogue = BlockCatalogue(self._manifest, part, self._table)
        memory = np.empty((len(blocks), catalogue.slot_bytes), np.uint8)
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            list(pool.map(partial(catalogue.fetch, self._remote.origin), blocks.tolist(), memory))
        starts = np.zeros(len(catalogue), np.int64)
        starts[blocks] = np.arange(len(blocks)) * catalogue.slot_bytes
        return MappedPart(self._manifest, part, memory.reshape(-1), starts, owner=memory)
