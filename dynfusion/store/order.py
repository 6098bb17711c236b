"""In which order rows are read: pure index functions of (layout, fingerprint, seed, epoch). Nothing per row is held.

    block ids --permuted by epoch--> one sequence of all rows --cut evenly--> lanes --cut--> windows
        --rows permuted inside a window--> step t takes positions [t*b, (t+1)*b) of every lane, by row number

A step's rows of one lane come in ascending order: which rows meet is chance, how they stand in the batch means nothing
to a loss, and reading forwards is a tenth faster.

Lanes do not know how many ranks there are, so the global batch of a step is the same for every world size.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int64

from dynfusion.store.hashing import key_of, mix
from dynfusion.store.permutation import permute, unpermute

_AUTO_GROUP_ROWS = 512
_AUTO_GROUPS = 8


@dataclass(frozen=True)
class Layout:
    """The sizes chosen when a dataset was packed; they never depend on the world size."""

    rows: int
    block_rows: int
    lanes: int
    window_blocks: int

    @property
    def num_blocks(self) -> int:
        return -(-self.rows // self.block_rows)

    @property
    def window_rows(self) -> int:
        return self.window_blocks * self.block_rows


@dataclass(frozen=True)
class Position:
    """The whole resume state of a feed: the next step to read."""

    epoch: int
    step: int

    def __post_init__(self) -> None:
        if self.epoch < 0 or self.step < 0:
            raise ValueError(f"position: found epoch {self.epoch} step {self.step}, both must be at least 0")


def choose_layout(rows: int, *, block_rows: int | None = None, lanes: int | None = None) -> Layout:
    """Sizes for a number of rows: 64 lanes of 256-row blocks for large sets, fewer and smaller (powers of two) below.

    Lanes grow with the square root of the rows, so that both the number of lanes and the blocks in each stay useful;
    blocks have at least 16 rows; windows of all lanes together hold about 65,536 rows (at least 2 blocks a lane).
    """
    if lanes is None:
        lanes = 1
        while lanes < 64 and rows >= (2 * lanes) ** 2 * 16:
            lanes *= 2
    if block_rows is None:
        block_rows = 16
        while block_rows < 256 and rows >= lanes * 16 * 2 * block_rows:
            block_rows *= 2
    window_blocks = min(max(65_536 // (lanes * block_rows), 2), 64)
    return Layout(rows, block_rows, lanes, window_blocks)


def even_split(total: int, parts: int) -> Int64[np.ndarray, " borders"]:
    """Borders that cut [0, total) into contiguous parts whose sizes differ by at most one, the longer ones first."""
    return np.arange(parts + 1) * (total // parts) + np.minimum(np.arange(parts + 1), total % parts)


def deal_groups(num_groups: int, rank: int, world_size: int) -> range:
    """The contrast groups of one rank: contiguous, counts differ by at most one over ranks.

    Raises ValueError when there are more ranks than groups, or the rank is not one of the world.
    """
    if not 1 <= world_size <= num_groups:
        raise ValueError(
            f"world_size: found {world_size}, this dataset and batch give {num_groups} contrast groups, "
            f"so 1 to {num_groups} workers can share them (smaller group_rows give more groups)"
        )
    if not 0 <= rank < world_size:
        raise ValueError(f"rank: found {rank}, a world of {world_size} has ranks 0 to {world_size - 1}")
    borders = even_split(num_groups, world_size)
    return range(int(borders[rank]), int(borders[rank + 1]))


@dataclass(frozen=True)
class Order:
    """The order of every epoch. `group_rows=None` chooses the contrast group: up to 512 rows, at least min(8, lanes)
    groups.

    Raises ValueError when the batch is no multiple of the lanes, or `group_rows` cuts a lane's share or the lanes.
    """

    layout: Layout
    fingerprint: str
    seed: int
    global_batch_rows: int
    group_rows: int | None = None

    def __post_init__(self) -> None:
        lanes, batch = self.layout.lanes, self.global_batch_rows
        if batch < 1 or batch % lanes:
            below, above = max(batch // lanes, 1) * lanes, (batch // lanes + 1) * lanes
            near = f"{below} or {above}" if below != above else f"{below}"
            raise ValueError(
                f"global_batch_rows: found {batch}, this dataset has {lanes} lanes, so it must be a multiple of "
                f"{lanes}, such as {near}"
            )
        if self.group_rows is not None and self.group_rows not in self._allowed_group_rows:
            allowed = ", ".join(str(rows) for rows in self._allowed_group_rows)
            raise ValueError(
                f"group_rows: found {self.group_rows}, with {lanes} lanes and batches of {batch} rows it is one of "
                f"{allowed}"
            )

    @property
    def _allowed_group_rows(self) -> list[int]:
        return [lanes * self.lane_batch_rows for lanes in _divisors(self.layout.lanes)]

    @property
    def lane_batch_rows(self) -> int:
        """Rows that one lane gives to one global batch."""
        return self.global_batch_rows // self.layout.lanes

    @property
    def lanes_per_group(self) -> int:
        if self.group_rows is not None:
            return self.group_rows // self.lane_batch_rows
        lanes = self.layout.lanes
        fitting = [
            divisor
            for divisor in _divisors(lanes)
            if divisor * self.lane_batch_rows <= _AUTO_GROUP_ROWS and lanes // divisor >= min(_AUTO_GROUPS, lanes)
        ]
        return max(fitting, default=1)

    @property
    def num_groups(self) -> int:
        return self.layout.lanes // self.lanes_per_group

    @property
    def rows_per_group(self) -> int:
        return self.lanes_per_group * self.lane_batch_rows

    @property
    def steps_per_epoch(self) -> int:
        return self.layout.rows // self.global_batch_rows

    @property
    def skipped_rows(self) -> int:
        """Rows that an epoch leaves out, fewer than one global batch and other ones each epoch."""
        return self.layout.rows % self.global_batch_rows

    def lanes_of(self, groups: range) -> range:
        """The lanes of contiguous contrast groups."""
        return range(groups.start * self.lanes_per_group, groups.stop * self.lanes_per_group)

    def after(self, position: Position) -> Position:
        """The position one step later, over the epoch's end."""
        if position.step + 1 < self.steps_per_epoch:
            return Position(position.epoch, position.step + 1)
        return Position(position.epoch + 1, 0)

    @cached_property
    def _lane_borders(self) -> np.ndarray:
        return even_split(self.layout.rows, self.layout.lanes)

    def rows(self, epoch: int, step: int, lanes: range) -> Int64[np.ndarray, " rows"]:
        """Row numbers that these lanes give to one step, lane after lane, ascending within a lane.

        Raises ValueError for a step outside the epoch.
        """
        return self.rows_of_steps(epoch, range(step, step + 1), lanes)[0]

    def rows_of_steps(self, epoch: int, steps: range, lanes: range) -> Int64[np.ndarray, "steps rows"]:
        """`rows` of consecutive steps, in one go because a call costs more than its rows.

        Raises ValueError for a step outside the epoch.
        """
        if not 0 <= steps.start < steps.stop <= self.steps_per_epoch:
            raise ValueError(
                f"step: found {steps.start} to {steps.stop - 1}, an epoch has steps 0 to {self.steps_per_epoch - 1}"
            )
        lane = np.arange(lanes.start, lanes.stop)[:, None]
        start, stop = self._lane_borders[lane], self._lane_borders[lane + 1]
        position = np.arange(steps.start * self.lane_batch_rows, steps.stop * self.lane_batch_rows)[None]
        window, inside = np.divmod(position, self.layout.window_rows)
        if window[0, 0] == window[0, -1]:
            window = window[:, :1]
        window_start = start + window * self.layout.window_rows
        size = np.minimum(self.layout.window_rows, stop - window_start)
        if size.min() == size.max():
            size = size[:1, :1]
        key = _window_keys(key_of(self.fingerprint, self.seed, epoch, "window"), lane, window)
        inside = np.broadcast_to(inside, (len(lanes), position.shape[1]))
        rows = self._row_at(epoch, window_start + permute(inside, size, key=key))
        by_lane = rows.reshape(len(lanes), len(steps), self.lane_batch_rows)
        by_lane.sort(axis=-1)
        return np.ascontiguousarray(by_lane.transpose(1, 0, 2)).reshape(len(steps), -1)

    def visits(self, epoch: int, lanes: range) -> Int64[np.ndarray, "visits 3"]:
        """Which blocks these lanes read in an epoch, and when: (block, first step, last step) by first step.

        A block on the border of two windows or lanes has a visit for each; blocks of the skipped tail have none.
        """
        key = key_of(self.fingerprint, self.seed, epoch, "blocks")
        found = []
        for lane in lanes:
            start, stop = int(self._lane_borders[lane]), int(self._lane_borders[lane + 1])
            begin = np.arange(start, stop, self.layout.window_rows)
            end = np.minimum(begin + self.layout.window_rows, stop)
            first_slot = self._unshortened(begin, key) // self.layout.block_rows
            counts = self._unshortened(end - 1, key) // self.layout.block_rows - first_slot + 1
            within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            block = permute(np.repeat(first_slot, counts) + within, self.layout.num_blocks, key=key)
            steps = [np.repeat((edge - start) // self.lane_batch_rows, counts) for edge in (begin, end - 1)]
            found.append(np.stack([block, *steps], axis=1))
        visits = np.concatenate(found)
        visits = visits[visits[:, 1] < self.steps_per_epoch]
        visits[:, 2] = np.minimum(visits[:, 2], self.steps_per_epoch - 1)
        return visits[np.argsort(visits[:, 1], kind="stable")]

    def _unshortened(self, place: np.ndarray, key: int) -> np.ndarray:
        """Places in the epoch's sequence of permuted blocks as if all blocks were full.

        One block may be shorter; every place behind it moves up by what it lacks.
        """
        blocks, block_rows = self.layout.num_blocks, self.layout.block_rows
        lacking = blocks * block_rows - self.layout.rows
        if not lacking:
            return place
        short_slot = int(unpermute(np.array([blocks - 1]), blocks, key=key)[0])
        return place + np.where(place >= (short_slot + 1) * block_rows - lacking, lacking, 0)

    def _row_at(self, epoch: int, place: np.ndarray) -> np.ndarray:
        """The row at each place [lanes, n] of the epoch's sequence of permuted blocks."""
        blocks, block_rows = self.layout.num_blocks, self.layout.block_rows
        key = key_of(self.fingerprint, self.seed, epoch, "blocks")
        slot, offset = np.divmod(self._unshortened(place, key), block_rows)
        first = slot.min(axis=1, keepdims=True)
        span = int((slot - first).max()) + 1
        table = permute(np.minimum(first + np.arange(span), blocks - 1), blocks, key=key)
        return np.take_along_axis(table, slot - first, axis=1) * block_rows + offset


def _window_keys(key: int, lane: np.ndarray, window: np.ndarray) -> np.ndarray:
    number = lane.astype(np.uint64) << np.uint64(40) | window.astype(np.uint64)
    return mix(mix(number) ^ np.uint64(key))


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]
