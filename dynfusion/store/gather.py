"""Rows in mapped memory -> a batch buffer, by one `index_select` per modality; the machine's own memory.

position --planned rows--> block and place --arithmetic--> index --gather--> buffer
"""

from threading import Lock

import numpy as np
import torch
from jaxtyping import Int64

from dynfusion.store.batch_buffers import BatchBuffer
from dynfusion.store.manifest import Manifest
from dynfusion.store.memory import zeroed_pages
from dynfusion.store.order import Order, Position
from dynfusion.store.part import MappedPart

_PLANNED_ROWS = 16_384


class Planned:
    """The order's rows of one reader's lanes, computed for some steps at a time; safe to ask from several threads."""

    def __init__(self, order: Order, lanes: range) -> None:
        self.order = order
        self.lanes = lanes
        self._steps_at_once = max(_PLANNED_ROWS // (len(lanes) * order.lane_batch_rows), 1)
        self._lock = Lock()
        self._planned = (-1, range(0))
        self._rows = np.empty((0, 0), np.int64)

    def rows(self, position: Position) -> Int64[np.ndarray, " rows"]:
        """The rows of one step, lane after lane."""
        with self._lock:
            epoch, steps = self._planned
            if epoch != position.epoch or position.step not in steps:
                last = min(position.step + self._steps_at_once, self.order.steps_per_epoch)
                steps = range(position.step, last)
                self._rows = self.order.rows_of_steps(position.epoch, steps, self.lanes)
                self._planned = (position.epoch, steps)
            return self._rows[position.step - steps.start]


class HostGather:
    """Fills buffers in the machine's own memory; safe to call from several threads."""

    def __init__(self, part: MappedPart, manifest: Manifest, planned: Planned) -> None:
        self._manifest = manifest
        self._planned = planned
        self._complete = [spec.present_rows == manifest.rows for spec in manifest.modalities]
        self._source = part, _row_views(part)

    def fill(self, buffer: BatchBuffer, position: Position) -> None:
        """The batch of one step."""
        rows = self._planned.rows(position)
        part, views = self._source
        with part.held(rows, position):
            starts, place = part.starts(rows)
            for number, (view, values) in enumerate(zip(views, buffer.values, strict=True)):
                index = torch.from_numpy(part.value_index(starts, place, number))
                torch.index_select(view, 0, index, out=values)
                if self._complete[number]:
                    buffer.present[:, number] = True
                else:
                    buffer.present[:, number] = torch.from_numpy(part.presence(starts, place, number))
        buffer.row_ids.copy_(torch.from_numpy(rows))

    def settle(self) -> None:
        """Copy every block into memory of our own, then read from there; buffers may be filled meanwhile."""
        part, _ = self._source
        assert part.stays, "blocks that come and go cannot be copied out of turn"
        block_bytes, num_blocks = self._manifest.geometry.block_bytes, self._manifest.layout.num_blocks
        copy = zeroed_pages(num_blocks * block_bytes)
        first_rows = np.arange(num_blocks) * part.block_rows
        with part.held(first_rows):
            starts, _ = part.starts(first_rows)
            for number, start in enumerate(starts.tolist()):
                at = number * block_bytes
                np.copyto(copy[at : at + block_bytes], part.content[start : start + block_bytes])
        settled = MappedPart(self._manifest, "train", copy, np.arange(num_blocks) * block_bytes, owner=copy)
        self._source = settled, _row_views(settled)


def _row_views(part: MappedPart) -> list[torch.Tensor]:
    """`MappedPart.values` of every modality as tensors: one row begins at every float16 of the memory."""
    return row_views(torch.from_numpy(part.content.view(np.float16)), part.dims)


def row_views(halves: torch.Tensor, dims: tuple[int, ...]) -> list[torch.Tensor]:
    """Overlapping views [positions, dim], one per modality, of flat float16 memory."""
    return [halves.as_strided((len(halves) - dim + 1, dim), (1, 1)) for dim in dims]
