import gc
import itertools
import logging
import pickle
import tracemalloc
from concurrent.futures import wait
from pathlib import Path

import numpy as np
import pytest
import torch

from dynfusion.store.dataset import Dataset
from dynfusion.store.feed import Feed, FeedSettings
from dynfusion.store.order import Order, Position
from dynfusion.store.pack_inputs import PackSettings
from tests.store.sources import packed


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """About 700 rows over several shards, the last block a short one."""
    found = packed(tmp_path_factory.mktemp("data"), 720, PackSettings(shard_bytes=9_000, lanes=8))
    assert len(found.manifest.shards) > 2
    assert found.manifest.rows % found.manifest.block_rows
    return found


def order_of(dataset: Dataset, batch: int = 64) -> Order:
    return Order(dataset.manifest.layout, dataset.manifest.fingerprint, 5, batch)


Frozen = tuple[tuple[bytes, ...], bytes, list[int], Position]


def read(dataset: Dataset, count: int, *, start: Position = Position(0, 0), **choices: object) -> list[Frozen]:  # noqa: B008
    """The bytes of the next batches, copied out of their buffers at once."""
    order = order_of(dataset)
    settings = FeedSettings(**choices)  # type: ignore[arg-type]
    with Feed(dataset, order, rank=0, world_size=1, start=start, settings=settings) as feed:
        return [
            (
                tuple(values.numpy().tobytes() for values in batch.values),
                batch.present.numpy().tobytes(),
                batch.row_ids.tolist(),
                batch.position,
            )
            for batch in itertools.islice(feed, count)
        ]


def test_a_batch_holds_what_the_dataset_reads_for_the_orders_rows_over_three_epochs(dataset: Dataset) -> None:
    order = order_of(dataset)
    with Feed(dataset, order, rank=0, world_size=1) as feed:
        position = Position(0, 0)
        for batch in itertools.islice(feed, 3 * order.steps_per_epoch):
            rows = order.rows(position.epoch, position.step, range(order.layout.lanes))
            expected = dataset.read("train", rows)
            assert batch.position == position
            assert (batch.row_ids.numpy() == rows).all()
            assert (batch.present.numpy() == expected.present).all()
            for values, name in zip(batch.values, dataset.manifest.names, strict=True):
                assert (values.numpy() == expected.values[name]).all()
            position = order.after(position)
            assert feed.position == position
        assert position == Position(3, 0)


def test_absent_rows_are_zero_and_masked(dataset: Dataset) -> None:
    with Feed(dataset, order_of(dataset), rank=0, world_size=1) as feed:
        batch = next(feed)
        for number, values in enumerate(batch.values):
            absent = ~batch.present[:, number]
            assert absent.any()
            assert (values[absent] == 0).all()
            assert (values[~absent] != 0).any(dim=1).all()


def test_ranks_share_every_global_batch_group_by_group(dataset: Dataset) -> None:
    order = order_of(dataset)
    assert order.num_groups == 8
    whole = [rows for _, _, rows, _ in read(dataset, 30)]
    for world_size in (1, 2, 3, 4, 7, 8):
        feeds = [Feed(dataset, order, rank=rank, world_size=world_size) for rank in range(world_size)]
        for rows in whole:
            assert [row for feed in feeds for row in next(feed).row_ids.tolist()] == rows
        for feed in feeds:
            feed.close()


def test_resuming_anywhere_gives_the_same_bytes(dataset: Dataset) -> None:
    steps = order_of(dataset).steps_per_epoch
    uninterrupted = read(dataset, 2 * steps + 2)
    for at in (1, steps - 1, steps, steps + 3):
        start = uninterrupted[at][3]
        assert read(dataset, 5, start=start) == uninterrupted[at : at + 5]


def test_the_number_of_threads_and_buffers_changes_nothing(dataset: Dataset) -> None:
    one = read(dataset, 40, threads=1)
    assert read(dataset, 40, threads=3) == one
    batch_bytes = 64 * (2 * sum(dataset.manifest.dims) + 3 + 8)
    assert read(dataset, 40, threads=2, slab_bytes=3 * batch_bytes) == one


def test_a_batch_stays_until_the_next_but_one_call_and_no_buffer_is_made_after_the_start(dataset: Dataset) -> None:
    with Feed(dataset, order_of(dataset), rank=0, world_size=1) as feed:
        addresses = set()
        before = next(feed)
        for _ in range(40):
            kept = before.values[1].clone(), before.row_ids.clone()
            batch = next(feed)
            assert torch.equal(before.values[1], kept[0])
            assert torch.equal(before.row_ids, kept[1])
            addresses.add(batch.values[1].data_ptr())
            before = batch
        assert len(addresses) == 6


