import itertools
import math

import numpy as np
import pytest

from dynfusion.store.foresight import NEVER, Foresight, least_blocks, steps_per_window
from dynfusion.store.order import Layout, Order, Position

LAYOUTS = [
    Layout(rows=1_000, block_rows=16, lanes=4, window_blocks=2),
    Layout(rows=4_096, block_rows=64, lanes=8, window_blocks=3),
    Layout(rows=777, block_rows=32, lanes=1, window_blocks=64),
    Layout(rows=2_049, block_rows=256, lanes=2, window_blocks=2),
]
BATCHES = [24, 200]


def orders() -> list[Order]:
    return [
        Order(layout, "f", 3, batch * layout.lanes // math.gcd(batch, layout.lanes))
        for layout in LAYOUTS
        for batch in BATCHES
    ]


@pytest.mark.parametrize("order", orders(), ids=str)
def test_every_step_finds_its_blocks_among_the_visits_of_that_step(order: Order) -> None:
    for lanes in (range(order.layout.lanes), range(order.layout.lanes - 1, order.layout.lanes)):
        for epoch in range(2):
            visits = order.visits(epoch, lanes)
            assert (np.diff(visits[:, 1]) >= 0).all()
            for step in range(order.steps_per_epoch):
                needed = set((order.rows(epoch, step, lanes) // order.layout.block_rows).tolist())
                foreseen = visits[(visits[:, 1] <= step) & (visits[:, 2] >= step), 0].tolist()
                assert needed <= set(foreseen)
                assert len(set(foreseen)) <= least_blocks(order, lanes)


def test_a_visit_ends_when_its_window_does() -> None:
    order = Order(LAYOUTS[0], "f", 3, 32)
    visits = order.visits(0, range(4))
    assert (visits[:, 2] - visits[:, 1] < steps_per_window(order)).all()
    read_twice = len(visits) - len(np.unique(visits[:, 0]))
    assert read_twice <= order.layout.lanes * (order.layout.rows // order.layout.lanes // order.layout.window_rows + 2)


def test_foresight_goes_through_the_visits_of_epoch_after_epoch_from_any_start() -> None:
    order, lanes = Order(LAYOUTS[0], "f", 3, 32), range(1, 3)
    steps = order.steps_per_epoch
    everything = [
        (block, first + epoch * steps, last + epoch * steps)
        for epoch in range(3)
        for block, first, last in order.visits(epoch, lanes).tolist()
    ]
    for start in (Position(0, 0), Position(0, 7), Position(1, steps - 1)):
        foresight = Foresight(order, lanes, start)
        at = foresight.number(start)
        for expected in itertools.islice((visit for visit in everything if visit[2] >= at), 100):
            assert foresight.next == expected
            block = expected[0]
            foresight.advance()
            if expected[2] < foresight.next[1]:
                to_come = [first for other, first, _ in everything if other == block and first > expected[1]]
                assert foresight.next_use(block) in (*to_come, NEVER)
