"""What it costs to read a packed dataset from an object store: cold beside a plain download, warm beside local files.

    python -m tests.bench.bench_remote [rows]

The server runs in a process of its own on the loopback address; CPU seconds are this process's alone. The contestants
take turns; every figure is the median of the rounds.

* `cold`: whole shards fetched, verified block by block, put into an empty cache (pyarrow.fs, and s3fs for comparison)
* `plain`: the same shards by as many ranges of the same size on as many threads, written to a file, nothing else
* `epoch`: the first epoch of a feed on an empty cache, batches included
* `warm` and `local`: the feed's rows a second from a full cache and from the packed folder
"""

import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from dynfusion.edges.object_store import Library, ObjectStore
from dynfusion.edges.s3_address import S3Address
from dynfusion.store.dataset import Dataset, open_dataset
from dynfusion.store.feed import Feed, FeedSettings
from dynfusion.store.order import Order
from dynfusion.store.origin import CONNECTIONS, CacheSettings, Remote
from dynfusion.store.pack import pack
from dynfusion.store.pack_inputs import PackInputs, PackSettings
from dynfusion.store.whole_shards import RANGE_BYTES

DIMS = {"first": 768, "second": 1024, "third": 1024}
SHARD_BYTES = 64 << 20
ROUNDS = 5


def main(size: int = 131_072, *, round_seconds: float = 0.5, rounds: int = ROUNDS) -> dict[str, Any]:
    """Measure with `size` rows of 5.6 KB in a temporary folder; print one JSON line and return what it says."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        local = _pack_noise(folder, size)
        with _environment(), _server(folder) as endpoint:
            turns = {
                "cold": _cold(local, folder, endpoint, "pyarrow"),
                "plain": _plain(local, folder, endpoint, "pyarrow"),
                "cold_s3fs": _cold(local, folder, endpoint, "s3fs"),
                "plain_s3fs": _plain(local, folder, endpoint, "s3fs"),
                "epoch": _epoch(local, folder, endpoint),
            }
            rounds_of = _costs(turns, rounds)
            speeds = _rows_per_second(local, folder, endpoint, round_seconds, rounds)
        gigabytes = sum(shard.bytes for shard in local.manifest.shards) / 1e9
    result = _result(rounds_of, speeds, gigabytes, {"rows": size, "dims": list(DIMS.values()), "rounds": rounds})
    print(json.dumps(result))
    return result


def _result(
    rounds_of: dict[str, list[tuple[float, float]]],
    speeds: dict[str, float],
    gigabytes: float,
    settings: dict[str, Any],
) -> dict[str, Any]:
    cpu = {name: statistics.median(cpu for cpu, _ in found) / gigabytes for name, found in rounds_of.items()}
    wall = {name: statistics.median(wall for _, wall in found) / gigabytes for name, found in rounds_of.items()}
    return {
        "benchmark": "remote",
        "figures": {
            "remote_cpu_over_download": _paired(rounds_of, "cold", "plain"),
            "remote_s3fs_cpu_over_download": _paired(rounds_of, "cold_s3fs", "plain_s3fs"),
            "epoch_cpu_over_download": _paired(rounds_of, "epoch", "plain"),
            "warm_over_local": speeds["warm"] / speeds["local"],
            "cold_cpu_seconds_per_gb": cpu["cold"],
            "cold_seconds_per_gb": wall["cold"],
            "cold_s3fs_cpu_seconds_per_gb": cpu["cold_s3fs"],
            "cold_s3fs_seconds_per_gb": wall["cold_s3fs"],
            "warm_rows_per_second": speeds["warm"],
        },
        "ceilings": {
            "plain_cpu_seconds_per_gb": cpu["plain"],
            "plain_seconds_per_gb": wall["plain"],
            "plain_s3fs_cpu_seconds_per_gb": cpu["plain_s3fs"],
            "plain_s3fs_seconds_per_gb": wall["plain_s3fs"],
            "local_rows_per_second": speeds["local"],
        },
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("pyarrow", "s3fs", "numpy", "torch")},
        },
        "hardware": {"cores": os.cpu_count(), "machine": platform.machine(), "system": platform.system()},
        "settings": {**settings, "gigabytes": gigabytes, "connections": CONNECTIONS, "range_bytes": RANGE_BYTES},
    }


def _pack_noise(folder: Path, rows: int) -> Dataset:
    ids = "".join(f"{number:09d}\n" for number in range(rows))
    noise = np.random.default_rng(0).standard_normal((4096, 1024)).astype(np.float16)
    for name, dim in DIMS.items():
        source = folder / "sources" / name
        source.mkdir(parents=True)
        (source / "ids.txt").write_text(ids)
        vectors = np.lib.format.open_memmap(source / "embeddings.npy", "w+", np.float16, (rows, dim))
        for start in range(0, rows, len(noise)):
            piece = vectors[start : start + len(noise)]
            piece[:] = noise[: len(piece), :dim]
        vectors.flush()
    inputs = PackInputs({name: folder / "sources" / name for name in DIMS})
    (folder / "bucket").mkdir()
    pack(inputs, out=folder / "bucket" / "set", settings=PackSettings(shard_bytes=SHARD_BYTES))
    shutil.rmtree(folder / "sources")
    return open_dataset(folder / "bucket" / "set")


@contextmanager
def _environment() -> Iterator[None]:
    """Keys that the server does not look at."""
    wanted = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _server(folder: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "tests.bench.range_server", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.terminate()


def _remote(endpoint: str, cache: Path, carrier: Library = "pyarrow") -> Dataset:
    store = ObjectStore(S3Address("bucket", "set", endpoint), carrier)
    return open_dataset("s3://bucket/set", Remote(store, CacheSettings(cache_dir=str(cache))))


def _cold(local: Dataset, folder: Path, endpoint: str, carrier: Library) -> Callable[[], object]:
    """One row of every shard is asked for, so every shard is fetched whole."""
    firsts = np.cumsum([0, *(shard.rows for shard in local.manifest.shards[:-1])])
    numbers = count()

    def turn() -> None:
        cache = folder / f"cold-{carrier}-{next(numbers)}"
        _remote(endpoint, cache, carrier).read("train", firsts)
        shutil.rmtree(cache)

    return turn


def _plain(local: Dataset, folder: Path, endpoint: str, carrier: Library) -> Callable[[], object]:
    jobs = [
        (shard.path, start, min(start + RANGE_BYTES, shard.bytes))
        for shard in local.manifest.shards
        for start in range(0, shard.bytes, RANGE_BYTES)
    ]

    def turn() -> None:
        place = folder / "plain"
        place.mkdir()
        store = ObjectStore(S3Address("bucket", "set", endpoint), carrier)
        files = {shard.path: os.open(place / shard.path, os.O_WRONLY | os.O_CREAT) for shard in local.manifest.shards}
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            list(pool.map(lambda job: os.pwrite(files[job[0]], store.read_range(*job), job[1]), jobs))
        for descriptor in files.values():
            os.close(descriptor)
        shutil.rmtree(place)

    return turn


def _order(dataset: Dataset) -> Order:
    layout = dataset.manifest.layout
    batch = max(min(4096, layout.rows) // layout.lanes, 1) * layout.lanes
    return Order(layout, dataset.manifest.fingerprint, 0, batch)


def _epoch(local: Dataset, folder: Path, endpoint: str) -> Callable[[], object]:
    numbers, order = count(), _order(local)

    def turn() -> None:
        cache = folder / f"epoch-{next(numbers)}"
        with Feed(_remote(endpoint, cache), order, rank=0, world_size=1, settings=FeedSettings(threads=1)) as feed:
            for _ in range(order.steps_per_epoch):
                next(feed)
        shutil.rmtree(cache)

    return turn


def _paired(rounds_of: dict[str, list[tuple[float, float]]], name: str, other: str) -> float:
    """CPU seconds of one contestant over another's in the same round, the median of the rounds."""
    return statistics.median(
        mine[0] / theirs[0] for mine, theirs in zip(rounds_of[name], rounds_of[other], strict=True)
    )


