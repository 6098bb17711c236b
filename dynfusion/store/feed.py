"""Blocks on disk -> batches in reused buffers, by threads.

    position --order--> row numbers --arithmetic--> places in the mapped shards --one gather per modality--> a buffer
                                                                                                        (a thread each)

Buffers go round: the batch in the caller's hands, the one before it, and those that threads are filling ahead, across
the end of the epoch too. Nothing of a batch's size is allocated after the start. On a GPU the buffers are its memory
and blocks are permuted there, see `device_gather.py`.
"""

import logging
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from threading import Barrier
from types import TracebackType
from typing import Literal

import torch
from jaxtyping import Bool, Float16, Int64
from pydantic import Field
from torch import Tensor

from dynfusion.settings import Settings
from dynfusion.store.batch_buffers import BatchBuffer, buffer_bytes, make_buffer
from dynfusion.store.dataset import Dataset
from dynfusion.store.device_gather import DeviceGather
from dynfusion.store.gather import HostGather, Planned
from dynfusion.store.manifest import Manifest
from dynfusion.store.order import Order, Position, deal_groups
from dynfusion.store.part import MappedPart

_log = logging.getLogger(__name__)

_HELD_BUFFERS = 2
RESIDENT_SHARE = 0.5
"""Of what is free in a GPU's memory: all rows are kept there when they take no more."""


class FeedSettings(Settings):
    """How batches are read ahead. No setting changes what is read."""

    threads: int = Field(default=2, ge=1, le=64, description="threads that gather rows, one batch each")
    slab_bytes: int = Field(default=1 << 30, ge=1, description="memory for batch buffers of one rank, at most")
    resident: Literal["auto", "never", "always"] = Field(
        default="auto",
        description="keep all rows in the GPU's memory, or (always) in this rank's own; auto: in the GPU's when they "
        "take at most half of what is free there, while without one the page cache serves all ranks",
    )

    check: bool = Field(
        default=True,
        description="check the checksum of every local block when it is first read; far ones always are",
    )

    def shared_by(self, feeds: int) -> "FeedSettings":
        """The settings of one of several feeds that share the memory for buffers."""
        return self.model_copy(update={"slab_bytes": self.slab_bytes // feeds})


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
        device: torch.device = torch.device("cpu"),  # noqa: B008
    ) -> None:
        """Open the dataset and begin to read ahead; batches lie on `device`.

        Raises ValueError when an epoch would be empty, the order is another dataset's, the start lies outside the
        epoch, three batches do not fit into `slab_bytes`, there are more ranks than contrast groups, or all rows are
        to be resident and their blocks come and go.
        """
        _check(dataset, order, start)
        lanes = order.lanes_of(deal_groups(order.num_groups, rank, world_size))
        self.position = self._ahead = start
        self._order = order
        self._device = device
        self._held: deque[BatchBuffer] = deque()
        self._pending: deque[tuple[BatchBuffer, Position, Future[None]]] = deque()
        self._settling: Future[None] | None = None
        with ExitStack() as opened:
            part = dataset.part_along(order, lanes, start, check=settings.check)
            opened.callback(part.close)
            resident = _is_resident(part, dataset.manifest, settings, device)
            rows, dims = len(lanes) * order.lane_batch_rows, dataset.manifest.dims
            count = num_buffers(rows, dims, settings)
            self._free = deque(make_buffer(rows, dims, device) for _ in range(count))
            planned = Planned(order, lanes)
            self._source: HostGather | DeviceGather
            if device.type == "cpu":
                self._source = HostGather(part, dataset.manifest, planned)
            else:
                self._source = DeviceGather(
                    part,
                    dataset.manifest,
                    planned,
                    device=device,
                    resident=resident,
                    start=start,
                    threads=settings.threads,
                )
                opened.callback(self._source.close)
            self._pool: ThreadPoolExecutor | None = _start_threads(settings.threads if device.type == "cpu" else 1)
            opened.callback(self._pool.shutdown, wait=True, cancel_futures=True)
            opened.callback(part.close)  # before the threads are waited for: they may wait for its blocks
            if resident and isinstance(self._source, HostGather):
                self._settling = self._pool.submit(self._source.settle)
            self._read_ahead()
            self._opened = opened.pop_all()

    def __next__(self) -> FeedBatch:
        """The next batch; it waits for its thread.

        Raises ValueError after `close`.
        """
        if self._pool is None:
            raise ValueError("feed: it was closed, open another one at its position")
        if len(self._held) == _HELD_BUFFERS:
            self._let_go(self._held.popleft())
        self._read_ahead()
        buffer, position, future = self._pending.popleft()
        future.result()
        if self._settling is not None and self._settling.done():
            self._settling.result()
            self._settling = None
        if buffer.filled is not None:
            torch.cuda.current_stream(self._device).wait_event(buffer.filled)
        self._held.append(buffer)
        self.position = self._order.after(position)
        return FeedBatch(buffer.values, buffer.present, buffer.row_ids, position)

    def _let_go(self, buffer: BatchBuffer) -> None:
        if self._device.type == "cuda":
            buffer.released = torch.cuda.current_stream(self._device).record_event()
        self._free.append(buffer)

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
            self._opened.close()
            self._pool = None
            self._pending.clear()

    def __enter__(self) -> "Feed":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


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


def num_buffers(rows: int, dims: tuple[int, ...], settings: FeedSettings) -> int:
    """How many buffers of a rank's batches go round. Raises ValueError when `slab_bytes` holds fewer than three."""
    batch_bytes = buffer_bytes(rows, dims)
    fitting = settings.slab_bytes // batch_bytes
    least = _HELD_BUFFERS + 1
    if fitting < least:
        raise ValueError(
            f"slab_bytes: found {settings.slab_bytes}, a batch of this rank takes {batch_bytes} and {least} are "
            f"needed, so at least {least * batch_bytes}"
        )
    return min(_HELD_BUFFERS + 2 * settings.threads, fitting)


def _is_resident(part: MappedPart, manifest: Manifest, settings: FeedSettings, device: torch.device) -> bool:
    """Whether all rows go into memory of this rank's."""
    if not part.stays:
        if settings.resident == "always":
            raise ValueError(
                "resident: found always, but this dataset's blocks come from far away and are not kept, allowed are "
                "auto and never, or a cache that holds the dataset"
            )
        return False
    if settings.resident == "auto" and device.type == "cuda":
        needed = manifest.layout.num_blocks * manifest.geometry.block_bytes
        return needed <= RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]
    return settings.resident == "always"


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