def test_nothing_adds_up_in_the_steady_state(tmp_path: Path) -> None:
    """Measured when no thread is at work, since what a gather needs for a moment is there or not by chance. What may
    come and go even then is what the order computes for some steps at once, here an epoch of 8 bytes a row.
    """
    dataset = packed(tmp_path, 4_000, PackSettings(lanes=8))
    order = order_of(dataset, 512)
    planned_bytes = 8 * 512 * order.steps_per_epoch
    with Feed(dataset, order, rank=0, world_size=1) as feed:
        gc.collect()
        gc.freeze()
        tracemalloc.start()
        held = []
        for _ in range(120):
            next(feed)
            wait([future for _, _, future in feed._pending])
            gc.collect()
            held.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        gc.unfreeze()
    assert max(held[80:]) < max(held[20:80]) + planned_bytes
    assert max(held) < 8 * 8 * 16_384


def test_the_resume_state_is_two_numbers(dataset: Dataset) -> None:
    with Feed(dataset, order_of(dataset), rank=0, world_size=1) as feed:
        next(feed)
        assert len(pickle.dumps(feed.position)) <= 1_024


def test_reading_ahead_leaves_the_callers_number_of_threads_alone(dataset: Dataset) -> None:
    usual = torch.get_num_threads()
    torch.set_num_threads(2)
    with Feed(dataset, order_of(dataset), rank=0, world_size=1, settings=FeedSettings(threads=2)) as feed:
        next(feed)
        assert torch.get_num_threads() == 2
        assert feed._pool is not None
        assert {feed._pool.submit(torch.get_num_threads).result() for _ in range(8)} == {1}
    torch.set_num_threads(usual)


def test_the_skipped_tail_is_logged_once_an_epoch(dataset: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    order = order_of(dataset, 128)
    with caplog.at_level(logging.INFO), Feed(dataset, order, rank=0, world_size=1) as feed:
        for _ in range(2 * order.steps_per_epoch):
            next(feed)
    epochs = [record.args for record in caplog.records]
    assert epochs[:2] == [(number, order.skipped_rows, order.layout.rows) for number in (0, 1)]


def test_a_feed_is_refused_with_a_sentence(dataset: Dataset, tmp_path: Path) -> None:
    order = order_of(dataset)
    with pytest.raises(ValueError, match=rf"global_batch_rows: found 800.* has {order.layout.rows} training rows"):
        Feed(dataset, order_of(dataset, 800), rank=0, world_size=1)
    with pytest.raises(ValueError, match=r"world_size: found 9.*1 to 8"):
        Feed(dataset, order, rank=0, world_size=9)
    with pytest.raises(ValueError, match=rf"start: found step {order.steps_per_epoch},"):
        Feed(dataset, order, rank=0, world_size=1, start=Position(0, order.steps_per_epoch))
    with pytest.raises(ValueError, match="slab_bytes: found 100, a batch of this rank takes"):
        Feed(dataset, order, rank=0, world_size=1, settings=FeedSettings(slab_bytes=100))
    with pytest.raises(ValueError, match="order: it belongs to dataset"):
        Feed(packed(tmp_path, 40), order, rank=0, world_size=1)


def test_a_closed_feed_says_so_and_closes_twice(dataset: Dataset) -> None:
    feed = Feed(dataset, order_of(dataset), rank=0, world_size=1)
    last = next(feed)
    feed.close()
    feed.close()
    with pytest.raises(ValueError, match="feed: it was closed"):
        next(feed)
    assert feed.position == order_of(dataset).after(last.position)


def test_a_dataset_pickles_as_its_address_and_outlives_its_feeds(dataset: Dataset) -> None:
    dataset.read("train", slice(3))
    copy = pickle.loads(pickle.dumps(dataset))
    assert len(pickle.dumps(dataset)) < 1_000
    assert copy == dataset
    feed = Feed(copy, order_of(copy), rank=0, world_size=1)
    values = next(feed).values[0].clone()
    del copy, feed
    gc.collect()
    assert values.numpy().tobytes() == read(dataset, 1)[0][0][0]


@pytest.mark.parametrize("rows", [20, 40, 64])
def test_the_smallest_sets_feed_too(tmp_path: Path, rows: int) -> None:
    dataset = packed(tmp_path, rows)
    order = Order(dataset.manifest.layout, dataset.manifest.fingerprint, 0, 8)
    with Feed(dataset, order, rank=0, world_size=1) as feed:
        epoch = [next(feed).row_ids.numpy().copy() for _ in range(order.steps_per_epoch)]
    assert len(np.unique(epoch)) == order.steps_per_epoch * 8
