"""Blocks on disk -> batches in reused buffers, by threads.

    position --order--> row numbers --arithmetic--> places in the mapped shards --one gather per modality--> a buffer
                                                                                                        (a thread each)

Buffers go round: the batch in the caller's hands, the one before it, and those that threads are filling ahead, across
the end of the epoch too. Nothing of a batch's size is allocated after the start.
"""

import logging
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Barrier, Lock
from types import TracebackType

import numpy as np
import torch
from jaxtyping import Bool, Float16, Int64
from pydantic import Field
from torch import Tensor

from dynfusion.settings import Settings
from dynfusion.store.dataset import Dataset
from dynfusion.store.order import Order, Position, deal_groups
from dynfusion.store.part import MappedPart

_log = logging.getLogger(__name__)

_PLANNED_ROWS = 16_384
_HELD_BUFFERS = 2


class FeedSettings(Settings):
    """How batches are read ahead. No setting changes what is read."""

    threads: int = Field(default=2, ge=1, le=64, description="threads that gather rows, one batch each")
    slab_bytes: int = Field(default=1 << 30, ge=1, description="memory for batch buffers of one rank, at most")


@dataclass(frozen=True)
class FeedBatch:
    """One rank's rows of one step, ordered by contrast group, then lane.

    `values` in the manifest's order of modalities, zero where absent. All tensors are views of buffers that are
    overwritten by the next call but one.
    """

    values: tuple[Float16[Tensor, "rows _"], ...]
    present: Bool[Tensor, "rows modalities"]
    row_ids: Int64[Tensor, " rows"]
    position: Position


class Feed(Iterator[FeedBatch]):
    """One rank's batches from `start` on, epoch after epoch without end; `position` is the next one's."""

    position: Position

    def __init__(
        self,
        dataset: Dataset,
        order: Order,
        *,
        rank: int,
        world_size: int,
        start: Position = Position(0, 0),  # noqa: B008, it is frozen
        settings: FeedSettings = FeedSettings(),  # noqa: B008
    ) -> None:
        """Open the dataset and begin to read ahead.

        Raises ValueError when an epoch would be empty, the order is another dataset's, the start lies outside the
        epoch, three batches do not fit into `slab_bytes`, or there are more ranks than contrast groups.
        """
        _check(dataset, order, start)
        lanes = order.lanes_of(deal_groups(order.num_groups, rank, world_size))
        self.position = self._ahead = start
        self._order = order
        self._part = dataset.part_along(order, lanes, start)
        self._source = _Source(self._part, order, lanes)
        rows, dims = len(lanes) * order.lane_batch_rows, dataset.manifest.dims
        count = _num_buffers(rows, dims, settings)
        self._free = deque(_Buffer.allocate(rows, dims) for _ in range(count))
        self._held: deque[_Buffer] = deque()
        self._pending: deque[tuple[_Buffer, Position, Future[None]]] = deque()
        self._pool: ThreadPoolExecutor | None = _start_threads(settings.threads)
        self._read_ahead()

    def __next__(self) -> FeedBatch:
        """The next batch; it waits for its thread.

        Raises ValueError after `close`.
        """
        if self._pool is None:
            raise ValueError("feed: it was closed, open another one at its position")
        if len(self._held) == _HELD_BUFFERS:
            self._free.append(self._held.popleft())
        self._read_ahead()
        buffer, position, future = self._pending.popleft()
        future.result()
        self._held.append(buffer)
        self.position = self._order.after(position)
        return FeedBatch(buffer.values, buffer.present, buffer.row_ids, position)

    def _read_ahead(self) -> None:
        assert self._pool is not None
        while self._free:
            buffer, position = self._free.popleft(), self._ahead
            if position.step == 0 and self._order.skipped_rows:
                _log.info(
                    "epoch %d leaves out %d of %d rows",
                    position.epoch,
                    self._order.skipped_rows,
                    self._order.layout.rows,
                )
            future = self._pool.submit(self._source.fill, buffer, position)
            self._pending.append((buffer, position, future))
            self._ahead = self._order.after(position)

    def close(self) -> None:
        """Stop the threads; closing twice is fine."""
        if self._pool is not None:
            self._part.close()
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
            self._pending.clear()

    def __enter__(self) -> "Feed":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True)
