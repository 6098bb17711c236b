"""A damaged local shard is an error wherever its block is read, and names shard and block."""

import re
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dynfusion.store import checked_blocks
from dynfusion.store.checked_blocks import CheckedBlocks
from dynfusion.store.dataset import Dataset, open_dataset
from dynfusion.store.feed import Feed, FeedSettings
from dynfusion.store.order import Order
from dynfusion.store.pack_inputs import PackSettings
from dynfusion.verbs.sample import sample
from tests.store.sources import packed
from tests.store.test_verify import spoil

WRONG = r"shard .*{shard}: the checksum of block {block} is wrong"


@pytest.fixture
def damaged(tmp_path: Path) -> Dataset:
    """Sixteen rows a block, several shards; one bit of block 1 of the second training shard is wrong."""
    dataset = packed(tmp_path, 300, PackSettings(holdout=0.2, shard_bytes=3_000, block_rows=16))
    geometry, shard = dataset.manifest.geometry, dataset.manifest.shards[1]
    assert shard.blocks > 1
    spoil(tmp_path / "packed" / shard.path, geometry.first_block + geometry.block_bytes + geometry.values_offsets[0])
    return open_dataset(tmp_path / "packed")


def bad_rows(dataset: Dataset) -> range:
    first = dataset.manifest.shards[0].rows + dataset.manifest.block_rows
    return range(first, first + dataset.manifest.block_rows)


def test_reading_rows_of_a_damaged_block_is_an_error_and_other_rows_are_read(damaged: Dataset) -> None:
    bad, total = bad_rows(damaged), damaged.manifest.rows
    good = np.setdiff1d(np.arange(total), np.array(bad))
    assert damaged.read("train", good).row_ids.tolist() == good.tolist()
    sentence = WRONG.format(shard=damaged.manifest.shards[1].path, block=1)
    for rows in (slice(bad[3], bad[3] + 1), slice(None), np.array([0, bad[-1]])):
        for _ in range(2):
            with pytest.raises(ValueError, match=sentence):
                damaged.read("train", rows)
    assert len(damaged.read("holdout").row_ids) == damaged.manifest.holdout_rows
    with pytest.raises(ValueError, match=sentence):
        sample(damaged.uri, rows=total)


def test_a_block_is_checked_once(damaged: Dataset, tmp_path: Path) -> None:
    blocks = CheckedBlocks(damaged.mapped("holdout"), tmp_path / "packed", damaged.manifest, "holdout")
    blocks.hold(np.arange(3), None)
    geometry = damaged.manifest.geometry
    for number in (0, 1):
        path = tmp_path / "packed" / damaged.manifest.holdout_shards[0].path
        spoil(path, geometry.first_block + number * geometry.block_bytes + geometry.values_offsets[0])
    blocks.hold(np.arange(3), None)
    with pytest.raises(ValueError, match=WRONG.format(shard="holdout-00000.arrow", block=1)):
        blocks.hold(np.array([16]), None)


def test_threads_that_want_the_same_blocks_check_each_once(
    damaged: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them wait until the blocks are right, and a wrong one fails all who wait for it."""
    manifest, wanted, computed = damaged.manifest, threading.Barrier(3), []

    def slow(content: memoryview) -> int:
        computed.append(len(content))
        time.sleep(0.005)
        return zlib.crc32(content)

    monkeypatch.setattr(checked_blocks, "zlib", SimpleNamespace(crc32=slow))
    blocks = CheckedBlocks(damaged.mapped("train"), tmp_path / "packed", manifest, "train")
    bad = bad_rows(damaged)

    def hold(rows: np.ndarray) -> str:
        wanted.wait()
        try:
            blocks.hold(rows, None)
        except ValueError as error:
            return str(error)
        return "right"

    with ThreadPoolExecutor(3) as pool:
        good = np.setdiff1d(np.arange(manifest.rows), np.array(bad))
        assert list(pool.map(hold, [good, good[::-1], good])) == ["right"] * 3
        assert len(computed) == sum(shard.blocks for shard in manifest.shards) - 1
        computed.clear()
        answers = list(pool.map(hold, [np.array(bad), np.array(bad), good]))
    assert answers[2] == "right"
    assert all(re.search(WRONG.format(shard=manifest.shards[1].path, block=1), answer) for answer in answers[:2])


def test_a_damaged_table_of_checksums_is_named_and_no_shard_is_blamed(tmp_path: Path) -> None:
    manifest = packed(tmp_path, 100).manifest
    spoil(tmp_path / "packed" / manifest.blocks.path, 16 + 12)
    with pytest.raises(ValueError, match=r"blocks\.bin: its SHA-256 is not the manifest's") as found:
        open_dataset(tmp_path / "packed").read("train", np.array([0]))
    assert "shard" not in str(found.value)


def test_the_feed_meets_a_damaged_block_unless_told_not_to_look(damaged: Dataset) -> None:
    manifest = damaged.manifest
    order = Order(manifest.layout, manifest.fingerprint, 0, manifest.lanes)

    def epoch(settings: FeedSettings) -> int:
        with Feed(damaged, order, rank=0, world_size=1, settings=settings) as feed:
            return sum(len(next(feed).row_ids) for _ in range(order.steps_per_epoch))

    assert epoch(FeedSettings(check=False)) == order.steps_per_epoch * manifest.lanes
    for resident in ("never", "always"):
        with pytest.raises(ValueError, match=WRONG.format(shard=manifest.shards[1].path, block=1)):
            epoch(FeedSettings(resident=resident))
