import itertools

import numpy as np
import pytest

from dynfusion.store.hashing import key_of, mix
from dynfusion.store.order import Layout, Order, Position, choose_layout, deal_groups, even_split
from dynfusion.store.permutation import permute

SHAPES = [
    (Layout(40, 16, 1, 64), 8),
    (Layout(64, 16, 2, 2), 16),
    (Layout(700, 16, 4, 2), 32),
    (Layout(703, 16, 4, 64), 100),
    (Layout(9000, 32, 16, 64), 256),
    (Layout(9001, 32, 16, 4), 1600),
    (Layout(8999, 256, 8, 2), 4096),
]


def naive_epoch(order: Order, epoch: int) -> list[list[list[int]]]:
    """[step][lane][rows], by the definition in words: lists of all rows."""
    layout = order.layout
    block_key = key_of(order.fingerprint, order.seed, epoch, "blocks")
    window_key = key_of(order.fingerprint, order.seed, epoch, "window")
    blocks = permute(np.arange(layout.num_blocks), layout.num_blocks, key=block_key).tolist()
    rows_of = [range(b * layout.block_rows, min((b + 1) * layout.block_rows, layout.rows)) for b in blocks]
    sequence = list(itertools.chain.from_iterable(rows_of))
    borders = even_split(layout.rows, layout.lanes).tolist()
    lanes = []
    for lane, (start, stop) in enumerate(itertools.pairwise(borders)):
        shuffled = []
        for window, at in enumerate(range(start, stop, layout.window_rows)):
            rows = sequence[at : min(at + layout.window_rows, stop)]
            number = mix(np.array([(lane << 40) | window], np.uint64))
            key = int(mix(number ^ np.uint64(window_key))[0])
            shuffled += [rows[place] for place in permute(np.arange(len(rows)), len(rows), key=key).tolist()]
        lanes.append(shuffled)
    b = order.lane_batch_rows
    return [[sorted(lane[step * b : (step + 1) * b]) for lane in lanes] for step in range(order.steps_per_epoch)]


def epoch_rows(order: Order, epoch: int) -> np.ndarray:
    return order.rows_of_steps(epoch, range(order.steps_per_epoch), range(order.layout.lanes))


@pytest.mark.parametrize(("layout", "batch"), SHAPES)
def test_the_arithmetic_equals_the_definition_by_lists(layout: Layout, batch: int) -> None:
    order = Order(layout, "fingerprint", 3, batch)
    naive = naive_epoch(order, 1)
    for step, lanes in enumerate(naive):
        assert order.rows(1, step, range(layout.lanes)).tolist() == list(itertools.chain.from_iterable(lanes))


@pytest.mark.parametrize(("layout", "batch"), SHAPES)
def test_every_row_comes_at_most_once_and_fewer_than_a_batch_are_skipped(layout: Layout, batch: int) -> None:
    order = Order(layout, "fingerprint", 3, batch)
    rows = epoch_rows(order, 0).reshape(-1)
    assert len(np.unique(rows)) == len(rows) == layout.rows - order.skipped_rows
    assert 0 <= rows.min() <= rows.max() < layout.rows
    assert order.skipped_rows < batch


def test_epochs_seeds_and_datasets_differ_and_so_do_the_skipped_rows() -> None:
    layout = Layout(9001, 32, 16, 4)
    orders = [Order(layout, "a", 0, 1600), Order(layout, "a", 1, 1600), Order(layout, "b", 0, 1600)]
    epochs = [epoch_rows(orders[0], 0), epoch_rows(orders[0], 1), epoch_rows(orders[1], 0), epoch_rows(orders[2], 0)]
    for one, other in itertools.combinations(epochs, 2):
        assert (one == other).mean() < 0.01
        assert set(one.reshape(-1)) != set(other.reshape(-1))


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 7])
def test_the_global_batch_is_the_same_for_every_world_size_lane_by_lane(world_size: int) -> None:
    order = Order(Layout(9000, 32, 16, 4), "fingerprint", 0, 256)
    whole = order.rows(2, 5, range(16)).reshape(16, -1)
    lanes = [order.lanes_of(deal_groups(order.num_groups, rank, world_size)) for rank in range(world_size)]
    assert [lane for part in lanes for lane in part] == list(range(16))
    for part in lanes:
        assert (order.rows(2, 5, part).reshape(len(part), -1) == whole[part.start : part.stop]).all()


def test_groups_are_dealt_in_order_and_as_evenly_as_they_go() -> None:
    """Hand-worked: 8 groups over 1, 2, 3 and 7 ranks."""
    dealt = {size: [len(deal_groups(8, rank, size)) for rank in range(size)] for size in (1, 2, 3, 7)}
    assert dealt == {1: [8], 2: [4, 4], 3: [3, 3, 2], 7: [2, 1, 1, 1, 1, 1, 1]}
    assert deal_groups(8, 2, 3) == range(6, 8)


def test_more_ranks_than_groups_are_refused_with_the_numbers() -> None:
    with pytest.raises(ValueError, match=r"world_size: found 9.*8 contrast groups.*1 to 8"):
        deal_groups(8, 0, 9)
    with pytest.raises(ValueError, match=r"rank: found 2.*0 to 1"):
        deal_groups(8, 2, 2)


