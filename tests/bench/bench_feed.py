"""How fast the feed hands out shuffled batches, beside copying the same bytes in their order.

    python -m tests.bench.bench_feed [rows]

`memcpy` is one thread that copies through the shards into one buffer; `unshuffled` a plain copy of the rows in pack
order, block by block, into as many buffers of the same kind as the feed has, by as many threads. All contestants take
turns within one process; every figure is the median of the rounds. `busy_cores` says what share of its threads the feed
really got: on a machine that is shared, compare only figures where it is near the number of threads.
"""

import itertools
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from dynfusion.store.batch_buffers import make_buffer
from dynfusion.store.dataset import Dataset, open_dataset
from dynfusion.store.feed import Feed, FeedSettings
from dynfusion.store.manifest import local_folder
from dynfusion.store.order import Order
from dynfusion.store.pack import pack
from dynfusion.store.pack_inputs import PackInputs
from dynfusion.store.part import MappedPart

DIMS = {"first": 768, "second": 1024, "third": 1024}
ROUNDS = 5


def main(size: int = 262_144, *, global_batch_rows: int = 4096, round_seconds: float = 0.5) -> dict[str, Any]:
    """Measure with `size` rows of 5.6 KB in a temporary folder; print one JSON line and return what it says."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        dataset = _pack_noise(Path(folder), size)
        layout = dataset.manifest.layout
        batch = max(min(global_batch_rows, layout.rows) // layout.lanes, 1) * layout.lanes
        order = Order(layout, dataset.manifest.fingerprint, 0, batch)
        memcpy = _copy_bytes(dataset, batch)
        turns: dict[str, Callable[[], object]] = {"memcpy": lambda: next(memcpy)}
        for threads in (1, 2):
            for kind, resident in (("shuffled", "never"), ("resident", "always")):
                settings = FeedSettings(threads=threads, resident=resident)
                feed = stack.enter_context(Feed(dataset, order, rank=0, world_size=1, settings=settings))
                turns[f"{kind}_{threads}"] = partial(next, feed)
            turns[f"unshuffled_{threads}"] = stack.enter_context(_CopyAhead(dataset, batch, threads)).next
        for turn in turns.values():
            for _ in range(order.steps_per_epoch):
                turn()
        taken = _take_turns(turns, round_seconds)
        first = _first_epochs(dataset, order)
    seconds = {name: statistics.median(rounds.seconds) for name, rounds in taken.items()}
    busy = {name: statistics.median(rounds.busy_cores) for name, rounds in taken.items()}
    settings = {
        "rows": size,
        "dims": list(DIMS.values()),
        "block_rows": layout.block_rows,
        "round_seconds": round_seconds,
    }
    result = _result(seconds, busy, batch, settings)
    result["figures"] |= first
    print(json.dumps(result))
    return result


def _first_epochs(dataset: Dataset, order: Order) -> dict[str, float]:
    """Milliseconds of a batch in the first epoch of a process, with every block's checksum checked and without."""
    names = {True: "first_epoch_checked_ms", False: "first_epoch_unchecked_ms"}
    taken: dict[str, list[float]] = {name: [] for name in names.values()}
    for _ in range(ROUNDS):
        for check, name in names.items():
            fresh, settings = open_dataset(dataset.uri), FeedSettings(check=check, resident="never")
            with Feed(fresh, order, rank=0, world_size=1, settings=settings) as feed:
                started = time.perf_counter()
                for _ in range(order.steps_per_epoch):
                    next(feed)
                taken[name].append(1000 * (time.perf_counter() - started) / order.steps_per_epoch)
    return {name: statistics.median(found) for name, found in taken.items()}


def _result(seconds: dict[str, float], busy: dict[str, float], batch: int, settings: dict[str, Any]) -> dict[str, Any]:
    rate = {name: batch * 2 * sum(DIMS.values()) / 1e9 / taken for name, taken in seconds.items()}
    best = max((1, 2), key=lambda threads: rate[f"shuffled_{threads}"])
    figures = {
        "rows_per_second": batch / seconds[f"shuffled_{best}"],
        "shuffled_over_memcpy": rate[f"shuffled_{best}"] / rate["memcpy"],
        "shuffled_over_unshuffled": rate[f"shuffled_{best}"] / rate[f"unshuffled_{best}"],
        "threads": best,
    }
    for threads in (1, 2):
        figures |= {
            f"shuffled_{threads}_over_memcpy": rate[f"shuffled_{threads}"] / rate["memcpy"],
            f"shuffled_{threads}_over_unshuffled": rate[f"shuffled_{threads}"] / rate[f"unshuffled_{threads}"],
            f"resident_{threads}_over_unshuffled": rate[f"resident_{threads}"] / rate[f"unshuffled_{threads}"],
        }
    return {
        "benchmark": "feed",
        "figures": figures,
        "ceilings": {f"{name}_gb_per_second": found for name, found in rate.items()},
        "busy_cores": {name: round(found, 2) for name, found in busy.items()},
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


class _CopyAhead:
    """Batches of rows in pack order, copied block by block by some threads into buffers that go round."""

    def __init__(self, dataset: Dataset, batch: int, threads: int) -> None:
        manifest, self._part, self._batch = dataset.manifest, dataset.mapped("train"), batch
        self._firsts = itertools.cycle(range(0, manifest.rows - batch + 1, batch))
        buffers = [make_buffer(batch, manifest.dims, torch.device("cpu")).values for _ in range(2 + 2 * threads)]
        self._buffers = itertools.cycle([[values.numpy() for values in buffer] for buffer in buffers])
        self._pool = ThreadPoolExecutor(threads)
        self._pending: deque[Future[None]] = deque()
        for _ in range(2 * threads):
            self._submit()

    def next(self) -> None:
        self._submit()
        self._pending.popleft().result()

    def _submit(self) -> None:
        self._pending.append(self._pool.submit(self._copy, next(self._firsts), next(self._buffers)))

    def _copy(self, first: int, buffers: list[np.ndarray]) -> None:
        for row in range(first, first + self._batch, self._part.block_rows):
            _copy_block(self._part, row, row - first, buffers)

    def __enter__(self) -> "_CopyAhead":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()


def _copy_block(part: MappedPart, row: int, at: int, buffers: list[np.ndarray]) -> None:
    starts, place = part.starts(np.array([row]))
    for modality, buffer in enumerate(buffers):
        begin = int(part.value_index(starts, place, modality)[0])
        rows = min(part.block_rows - int(place[0]), len(buffer) - at)
        flat = part.content.view(np.float16)[begin : begin + rows * buffer.shape[1]]
        np.copyto(buffer[at : at + rows].reshape(-1), flat)


@dataclass
class _Rounds:
    """Of one contestant: seconds a call and cores kept busy, a number a round."""

    seconds: list[float] = field(default_factory=list)
    busy_cores: list[float] = field(default_factory=list)


def _take_turns(turns: dict[str, Callable[[], object]], round_seconds: float) -> dict[str, _Rounds]:
    taken = {name: _Rounds() for name in turns}
    for _ in range(ROUNDS):
        for name, turn in turns.items():
            turn()  # what was read ahead since the last round is no gift
            calls, started, used = 0, time.perf_counter(), time.process_time()
            while calls < 8 or time.perf_counter() - started < round_seconds:
                turn()
                calls += 1
            spent = time.perf_counter() - started
            taken[name].seconds.append(spent / calls)
            taken[name].busy_cores.append((time.process_time() - used) / spent)
    return taken


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
