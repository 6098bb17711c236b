"""Whatever a store or a network does, a feed's rows are those of the fault-free run, or there is one clear sentence."""

import itertools
import multiprocessing
import threading
from collections.abc import Callable
from multiprocessing.queues import Queue
from pathlib import Path

import numpy as np
import pytest
import torch

from dynfusion.edges.datasets import open_dataset, upload
from dynfusion.edges.object_store import Library, ObjectStore
from dynfusion.edges.s3_address import S3Address
from dynfusion.store import dataset as local
from dynfusion.store.dataset import Dataset
from dynfusion.store.feed import Feed, FeedSettings
from dynfusion.store.foresight import least_blocks
from dynfusion.store.manifest import with_fingerprint, write_manifest
from dynfusion.store.order import Order, Position
from dynfusion.store.origin import CacheSettings, Remote
from dynfusion.store.pack_inputs import PackSettings
from tests.edges.remote_readers import epoch_digest, read_all, read_rank
from tests.s3 import FAULTS, FaultProxy, make_bucket, put
from tests.store.sources import packed

BUCKET = "remote-feed"
OURS = ("blocks", "shards", "ranges", "feed")
"""How the names of a feed's threads begin."""
Batches = list[tuple[bytes, ...]]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Three shards of 16-row blocks in 8 lanes, windows of two blocks a lane, some rows held out."""
    folder = tmp_path_factory.mktemp("data")
    settings = PackSettings(shard_bytes=60_000, lanes=8, block_rows=16, holdout=0.1)
    content = packed(folder, 2_000, settings).manifest.model_dump(mode="json")
    write_manifest(with_fingerprint({**content, "window_blocks": 2}), folder / "packed")
    return local.open_dataset(folder / "packed")


@pytest.fixture(scope="module")
def uploaded(s3: str, here: Dataset) -> str:
    """The endpoint of the store that has the dataset in BUCKET."""
    make_bucket(s3, BUCKET)
    upload(Path(here.uri), f"s3://{BUCKET}/set?endpoint_override={s3}")
    return s3


def remote(
    endpoint: str,
    cache: CacheSettings = CacheSettings(),  # noqa: B008
    *,
    carrier: Library = "pyarrow",
    processes: int = 1,
    deadline_seconds: float = 30.0,
) -> Dataset:
    store = ObjectStore(
        S3Address(BUCKET, "set", endpoint), carrier, deadline_seconds=deadline_seconds, stall_seconds=1.0
    )
    return local.open_dataset(f"s3://{BUCKET}/set", Remote(store, cache, processes))


def order_of(dataset: Dataset) -> Order:
    return Order(dataset.manifest.layout, dataset.manifest.fingerprint, 5, 64)


def batches(
    dataset: Dataset,
    count: int | None = None,
    *,
    start: Position = Position(0, 0),  # noqa: B008, it is frozen
    rank: int = 0,
    world_size: int = 1,
) -> Batches:
    """The bytes of the next batches, an epoch by default."""
    order = order_of(dataset)
    settings = FeedSettings(threads=2)
    with Feed(dataset, order, rank=rank, world_size=world_size, start=start, settings=settings) as feed:
        return [
            (
                *(values.numpy().tobytes() for values in batch.values),
                batch.present.numpy().tobytes(),
                batch.row_ids.numpy().tobytes(),
            )
            for batch in itertools.islice(feed, count or order.steps_per_epoch)
        ]


def small(dataset: Dataset, folder: Path) -> CacheSettings:
    """A cache with room for the blocks of one step and a few more, a fraction of the data set."""
    size = (least_blocks(order_of(dataset), range(8)) + 20) * dataset.manifest.geometry.block_bytes
    assert size < sum(shard.bytes for shard in dataset.manifest.shards) / 2
    return CacheSettings(cache_dir=str(folder), cache_bytes=size)


Way = Callable[[Dataset, Path], CacheSettings]
WAYS: dict[str, Way] = {
    "whole shards": lambda dataset, folder: CacheSettings(cache_dir=str(folder)),
    "small cache": small,
    "memory": lambda dataset, folder: CacheSettings(),
}


@pytest.fixture(params=WAYS.values(), ids=WAYS.keys())
def cache(request: pytest.FixtureRequest, here: Dataset, tmp_path: Path) -> CacheSettings:
    return request.param(here, tmp_path / "cache")


def shard_fault(fault: str, times: int, first: str = "train-") -> Callable[[str, str, int], str | None]:
    """The first requests for the bytes of each shard go wrong, from shard `first` on."""

    def judge(method: str, path: str, count: int) -> str | None:
        name = path.rpartition("/")[2]
        return fault if method == "GET" and name.startswith("train-") and name >= first and count < times else None

    return judge


@pytest.mark.parametrize("carrier", ["pyarrow", "s3fs"])
def test_a_remote_feed_gives_the_local_one_s_bytes_over_two_epochs(
    uploaded: str, here: Dataset, cache: CacheSettings, carrier: Library
) -> None:
    count = 2 * order_of(here).steps_per_epoch
    assert batches(remote(uploaded, cache, carrier=carrier), count) == batches(here, count)


def test_a_remote_feed_resumes_anywhere(uploaded: str, here: Dataset, cache: CacheSettings) -> None:
    for start in (Position(0, 1), Position(0, order_of(here).steps_per_epoch - 1), Position(3, 7)):
        assert batches(remote(uploaded, cache), 20, start=start) == batches(here, 20, start=start)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("carrier", ["pyarrow", "s3fs"])
def test_a_fault_that_passes_changes_no_byte(
    uploaded: str, here: Dataset, tmp_path: Path, carrier: Library, fault: str
) -> None:
    expected, times = batches(here), 1 if fault in ("stall", "expired") else 2
    shards = here.manifest.shards[-1:] if fault == "stall" else here.manifest.shards
    for way in ("whole shards",) if fault == "stall" else ("whole shards", "memory"):
        with FaultProxy(uploaded, shard_fault(fault, times, shards[0].path)) as proxy:
            assert batches(remote(proxy.endpoint, WAYS[way](here, tmp_path / way), carrier=carrier)) == expected
            assert proxy.done == [fault] * times * len(shards)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_a_small_file_changes_no_byte(uploaded: str, here: Dataset, tmp_path: Path, fault: str) -> None:
    def first(method: str, path: str, count: int) -> str | None:
        return fault if method == "GET" and path.endswith(("blocks.bin", ".rows.arrow")) and count == 0 else None

    with FaultProxy(uploaded, first) as proxy:
        dataset = remote(proxy.endpoint, CacheSettings(cache_dir=str(tmp_path)))
        assert dataset.table("train").equals(here.table("train"))
        assert batches(dataset, 3) == batches(here, 3)
        assert proxy.done


@pytest.mark.parametrize(("carrier", "way"), [("pyarrow", "whole shards"), ("s3fs", "small cache")])
@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("wrong byte", r"shard train-0000\d\.arrow: the checksum of block \d+ is wrong, fetched 3 times"),
        ("expired", r"s3://remote-feed/set/train-0000\d\.arrow: access is denied, .*; check the credentials"),
        ("denied", r"s3://remote-feed/set/train-0000\d\.arrow: access is denied, .*; check the credentials"),
        ("slow down", r"s3://remote-feed/set/train-0000\d\.arrow: still failing after \d+ attempts in \d+ s, "),
    ],
)
def test_a_fault_that_stays_is_one_sentence_and_no_row(
    uploaded: str, here: Dataset, tmp_path: Path, way: str, carrier: Library, fault: str, sentence: str
) -> None:
    cache = WAYS[way](here, tmp_path)
    with FaultProxy(uploaded, shard_fault(fault, 10_000)) as proxy:
        dataset = remote(proxy.endpoint, cache, carrier=carrier, deadline_seconds=0.5 if fault == "slow down" else 10.0)
        with pytest.raises(ValueError, match=sentence) as caught:
            batches(dataset)
        assert "\n" not in str(caught.value)


def test_a_shard_shorter_than_its_manifest_is_one_sentence_at_once(
    s3: str, here: Dataset, cache: CacheSettings
) -> None:
    """With 300 s to try again in, no range of the shard is asked for twice."""
    shard, bucket = here.manifest.shards[0], "short-shard"
    make_bucket(s3, bucket)
    upload(Path(here.uri), f"s3://{bucket}/set?endpoint_override={s3}")
    put(s3, f"/{bucket}/set/{shard.path}", (Path(here.uri) / shard.path).read_bytes()[: shard.bytes // 3])
    sentence = rf"s3://{bucket}/set/{shard.path}: found {shard.bytes // 3} bytes, at least \d+ are expected"
    with FaultProxy(s3, lambda method, path, count: None) as proxy:
        store = ObjectStore(S3Address(bucket, "set", proxy.endpoint))
        with pytest.raises(ValueError, match=sentence):
            batches(local.open_dataset(f"s3://{bucket}/set", Remote(store, cache)))
        assert proxy.seen.count(("GET", f"/{bucket}/set/{shard.path}")) <= shard.blocks


def test_a_feed_that_cannot_be_opened_closes_what_it_had_opened(
    uploaded: str, here: Dataset, cache: CacheSettings
) -> None:
    before, order = set(threading.enumerate()), order_of(here)
    far = remote(uploaded, cache)
    with pytest.raises(ValueError, match="slab_bytes: found 100"):
        Feed(far, order, rank=0, world_size=1, settings=FeedSettings(slab_bytes=100))
    assert not [thread.name for thread in set(threading.enumerate()) - before if thread.name.startswith(OURS)]
    with Feed(far, order, rank=0, world_size=1) as feed:
        next(feed)
        assert [thread.name for thread in set(threading.enumerate()) - before if thread.name.startswith(OURS)]
    assert batches(far, 3) == batches(here, 3)


def test_wrong_keys_are_one_sentence_when_the_data_set_is_opened(uploaded: str) -> None:
    with (
        FaultProxy(uploaded, lambda method, path, count: "denied") as proxy,
        pytest.raises(ValueError, match=r"s3://remote-feed/set/manifest.json: access is denied"),
    ):
        remote(proxy.endpoint)


def test_an_expired_key_is_replaced_by_what_the_environment_has_by_then(
    uploaded: str, here: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def expire(method: str, path: str, count: int) -> str | None:
        if method == "GET" and "train-00001" in path and count == 0:
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", "renewed")
            return "expired"
        return None

    with FaultProxy(uploaded, expire) as proxy:
        assert batches(remote(proxy.endpoint)) == batches(here)
        assert proxy.done == ["expired"]


def test_a_missing_set_is_named(uploaded: str) -> None:
    with pytest.raises(
        ValueError, match=r"s3://remote-feed/other\?.*: no packed dataset here, manifest.json is missing"
    ):
        open_dataset(f"s3://{BUCKET}/other?endpoint_override={uploaded}")


def test_rows_and_tables_are_read_from_afar(uploaded: str, here: Dataset, cache: CacheSettings) -> None:
    far = remote(uploaded, cache)
    rows = np.random.default_rng(0).integers(0, here.manifest.rows, 300)
    for part, some in (("train", rows), ("holdout", None), ("train", slice(5, 40))):
        near, read = here.read(part, some), far.read(part, some)
        assert (near.row_ids == read.row_ids).all()
        assert (near.present == read.present).all()
        for name in here.manifest.names:
            assert near.values[name].tobytes() == read.values[name].tobytes()
    for part in ("train", "holdout", "dropped"):
        assert far.table(part).equals(here.table(part))


def test_all_rows_become_resident_from_a_cache_that_holds_them(uploaded: str, here: Dataset, tmp_path: Path) -> None:
    far, order = remote(uploaded, CacheSettings(cache_dir=str(tmp_path))), order_of(here)
    with (
        Feed(far, order, rank=0, world_size=1, settings=FeedSettings(resident="always")) as feed,
        Feed(here, order, rank=0, world_size=1) as near,
    ):
        for _ in range(2 * order.steps_per_epoch):
            found, expected = next(feed), next(near)
            assert all(torch.equal(*pair) for pair in zip(found.values, expected.values, strict=True))
    with pytest.raises(ValueError, match="resident: found always, but this dataset's blocks come from far away"):
        Feed(remote(uploaded), order, rank=0, world_size=1, settings=FeedSettings(resident="always"))


def test_a_warm_cache_asks_for_no_shard(uploaded: str, here: Dataset, tmp_path: Path) -> None:
    cache = CacheSettings(cache_dir=str(tmp_path))
    batches(remote(uploaded, cache))
    with FaultProxy(uploaded, lambda method, path, count: None) as proxy:
        assert batches(remote(proxy.endpoint, cache)) == batches(here)
        assert not [path for _, path in proxy.seen if "train-" in path or "blocks" in path]


@pytest.mark.parametrize("damage", ["changed", "truncated", "half written", "missing"])
def test_a_damaged_cache_entry_is_found_and_fetched_again(
    uploaded: str, here: Dataset, tmp_path: Path, damage: str
) -> None:
    cache = CacheSettings(cache_dir=str(tmp_path))
    batches(remote(uploaded, cache))
    entry = tmp_path / here.manifest.fingerprint / here.manifest.shards[1].path
    content = bytearray(entry.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "changed":
        entry.write_bytes(content)
    elif damage == "truncated":
        entry.write_bytes(content[:-100])
    elif damage == "half written":
        entry.rename(entry.with_name(f".{entry.name}.partial"))
    else:
        entry.unlink()
    with FaultProxy(uploaded, lambda method, path, count: None) as proxy:
        assert batches(remote(proxy.endpoint, cache)) == batches(here)
        assert {path for method, path in proxy.seen if method == "GET" and "train-" in path} == {
            f"/{BUCKET}/set/{entry.name}"
        }
    assert entry.read_bytes() == (Path(here.uri) / entry.name).read_bytes()


def test_a_small_cache_never_holds_more_than_it_may_and_brings_a_block_at_most_once_an_epoch(
    uploaded: str, here: Dataset, tmp_path: Path
) -> None:
    cache, order, epochs = small(here, tmp_path), order_of(here), 3
    with FaultProxy(uploaded, lambda method, path, count: None) as proxy:
        dataset, largest = remote(proxy.endpoint, cache), 0
        with Feed(dataset, order, rank=0, world_size=1) as feed:
            for _ in itertools.islice(feed, epochs * order.steps_per_epoch):
                largest = max(largest, sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()))
        brought = len([path for method, path in proxy.seen if method == "GET" and "train-" in path])
    ahead = least_blocks(order, range(8)) * 2
    assert brought <= epochs * order.layout.num_blocks + ahead
    assert largest <= cache.cache_bytes
    assert not list(tmp_path.glob("blocks-*"))


def test_a_cache_below_one_step_is_refused_with_the_bytes_it_takes(uploaded: str, tmp_path: Path) -> None:
    cache = CacheSettings(cache_dir=str(tmp_path), cache_bytes=5_000)
    with pytest.raises(ValueError, match=r"data.cache_bytes: found 5000, .* the blocks of the coming steps take \d+"):
        batches(remote(uploaded, cache))


@pytest.mark.parametrize("way", ["whole shards", "small cache"])
def test_two_processes_share_one_cache(uploaded: str, here: Dataset, tmp_path: Path, way: str) -> None:
    cache = WAYS[way](here, tmp_path)
    if way == "small cache":
        cache = cache.model_copy(update={"cache_bytes": 2 * cache.cache_bytes})
    context = multiprocessing.get_context("spawn")
    answers: Queue[tuple[int, str]] = context.Queue()
    with FaultProxy(uploaded, lambda method, path, count: None) as proxy:
        workers = [
            context.Process(target=read_rank, args=(proxy.endpoint, BUCKET, cache, rank, answers)) for rank in (0, 1)
        ]
        for worker in workers:
            worker.start()
        found = dict(answers.get(timeout=300) for _ in workers)
        for worker in workers:
            worker.join()
        if way == "whole shards":
            fetched = [path for method, path in proxy.seen if method == "GET" and "train-" in path]
            assert sorted(fetched) == sorted(f"/{BUCKET}/set/{shard.path}" for shard in here.manifest.shards)
    assert found == {rank: epoch_digest(here, rank, 2) for rank in (0, 1)}


def test_a_process_killed_while_it_fetches_leaves_nothing_that_is_believed(
    uploaded: str, here: Dataset, tmp_path: Path
) -> None:
    cache = CacheSettings(cache_dir=str(tmp_path))
    stall = shard_fault("stall", 10_000)
    context = multiprocessing.get_context("spawn")
    with FaultProxy(uploaded, stall) as proxy:
        worker = context.Process(target=read_all, args=(proxy.endpoint, BUCKET, cache))
        worker.start()
        assert proxy.faulted.wait(300)
        worker.kill()
        worker.join()
    assert list(tmp_path.rglob("*.partial"))
    assert batches(remote(uploaded, cache)) == batches(here)
    assert not list(tmp_path.rglob("*.partial"))
