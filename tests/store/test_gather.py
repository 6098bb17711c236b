"""Resident and on-device reading against the plain one: the same bytes."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dynfusion.store.batch_buffers import make_buffer
from dynfusion.store.dataset import Dataset, open_dataset
from dynfusion.store.device_gather import DeviceGather
from dynfusion.store.feed import Feed, FeedSettings
from dynfusion.store.gather import HostGather, Planned
from dynfusion.store.order import Order, Position
from dynfusion.store.pack import pack
from dynfusion.store.pack_inputs import PackInputs, PackSettings
from tests.store.sources import packed, vectors, write_folder

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """About 2,300 rows, several shards, a short last block."""
    return packed(tmp_path_factory.mktemp("data"), 2_400, PackSettings(shard_bytes=30_000, lanes=4, block_rows=16))


def order_of(dataset: Dataset, batch: int, **layout: int) -> Order:
    return Order(replace(dataset.manifest.layout, **layout), dataset.manifest.fingerprint, 5, batch)


def positions(order: Order, start: Position, count: int) -> list[Position]:
    return list(itertools.islice(itertools.accumulate(itertools.repeat(start), lambda at, _: order.after(at)), count))


@pytest.mark.parametrize("batch", [64, 200, 256])
@pytest.mark.parametrize("resident", [False, True])
@pytest.mark.parametrize("lanes", [range(4), range(1, 3)])
def test_blocks_permuted_on_the_device_give_the_batches_of_the_host(
    dataset: Dataset, batch: int, resident: bool, lanes: range
) -> None:
    order, part = order_of(dataset, batch, window_blocks=3), dataset.mapped("train")
    assert order.steps_per_epoch > 2 * order.layout.window_rows // order.lane_batch_rows
    rows, dims, start = len(lanes) * order.lane_batch_rows, dataset.manifest.dims, Position(0, 3)
    planned = Planned(order, lanes)
    host = HostGather(part, dataset.manifest, planned)
    device = DeviceGather(part, dataset.manifest, planned, device=CPU, resident=resident, start=start, threads=2)
    expected, found = make_buffer(rows, dims, CPU), make_buffer(rows, dims, CPU)
    for position in positions(order, start, 2 * order.steps_per_epoch + 3):
        host.fill(expected, position)
        device.fill(found, position)
        assert torch.equal(found.row_ids, expected.row_ids)
        assert torch.equal(found.present, expected.present)
        for one, other in zip(found.values, expected.values, strict=True):
            assert torch.equal(one, other)
    device.close()


def test_a_copy_in_memory_gives_the_same_batches_while_it_is_made_and_after(dataset: Dataset) -> None:
    order = order_of(dataset, 64)
    with (
        Feed(dataset, order, rank=0, world_size=1, settings=FeedSettings(resident="never")) as plain,
        Feed(dataset, order, rank=0, world_size=1, settings=FeedSettings(resident="always")) as resident,
    ):
        before = resident._source._source[0]
        for expected, found in itertools.islice(zip(plain, resident, strict=True), 2 * order.steps_per_epoch):
            assert found.position == expected.position
            assert torch.equal(found.row_ids, expected.row_ids)
            assert torch.equal(found.present, expected.present)
            for one, other in zip(found.values, expected.values, strict=True):
                assert torch.equal(one, other)
        assert resident._source._source[0] is not before


def test_a_modality_that_is_never_absent_is_present_everywhere_beside_one_that_is(tmp_path: Path) -> None:
    ids = [f"m{number:03d}" for number in range(200)]
    folders = {
        "full": write_folder(tmp_path / "full", vectors(200, 8, seed=0, absent=0.0), ids),
        "gaps": write_folder(tmp_path / "gaps", vectors(200, 8, seed=1, absent=0.3), ids),
    }
    pack(PackInputs(folders), out=tmp_path / "packed")
    dataset = open_dataset(tmp_path / "packed")
    assert dataset.manifest.modalities[0].present_rows == dataset.manifest.rows == 200
    with Feed(dataset, order_of(dataset, 40), rank=0, world_size=1) as feed:
        for batch in itertools.islice(feed, 10):
            assert (batch.present.numpy() == dataset.read("train", batch.row_ids.numpy()).present).all()
            assert batch.present[:, 0].all()
            assert not batch.present[:, 1].all()


@pytest.mark.gpu
@pytest.mark.parametrize("resident", ["never", "always"])
def test_a_gpu_gets_the_batches_of_the_host_even_when_it_is_behind(dataset: Dataset, resident: str) -> None:
    order = order_of(dataset, 64)
    device = torch.device("cuda")
    settings = FeedSettings(resident=resident)
    with (
        Feed(dataset, order, rank=0, world_size=1) as plain,
        Feed(dataset, order, rank=0, world_size=1, settings=settings, device=device) as feed,
    ):
        kept = []
        for expected, found in itertools.islice(zip(plain, feed, strict=True), 2 * order.steps_per_epoch):
            torch.cuda._sleep(10_000_000)  # the reader's stream lags behind the feed's streams
            assert found.values[0].device.type == "cuda"
            kept.append((expected.row_ids.clone(), found.row_ids.clone(), found.values[1].clone()))
            assert torch.equal(found.present.cpu(), expected.present)
        for expected_rows, rows, values in kept:
            assert torch.equal(rows.cpu(), expected_rows)
            read = dataset.read("train", expected_rows.numpy())
            assert values.cpu().numpy().tobytes() == read.values[dataset.manifest.names[1]].tobytes()
