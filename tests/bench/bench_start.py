"""How long the first batch of a huge dataset takes, and what memory it costs beyond a small one's.

    python -m tests.bench.bench_start [rows]

The files are holes (`sparse_pack.py`), so the time is the program's, not a disk's. Each start is a process of its own;
its clock runs from before the manifest is opened until the batch is there, imports left out.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dynfusion.store.manifest import read_manifest
from tests.bench.sparse_pack import write_sparse_pack

DIMS = {"first": 768, "second": 1024, "third": 1024}
ROUNDS = 5
_SMALL_ROWS = 1_000_000

_START = """
import sys, time
import psutil
from dynfusion.store.dataset import open_dataset
from dynfusion.store.feed import Feed, FeedSettings
from dynfusion.store.order import Order, Position
started = time.perf_counter()
dataset = open_dataset(sys.argv[1])
manifest = dataset.manifest
order = Order(manifest.layout, manifest.fingerprint, 0, int(sys.argv[2]))
start = Position(3, int(order.steps_per_epoch * float(sys.argv[3])))
with Feed(dataset, order, rank=0, world_size=1, start=start, settings=FeedSettings(threads=2)) as feed:
    next(feed)
    seconds = time.perf_counter() - started
    for _ in range(8):
        next(feed)
    print(seconds, psutil.Process().memory_info().rss / 1e6)
"""


def main(size: int = 100_000_000, *, small: int = _SMALL_ROWS, batch_rows: int = 4096) -> dict[str, Any]:
    """Measure with `size` rows against `small` in a temporary folder; print one JSON line and return what it says."""
    taken: dict[str, list[tuple[float, float]]] = {"small": [], "large": [], "resumed": []}
    with tempfile.TemporaryDirectory() as folder:
        places = {}
        for name, rows in (("small", small), ("large", size)):
            (Path(folder) / name).mkdir()
            places[name] = write_sparse_pack(Path(folder) / name, rows, DIMS).uri
        for _ in range(ROUNDS):
            for name, place, share in (
                ("small", "small", 0.0),
                ("large", "large", 0.0),
                ("resumed", "large", 0.7),
            ):
                taken[name].append(_start(places[place], batch_rows, share))
        shards = len(read_manifest(places["large"]).shards)
    seconds = {name: statistics.median(found[0] for found in runs) for name, runs in taken.items()}
    megabytes = {name: statistics.median(found[1] for found in runs) for name, runs in taken.items()}
    result = {
        "benchmark": "start",
        "figures": {
            "first_batch_seconds": seconds["large"],
            "resumed_first_batch_seconds": seconds["resumed"],
            "extra_rss_mb": megabytes["large"] - megabytes["small"],
            "resume_over_cold_start": seconds["resumed"] / seconds["large"],
        },
        "ceilings": {"small_first_batch_seconds": seconds["small"], "small_rss_mb": megabytes["small"]},
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "hardware": {"cores": os.cpu_count(), "machine": platform.machine(), "system": platform.system()},
        "settings": {"rows": size, "small_rows": small, "shards": shards, "batch_rows": batch_rows, "rounds": ROUNDS},
    }
    print(json.dumps(result))
    return result


def _start(uri: str, batch_rows: int, share: float) -> tuple[float, float]:
    """Seconds to the first batch, and megabytes resident after nine."""
    command = [sys.executable, "-c", _START, uri, str(batch_rows), str(share)]
    root = str(Path(__file__).parents[2])
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": root})
    seconds, megabytes = done.stdout.split()
    return float(seconds), float(megabytes)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
