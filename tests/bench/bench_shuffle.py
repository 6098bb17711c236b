"""How well batches mix a dataset that was sorted by its source, pack and order together.

    python -m tests.bench.bench_shuffle [rows]

The rows come in runs of one source each, as PubChem's come in series. The figure is the entropy of the sources in a
batch, in bits: what a true shuffle of all rows gives on average, less what the worst batch of an epoch gives; over all
batches, over the last 5 % of the epoch, and over contrast groups of 512 rows, whose entropy a true shuffle lowers too.
"""

import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from dynfusion.store.dataset import Dataset, open_dataset
from dynfusion.store.order import Order
from dynfusion.store.pack import pack
from dynfusion.store.pack_inputs import PackInputs

SOURCES = 64
EPOCHS = 2


def main(size: int = 262_144, *, global_batch_rows: int = 4096) -> dict[str, Any]:
    """Measure with `size` narrow rows in a temporary folder; print one JSON line and return what it says."""
    with tempfile.TemporaryDirectory() as folder:
        dataset = _pack_sorted(Path(folder), size)
        source = _source_of_row(dataset, size)
    layout = dataset.manifest.layout
    batch = max(min(global_batch_rows, layout.rows) // layout.lanes, 1) * layout.lanes
    order = Order(layout, dataset.manifest.fingerprint, 0, batch)
    lanes, steps = range(layout.lanes), range(order.steps_per_epoch)
    epochs = [source[order.rows_of_steps(epoch, steps, lanes)] for epoch in range(EPOCHS)]
    shuffled = np.random.default_rng(0).permutation(source)[: len(steps) * batch].reshape(len(steps), batch)
    late = max(len(steps) // 20, 1)
    groups = [labels.reshape(-1, order.rows_per_group) for labels in (*epochs, shuffled)]
    true = _entropy(shuffled)
    result = {
        "benchmark": "shuffle",
        "figures": {
            "entropy_gap_bits": true.mean() - min(_entropy(labels).min() for labels in epochs),
            "entropy_gap_last_5_percent_bits": true.mean() - min(_entropy(labels[-late:]).min() for labels in epochs),
            "entropy_gap_of_groups_bits": _entropy(groups[-1]).mean()
            - np.mean([_entropy(part) for part in groups[:-1]]),
        },
        "ceilings": {
            "true_shuffle_mean_bits": true.mean(),
            "true_shuffle_own_gap_bits": true.mean() - true.min(),
        },
        "versions": {"python": platform.python_version(), "numpy": np.__version__},
        "hardware": {"cores": os.cpu_count(), "machine": platform.machine(), "system": platform.system()},
        "settings": {"rows": size, "sources": SOURCES, "batch_rows": batch, "group_rows": order.rows_per_group},
    }
    print(json.dumps(result))
    return result


def _pack_sorted(folder: Path, rows: int) -> Dataset:
    (folder / "narrow").mkdir()
    np.save(folder / "narrow" / "embeddings.npy", np.ones((rows, 8), np.float16))
    (folder / "narrow" / "ids.txt").write_text("".join(f"{number:09d}\n" for number in range(rows)))
    pack(PackInputs({"narrow": folder / "narrow"}), out=folder / "packed")
    return open_dataset(folder / "packed")


def _source_of_row(dataset: Dataset, rows: int) -> np.ndarray:
    """Of each row of the pack: the source that its number in the unpacked file belongs to."""
    numbers = np.array(dataset.table("train")["id"].to_pylist()).astype(np.int64)
    return numbers * SOURCES // rows


def _entropy(labels: np.ndarray) -> np.ndarray:
    """Of each row of labels, in bits."""
    counts = np.stack([np.bincount(row, minlength=SOURCES) for row in labels]).astype(np.float64)
    share = counts / counts.sum(axis=1, keepdims=True)
    return -(share * np.log2(np.where(share > 0, share, 1))).sum(axis=1)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
