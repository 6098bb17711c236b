"""Blocks of a far dataset that does not fit here, brought ahead of a reader whose order is known.

    foresight: visits a window ahead --a slot--> range --checksum--> the slot's bytes in memory --released--> idle

There are as many slots as the memory or the cache file holds. A new block takes the slot of the idle one that will be
needed furthest in the future (Belady, "A study of replacement algorithms for a virtual-storage computer", IBM Systems
Journal 5(2), 1966), never of one that is needed sooner than itself: it waits instead, so nothing is thrown out to be
brought again in its own turn.
"""

import heapq
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Int64, UInt8

from dynfusion.store.block_catalogue import BlockCatalogue
from dynfusion.store.cache import Room
from dynfusion.store.foresight import Foresight
from dynfusion.store.order import Position
from dynfusion.store.origin import CONNECTIONS, Origin


@dataclass(frozen=True)
class Slots:
    """Memory for blocks [slots, bytes], and the room in the cache that it lies in, if it does."""

    memory: UInt8[np.ndarray, "slots bytes"]
    room: Room | None


class StreamedBlocks:
    """The training blocks of one reader in its slots; `block_starts` says where in them each block is now."""

    stays = False
    block_starts: Int64[np.ndarray, " blocks"]

    def __init__(
        self,
        origin: Origin,
        catalogue: BlockCatalogue,
        foresight: Foresight,
        *,
        start: int,
        horizon: int,
        block_rows: int,
        slots: "Slots",
    ) -> None:
        """Begin to bring blocks for step `start` and `horizon` steps more."""
        self._origin, self._catalogue, self._foresight = origin, catalogue, foresight
        self._horizon, self._block_rows, self._slots = horizon, block_rows, slots
        blocks = len(catalogue)
        self.block_starts = np.zeros(blocks, np.int64)
        self._ready = np.zeros(blocks, bool)
        self._slot_of = np.full(blocks, -1, np.int64)
        self._empty = list(range(len(slots.memory)))[::-1]
        self._until: dict[int, int] = {}  # block -> last step of its visits so far, while it is in a slot
        self._busy: list[tuple[int, int]] = []  # (until, block), a heap; an entry counts when it still says the truth
        self._idle: list[tuple[int, int, int]] = []  # (-next use, until, block), likewise
        self._done, self._released = start, set[int]()
        self._changed = threading.Condition()
        self._failure: BaseException | None = None
        self._closed = False
        self._give_back = weakref.finalize(self, slots.room.release if slots.room else _nothing_to_give_back)
        self._pool = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="blocks")
        with self._changed:
            self._look_ahead()

    @contextmanager
    def hold(self, rows: np.ndarray, position: Position | None) -> Iterator[None]:
        """The blocks of one step of the order that was foreseen; leaving the `with` block says that it was read."""
        assert position is not None, "streamed blocks follow an order"
        blocks = np.unique(rows // self._block_rows)
        with self._changed:
            self._changed.wait_for(lambda: self._ready[blocks].all() or self._failure or self._closed)
            if self._failure:
                raise self._failure
            if self._closed:
                raise ValueError("data set: it was closed while its blocks were being read")
        try:
            yield
        finally:
            with self._changed:
                self._release(self._foresight.number(position))

    def close(self) -> None:
        """Stop bringing; what is under way ends first."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._give_back()

    def _release(self, step: int) -> None:
        self._released.add(step)
        while self._done in self._released:
            self._released.remove(self._done)
            self._done += 1
        while self._busy and self._busy[0][0] < self._done:
            until, block = heapq.heappop(self._busy)
            if self._until.get(block) == until and self._ready[block]:
                heapq.heappush(self._idle, (-self._foresight.next_use(block), until, block))
        self._look_ahead()

    def _look_ahead(self) -> None:
        """Give slots to the visits of the coming steps, as far as there are slots."""
        while not self._closed:
            block, first, last = self._foresight.next
            here = self._slot_of[block] >= 0
            if first > self._done + self._horizon or not (here or self._empty or self._empty_one(first)):
                return
            self._foresight.advance()
            self._until[block] = max(self._until.get(block, 0), last)
            heapq.heappush(self._busy, (self._until[block], block))
            if not here:
                self._slot_of[block] = self._empty.pop()
                self._pool.submit(self._bring, block).add_done_callback(partial(self._note, block))

    def _empty_one(self, first_step: int) -> bool:
        while self._idle:
            next_use, until, block = self._idle[0]
            if self._until.get(block) == until and -next_use < first_step:
                return False
            heapq.heappop(self._idle)
            if self._until.get(block) == until:
                del self._until[block]
                self._ready[block] = False
                self._empty.append(int(self._slot_of[block]))
                self._slot_of[block] = -1
                return True
        return False

    def _bring(self, block: int) -> None:
        self._catalogue.fetch(self._origin, block, self._slots.memory[self._slot_of[block]])

    def _note(self, block: int, done: "Future[None]") -> None:
        with self._changed:
            if done.cancelled():
                return
            self._failure = self._failure or done.exception()
            self.block_starts[block] = self._slot_of[block] * self._slots.memory.shape[1]
            self._ready[block] = True
            if self._until[block] < self._done:
                heapq.heappush(self._idle, (-self._foresight.next_use(block), self._until[block], block))
            self._changed.notify_all()


def _nothing_to_give_back() -> None:
    """Blocks in memory of our own hold no room of the cache."""
