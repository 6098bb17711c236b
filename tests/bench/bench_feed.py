"""How fast the feed hands out shuffled batches, beside copying the same bytes in their order.

    python -m tests.bench.bench_feed [rows]

The contestants take turns within one process; every figure is the median of the rounds.
"""

import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from dynfusion.store.dataset import Dataset, open_dataset
from dynfusion.store.feed import Feed, FeedSettings
from dynfusion.store.manifest import local_folder
from dynfusion.store.order import Order
from dynfusion.store.pack import PackInputs, pack

DIMS = {"first": 768, "second": 1024, "third": 1024}
ROUNDS = 5


def main(size: int = 262_144, *, global_batch_rows: int = 4096, round_seconds: float = 0.5) -> dict[str, Any]:
    """Measure with `size` rows of 5.6 KB in a temporary folder; print one JSON line and return what it says."""
    with tempfile.TemporaryDirectory() as folder:
        dataset = _pack_noise(Path(folder), size)
        layout = dataset.manifest.layout
        batch = max(min(global_batch_rows, layout.rows) // layout.lanes, 1) * layout.lanes
        order = Order(layout, dataset.manifest.fingerprint, 0, batch)
        memcpy, blocks = _copy_bytes(dataset, batch), _copy_blocks(dataset, batch)
        with (
            Feed(dataset, order, rank=0, world_size=1, settings=FeedSettings(threads=1)) as one,
            Feed(dataset, order, rank=0, world_size=1, settings=FeedSettings(threads=2)) as two,
        ):
            turns: dict[str, Callable[[], object]] = {
                "one_thread": lambda: next(one),
                "two_threads": lambda: next(two),
                "memcpy": lambda: next(memcpy),
                "unshuffled": lambda: next(blocks),
            }
            for turn in turns.values():
                for _ in range(order.steps_per_epoch):
                    turn()
            seconds = {name: statistics.median(rounds) for name, rounds in _take_turns(turns, round_seconds).items()}
    result = _result(seconds, batch, {"rows": size, "dims": list(DIMS.values()), "block_rows": layout.block_rows})
    print(json.dumps(result))
    return result


def _result(seconds: dict[str, float], batch: int, settings: dict[str, Any]) -> dict[str, Any]:
    gigabytes = batch * 2 * sum(DIMS.values()) / 1e9
    best = min(seconds["one_thread"], seconds["two_threads"])
    return {
        "benchmark": "feed",
        "figures": {
            "rows_per_second": batch / best,
            "gb_per_second": gigabytes / best,
            "gb_per_second_one_thread": gigabytes / seconds["one_thread"],
            "gb_per_second_two_threads": gigabytes / seconds["two_threads"],
            "shuffled_over_memcpy": seconds["memcpy"] / best,
            "shuffled_over_unshuffled": seconds["unshuffled"] / best,
        },
        "ceilings": {
            "memcpy_gb_per_second": gigabytes / seconds["memcpy"],
            "unshuffled_gb_per_second": gigabytes / seconds["unshuffled"],
        },
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "pyarrow": pa.__version__,
        },
        "hardware": {"cores": os.cpu_count(), "machine": platform.machine(), "system": platform.system()},
        "settings": {**settings, "batch_rows": batch, "rounds": ROUNDS},
    }


def _pack_noise(folder: Path, rows: int) -> Dataset:
    """Distinct rows without absent ones, and not drawn one by one: what they hold does not matter to a copy."""
    ids = "".join(f"{number:09d}\n" for number in range(rows))
    noise = np.random.default_rng(0).standard_normal((4096, 1024)).astype(np.float16)
    for name, dim in DIMS.items():
        (folder / name).mkdir()
        (folder / name / "ids.txt").write_text(ids)
        vectors = np.lib.format.open_memmap(folder / name / "embeddings.npy", "w+", np.float16, (rows, dim))
        for start in range(0, rows, len(noise)):
            piece = vectors[start : start + len(noise)]
            piece[:] = noise[: len(piece), :dim]
        vectors.flush()
    pack(PackInputs({name: folder / name for name in DIMS}), out=folder / "packed")
    return open_dataset(folder / "packed")


def _copy_bytes(dataset: Dataset, batch: int) -> Iterator[None]:
    """One thread's memcpy of a batch's worth of bytes after another into one buffer, through the shards, for ever."""
    folder, size = local_folder(dataset.uri), batch * 2 * sum(DIMS.values())
    shards = [np.memmap(folder / shard.path, np.uint8, mode="r") for shard in dataset.manifest.shards]
    buffer = np.zeros(size, np.uint8)
    while True:
        for shard in shards:
            for start in range(0, max(len(shard) - size, 0) + 1, size):
                piece = shard[start : start + size]
                np.copyto(buffer[: len(piece)], piece)
                yield None


def _copy_blocks(dataset: Dataset, batch: int) -> Iterator[None]:
    """Batches of rows in pack order, copied block by block into one buffer per modality, for ever."""
    manifest, part = dataset.manifest, dataset.mapped("train")
    buffers = [np.zeros((batch, dim), np.float16) for dim in manifest.dims]
    while True:
        for first in range(0, manifest.rows - batch + 1, batch):
            for row in range(first, first + batch, manifest.block_rows):
                _copy_block(part, row, row - first, buffers)
            yield None


def _copy_block(part: Any, row: int, at: int, buffers: list[np.ndarray]) -> None:
    starts, place = part.starts(np.array([row]))
    for modality, buffer in enumerate(buffers):
        begin = int(part.value_index(starts, place, modality)[0])
        rows = min(part.block_rows - int(place[0]), len(buffer) - at)
        flat = part.content.view(np.float16)[begin : begin + rows * buffer.shape[1]]
        np.copyto(buffer[at : at + rows].reshape(-1), flat)


def _take_turns(turns: dict[str, Callable[[], object]], round_seconds: float) -> dict[str, list[float]]:
    """Seconds per call of each contestant, one number per round."""
    taken: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(ROUNDS):
        for name, turn in turns.items():
            calls, started = 0, time.perf_counter()
            while calls == 0 or time.perf_counter() - started < round_seconds:
                turn()
                calls += 1
            taken[name].append((time.perf_counter() - started) / calls)
    return taken


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