class _Buffer:
    values: tuple[Tensor, ...]
    present: Tensor
    row_ids: Tensor

    @classmethod
    def allocate(cls, rows: int, dims: tuple[int, ...]) -> "_Buffer":
        return cls(
            values=tuple(torch.zeros(rows, dim, dtype=torch.float16) for dim in dims),
            present=torch.zeros(rows, len(dims), dtype=torch.bool),
            row_ids=torch.zeros(rows, dtype=torch.int64),
        )


class _Source:
    """Fills buffers from the mapped shards; safe to call from several threads."""

    def __init__(self, part: MappedPart, order: Order, lanes: range) -> None:
        self._part = part
        self._order = order
        self._lanes = lanes
        # One row begins at every float16 of the mapping: `MappedPart.values` as tensors.
        flat = torch.from_numpy(part.content.view(np.float16))
        self._views = [flat.as_strided((len(flat) - dim + 1, dim), (1, 1)) for dim in part.dims]
        self._steps_at_once = max(_PLANNED_ROWS // (len(lanes) * order.lane_batch_rows), 1)
        self._plan_lock = Lock()
        self._planned = (-1, range(0))
        self._plan = np.empty((0, 0), np.int64)

    def fill(self, buffer: _Buffer, position: Position) -> None:
        rows = self._rows(position)
        with self._part.held(rows, position):
            starts, place = self._part.starts(rows)
            for number, (view, values) in enumerate(zip(self._views, buffer.values, strict=True)):
                index = torch.from_numpy(self._part.value_index(starts, place, number))
                torch.index_select(view, 0, index, out=values)
                buffer.present[:, number] = torch.from_numpy(self._part.presence(starts, place, number))
        buffer.row_ids.copy_(torch.from_numpy(rows))

    def _rows(self, position: Position) -> np.ndarray:
        """The order's rows, computed for some steps at a time."""
        with self._plan_lock:
            epoch, steps = self._planned
            if epoch != position.epoch or position.step not in steps:
                last = min(position.step + self._steps_at_once, self._order.steps_per_epoch)
                steps = range(position.step, last)
                self._plan = self._order.rows_of_steps(position.epoch, steps, self._lanes)
                self._planned = (position.epoch, steps)
            return self._plan[position.step - steps.start]


def _check(dataset: Dataset, order: Order, start: Position) -> None:
    manifest = dataset.manifest
    if order.layout != manifest.layout or order.fingerprint != manifest.fingerprint:
        raise ValueError(
            f"order: it belongs to dataset {order.fingerprint}, {dataset.uri} is {manifest.fingerprint}, "
            "an order is made from the manifest of the dataset that it reads"
        )
    if order.steps_per_epoch == 0:
        raise ValueError(
            f"global_batch_rows: found {order.global_batch_rows}, {dataset.uri} has {manifest.rows} training rows, "
            "so an epoch would be empty; a batch may be as large as the dataset"
        )
    if start.step >= order.steps_per_epoch:
        raise ValueError(f"start: found step {start.step}, an epoch has steps 0 to {order.steps_per_epoch - 1}")


def _num_buffers(rows: int, dims: tuple[int, ...], settings: FeedSettings) -> int:
    batch_bytes = rows * (2 * sum(dims) + len(dims) + 8)
    fitting = settings.slab_bytes // batch_bytes
    least = _HELD_BUFFERS + 1
    if fitting < least:
        raise ValueError(
            f"slab_bytes: found {settings.slab_bytes}, a batch of this rank takes {batch_bytes} and {least} are "
            f"needed, so at least {least * batch_bytes}"
        )
    return min(_HELD_BUFFERS + 2 * settings.threads, fitting)


def _start_threads(count: int) -> ThreadPoolExecutor:
    """Threads in which torch computes alone.

    The number of threads inside an operator is a setting of each thread, but setting it also sets what threads started
    later begin with; so it is set in every worker first and then put back.
    """
    usual = torch.get_num_threads()
    everyone = Barrier(count + 1)
    pool = ThreadPoolExecutor(count, thread_name_prefix="feed", initializer=_compute_alone)
    for _ in range(count):
        pool.submit(everyone.wait)
    everyone.wait()
    torch.set_num_threads(usual)
    return pool


def _compute_alone() -> None:
    torch.get_num_threads()  # the first call in a thread overwrites what was set before it
    torch.set_num_threads(1)
