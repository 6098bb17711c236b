"""Whole blocks travel to the device and are permuted there: the machine only ever copies bytes that lie side by side.

    blocks --threads--> pinned pieces --copy stream--> slab on the device --index_select, gather stream--> batch buffer

A slab holds the blocks of as many steps as a window lasts; while one is read the next is loaded. In the resident mode
there is one slab and it holds the whole part. Presence bits travel with the blocks and are unpacked on the device.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from dynfusion.store.batch_buffers import BatchBuffer
from dynfusion.store.gather import Planned, row_views
from dynfusion.store.manifest import Geometry, Manifest
from dynfusion.store.order import Order, Position
from dynfusion.store.part import MappedPart

_PIECE_BYTES = 16 << 20
_PIECES = 3


@dataclass
class _Slab:
    """Blocks on the device, and the slot of each block of the part (-1: not here)."""

    memory: Tensor
    views: list[Tensor]
    slot_of_block: Int64[np.ndarray, " blocks"]
    read: torch.cuda.Event | None = None
    ready: torch.cuda.Event | None = None


class DeviceGather:
    """Fills buffers on one device; call it from one thread, step after step from `start` on."""

    def __init__(
        self,
        part: MappedPart,
        manifest: Manifest,
        planned: Planned,
        *,
        device: torch.device,
        resident: bool,
        start: Position,
        threads: int,
    ) -> None:
        self._part, self._planned, self._order = part, planned, planned.order
        self._device, self._resident, self._start = device, resident, start
        self._geometry: Geometry = manifest.geometry
        self._num_blocks = manifest.layout.num_blocks
        self._steps_at_once = _steps_of_a_slab(self._order)
        capacity = self._num_blocks if resident else blocks_of_a_slab(self._order, len(planned.lanes))
        self._slabs = [self._make_slab(capacity) for _ in range(1 if resident else 2)]
        self._copying, self._gathering = (_stream(device) for _ in range(2))
        self._pieces = [_Piece.make(self._geometry.block_bytes, device) for _ in range(_PIECES)]
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="load")
        self._copiers = ThreadPoolExecutor(threads, thread_name_prefix="copy")
        self._loads: dict[Position, Future[tuple[_Slab, np.ndarray]]] = {}
        self._turn = 0

    def fill(self, buffer: BatchBuffer, position: Position) -> None:
        """Enqueue the gather of one step's batch; `buffer.filled` tells when it is done."""
        if self._resident:
            slab, _ = self._load(Position(0, 0)).result()
            rows = self._planned.rows(position)
        else:
            first = self._first_with(position)
            slab, plan = self._load(first).result()
            after = self._order.after(Position(first.epoch, self._steps_from(first).stop - 1))
            self._load(after)
            self._loads = {at: self._loads[at] for at in (first, after)}
            rows = plan[position.step - first.step]
        block, place = np.divmod(rows, self._part.block_rows)
        start = slab.slot_of_block[block] * self._geometry.block_bytes
        with _on(self._gathering):
            _wait(self._gathering, slab.ready, buffer.released)
            self._gather(slab, buffer, *torch.from_numpy(np.stack([start, place, rows])).to(self._device))
            slab.read = buffer.filled = _record(self._gathering)

    def close(self) -> None:
        """Stop loading."""
        self._loader.shutdown(wait=True, cancel_futures=True)
        self._copiers.shutdown(wait=True)

    def _gather(self, slab: _Slab, buffer: BatchBuffer, start: Tensor, place: Tensor, rows: Tensor) -> None:
        geometry = self._geometry
        for number, (view, values) in enumerate(zip(slab.views, buffer.values, strict=True)):
            index = (start + geometry.values_offsets[number] + place * 2 * values.shape[1]) >> 1
            torch.index_select(view, 0, index, out=values)
            byte = slab.memory[start + geometry.validity_offsets[number] + (place >> 3)]
            buffer.present[:, number] = (byte >> (place & 7).to(torch.uint8)) & 1 == 1
        buffer.row_ids.copy_(rows)

    def _load(self, first: Position) -> Future[tuple[_Slab, np.ndarray]]:
        if first not in self._loads:
            slab = self._slabs[self._turn % len(self._slabs)]
            self._turn += 1
            self._loads[first] = self._loader.submit(self._fill_slab, slab, first)
        return self._loads[first]

    def _first_with(self, position: Position) -> Position:
        """The first step of the slab that holds this one."""
        first = position.step // self._steps_at_once * self._steps_at_once
        return Position(position.epoch, max(first, self._start.step) if position.epoch == self._start.epoch else first)

    def _steps_from(self, first: Position) -> range:
        border = (first.step // self._steps_at_once + 1) * self._steps_at_once
        return range(first.step, min(border, self._order.steps_per_epoch))

    def _fill_slab(self, slab: _Slab, first: Position) -> tuple[_Slab, np.ndarray]:
        """Bring the blocks of all the slab's steps, and plan them; in the resident mode every block and no plan."""
        _wait(self._copying, slab.read)
        slab.slot_of_block.fill(-1)
        plan = np.empty((0, 0), np.int64)
        if self._resident:
            with self._part.held(np.arange(self._num_blocks) * self._part.block_rows):
                self._copy_blocks(slab, np.arange(self._num_blocks), 0)
        else:
            steps, used = self._steps_from(first), 0
            plan = self._order.rows_of_steps(first.epoch, steps, self._planned.lanes)
            for step, rows in zip(steps, plan, strict=True):
                blocks = np.unique(rows // self._part.block_rows)
                fresh = blocks[slab.slot_of_block[blocks] < 0]
                with self._part.held(rows, Position(first.epoch, step)):
                    self._copy_blocks(slab, fresh, used)
                used += len(fresh)
        slab.ready = _record(self._copying)
        return slab, plan

    def _copy_blocks(self, slab: _Slab, blocks: np.ndarray, used: int) -> None:
        """Blocks -> pinned pieces -> slots from `used` on."""
        size = self._geometry.block_bytes
        starts, _ = self._part.starts(blocks * self._part.block_rows)
        slab.slot_of_block[blocks] = used + np.arange(len(blocks))
        per_piece = self._pieces[0].blocks
        for number in range(0, len(blocks), per_piece):
            piece = self._pieces[number // per_piece % _PIECES]
            count = piece.take(self._part.content, starts[number : number + per_piece], size, self._copiers)
            at = (used + number) * size
            with _on(self._copying):
                slab.memory[at : at + count].copy_(piece.memory[:count], non_blocking=True)
                piece.sent = _record(self._copying)

    def _make_slab(self, blocks: int) -> _Slab:
        memory = torch.zeros(blocks * self._geometry.block_bytes, dtype=torch.uint8, device=self._device)
        return _Slab(memory, row_views(memory.view(torch.float16), self._part.dims), np.full(self._num_blocks, -1))


@dataclass
class _Piece:
    """Pinned memory for some blocks on their way."""

    memory: Tensor
    blocks: int
    sent: torch.cuda.Event | None = None

    @classmethod
    def make(cls, block_bytes: int, device: torch.device) -> "_Piece":
        blocks = max(_PIECE_BYTES // block_bytes, 1)
        memory = torch.zeros(blocks * block_bytes, dtype=torch.uint8, pin_memory=device.type == "cuda")
        return cls(memory, blocks)

    def take(self, content: np.ndarray, starts: np.ndarray, size: int, copiers: ThreadPoolExecutor) -> int:
        """Copy the blocks at these places one after another, once what was here has left; how many bytes came."""
        if self.sent is not None:
            self.sent.synchronize()
        targets = np.split(self.memory.numpy()[: len(starts) * size], len(starts)) if len(starts) else []
        sources = [content[start : start + size] for start in starts.tolist()]
        list(copiers.map(np.copyto, targets, sources))
        return len(starts) * size


def _steps_of_a_slab(order: Order) -> int:
    return max(order.layout.window_rows // order.lane_batch_rows, 1)


def blocks_of_a_slab(order: Order, lanes: int) -> int:
    """At most so many blocks hold the rows of a slab's steps: whole windows, each cut anywhere."""
    rows, window_rows = _steps_of_a_slab(order) * order.lane_batch_rows, order.layout.window_rows
    windows = rows // window_rows if rows % window_rows == 0 else rows // window_rows + 2
    return min(lanes * (windows * order.layout.window_blocks + 2), order.layout.num_blocks)


def _stream(device: torch.device) -> torch.cuda.Stream | None:
    return torch.cuda.Stream(device) if device.type == "cuda" else None


def _on(stream: torch.cuda.Stream | None) -> AbstractContextManager[object]:
    return nullcontext() if stream is None else torch.cuda.stream(stream)


def _record(stream: torch.cuda.Stream | None) -> torch.cuda.Event | None:
    return None if stream is None else stream.record_event()


def _wait(stream: torch.cuda.Stream | None, *events: torch.cuda.Event | None) -> None:
    if stream is not None:
        for event in events:
            if event is not None:
                stream.wait_event(event)