def test_even_split_by_hand() -> None:
    assert even_split(10, 4).tolist() == [0, 3, 6, 8, 10]
    assert even_split(3, 3).tolist() == [0, 1, 2, 3]
    assert even_split(2, 4).tolist() == [0, 1, 2, 2, 2]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (40, Layout(40, 16, 1, 64)),
        (64, Layout(64, 16, 2, 64)),
        (700, Layout(700, 16, 4, 64)),
        (9_000, Layout(9_000, 32, 16, 64)),
        (262_144, Layout(262_144, 256, 64, 4)),
        (100_000_000, Layout(100_000_000, 256, 64, 4)),
    ],
)
def test_layouts_by_hand(rows: int, expected: Layout) -> None:
    assert choose_layout(rows) == expected


def test_a_lane_always_has_at_least_two_blocks_when_there_are_rows_for_it() -> None:
    for rows in range(64, 70_000, 97):
        layout = choose_layout(rows)
        assert layout.lanes >= 2
        assert rows >= layout.lanes * 2 * layout.block_rows


@pytest.mark.parametrize(
    ("batch", "lanes_per_group"), [(256, 2), (512, 2), (4096, 2), (8192, 1), (64, 2), (128 * 16, 2)]
)
def test_the_contrast_group_by_hand(batch: int, lanes_per_group: int) -> None:
    """16 lanes leave 8 groups of 2, or 16 of 1 once two lanes give more than 512 rows."""
    order = Order(Layout(10**6, 256, 16, 4), "f", 0, batch)
    assert order.lanes_per_group == lanes_per_group
    assert order.rows_per_group * order.num_groups == batch


def test_batches_and_groups_that_do_not_divide_are_refused_with_what_is_allowed() -> None:
    layout = Layout(9000, 32, 16, 4)
    with pytest.raises(ValueError, match=r"global_batch_rows: found 100.*multiple of 16, such as 96 or 112"):
        Order(layout, "f", 0, 100)
    with pytest.raises(ValueError, match=r"global_batch_rows: found 0.*such as 16"):
        Order(layout, "f", 0, 0)
    with pytest.raises(ValueError, match=r"group_rows: found 48.*one of 16, 32, 64, 128, 256"):
        Order(layout, "f", 0, 256, group_rows=48)
    assert Order(layout, "f", 0, 256, group_rows=64).lanes_per_group == 4


def test_a_step_outside_the_epoch_is_refused() -> None:
    order = Order(Layout(9000, 32, 16, 4), "f", 0, 256)
    with pytest.raises(ValueError, match=r"step: found 35 to 35.*0 to 34"):
        order.rows(0, 35, range(16))


def test_positions_count_over_the_end_of_the_epoch() -> None:
    order = Order(Layout(700, 16, 4, 64), "f", 0, 300)
    assert order.steps_per_epoch == 2
    assert order.after(Position(4, 0)) == Position(4, 1)
    assert order.after(Position(4, 1)) == Position(5, 0)
    with pytest.raises(ValueError, match="position: found epoch -1"):
        Position(-1, 0)


def test_a_hundred_million_rows_start_at_once_and_hold_nothing() -> None:
    order = Order(choose_layout(100_000_001), "f", 0, 4096)
    rows = np.concatenate([order.rows(0, step, range(64)) for step in (0, 12_000, order.steps_per_epoch - 1)])
    assert len(np.unique(rows)) == 3 * 4096
    assert rows.max() < 100_000_001
    assert set(vars(order)) == {"layout", "fingerprint", "seed", "global_batch_rows", "group_rows", "_lane_borders"}


def test_batches_of_source_sorted_data_mix_as_a_true_shuffle_does() -> None:
    """Rows labelled by which twentieth of the pack they lie in, as if pack had not shuffled at all.

    A batch of 4,096 true draws has an entropy close to log2(20); the gap stays below 0.35 bit for a pack in source
    order and (labels by pack's shuffle) below 0.01 bit for a real one, the last 5 % of the epoch included.
    """
    order = Order(choose_layout(262_144), "f", 0, 4096)
    batches = epoch_rows(order, 0)
    shuffled = np.random.default_rng(0).permutation(262_144)

    def entropy_gap(labels: np.ndarray) -> float:
        counts = np.stack([np.bincount(row, minlength=20) for row in labels]).astype(float)
        share = counts / counts.sum(axis=1, keepdims=True)
        entropy = -(share * np.log2(np.maximum(share, 1e-12))).sum(axis=1)
        return float(np.log2(20) - entropy.min())

    assert entropy_gap(batches * 20 // 262_144) < 0.35
    assert entropy_gap(shuffled[batches] * 20 // 262_144) < 0.01


def test_rows_of_a_batch_lie_far_apart() -> None:
    """Mean distance of two rows of a batch over that of random pairs (a third of the rows): 0 is sequential, 1 random.

    The rows of one lane stand in ascending order, so the pairs are drawn.
    """
    order = Order(choose_layout(9_000), "f", 0, 256)
    rows = np.random.default_rng(0).permuted(epoch_rows(order, 0), axis=1)
    assert 0.95 < np.abs(np.diff(rows, axis=1)).mean() / (9_000 / 3) < 1.05


def test_the_rows_of_one_lane_ascend_within_a_step() -> None:
    order = Order(Layout(9_001, 32, 16, 4), "f", 0, 1_600)
    by_lane = epoch_rows(order, 1).reshape(-1, order.lane_batch_rows)
    assert (np.diff(by_lane, axis=1) > 0).all()