def _costs(turns: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """(CPU seconds, wall seconds) of each contestant in each round but the first, which warms up."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in turns}
    for number in range(rounds + 1):
        for name, turn in turns.items():
            cpu, wall = _cpu_seconds(), time.perf_counter()
            turn()
            if number:
                taken[name].append((_cpu_seconds() - cpu, time.perf_counter() - wall))
    return taken


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _rows_per_second(
    local: Dataset, folder: Path, endpoint: str, round_seconds: float, rounds: int
) -> dict[str, float]:
    """Median rows a second of both feeds after an epoch of each, in turns, either one first in every other round."""
    warm = _remote(endpoint, folder / "warm")
    order, settings = _order(local), FeedSettings(threads=1)
    with (
        Feed(warm, order, rank=0, world_size=1, settings=settings) as far,
        Feed(local, order, rank=0, world_size=1, settings=settings) as near,
    ):
        feeds, taken = {"warm": far, "local": near}, {"warm": [0.0], "local": [0.0]}
        for feed in feeds.values():
            for _ in range(order.steps_per_epoch):
                next(feed)
        for number in range(2 * rounds):
            for name, feed in sorted(feeds.items(), reverse=bool(number % 2)):
                steps, started = 0, time.perf_counter()
                while not steps or time.perf_counter() - started < round_seconds:
                    next(feed)
                    steps += 1
                taken[name].append(steps * order.global_batch_rows / (time.perf_counter() - started))
    return {name: statistics.median(found[1:]) for name, found in taken.items()}


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
