"""When a reader will need which block: what the order says about the future, as a cursor over visits."""

import numpy as np

from dynfusion.store.order import Order, Position

NEVER = int(np.iinfo(np.int64).max)


class Foresight:
    """The visits of a reader on some lanes, one after another; steps count from the first step of epoch 0."""

    def __init__(self, order: Order, lanes: range, start: Position) -> None:
        self._order, self._lanes = order, lanes
        self._epoch = start.epoch
        self._begin(self.number(start))

    def number(self, position: Position) -> int:
        """The step's number over all epochs."""
        return position.epoch * self._order.steps_per_epoch + position.step

    @property
    def next(self) -> tuple[int, int, int]:
        """The next visit: (block, first step, last step)."""
        block, first, last = self._visits[self._at].tolist()
        return block, first, last

    def advance(self) -> None:
        """Past the next visit, over the epoch's end."""
        self._at += 1
        if self._at == len(self._visits):
            self._epoch += 1
            self._begin(0)

    def rest_of_epoch(self) -> np.ndarray:
        """The blocks of the visits to come in this epoch, by first step."""
        return self._visits[self._at :, 0]

    def next_use(self, block: int) -> int:
        """The first step of the block's next visit behind the cursor, as far as this epoch and the next one tell."""
        here = int(self._latest[block])
        return here if here >= self._visits[self._at, 1] else int(self._following[block])

    def _begin(self, first_step: int) -> None:
        """The epoch's visits from this step on, and when each block is needed last in it and first in the next one."""
        visits, following = self._of(self._epoch), self._of(self._epoch + 1)
        self._visits = visits[visits[:, 2] >= first_step]
        self._at = 0
        blocks = self._order.layout.num_blocks
        self._latest = np.full(blocks, -1, np.int64)
        np.maximum.at(self._latest, self._visits[:, 0], self._visits[:, 1])
        self._following = np.full(blocks, NEVER, np.int64)
        np.minimum.at(self._following, following[:, 0], following[:, 1])

    def _of(self, epoch: int) -> np.ndarray:
        visits = self._order.visits(epoch, self._lanes)
        visits[:, 1:] += epoch * self._order.steps_per_epoch
        return visits


def least_blocks(order: Order, lanes: range) -> int:
    """How many blocks one step can need at most on these lanes: its windows' blocks, cut ones at both ends."""
    layout, rows = order.layout, order.lane_batch_rows
    windows = -(-rows // layout.window_rows) + (0 if layout.window_rows % rows == 0 else 1)
    return min(len(lanes) * (windows * layout.window_blocks + 2), layout.num_blocks)


def steps_per_window(order: Order) -> int:
    """How many steps a window lasts."""
    return -(-order.layout.window_rows // order.lane_batch_rows)
