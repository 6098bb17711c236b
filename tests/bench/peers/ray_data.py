"""Ray Data: `read_parquet` and a materialised set, both with a local shuffle buffer, as torch batches."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import ray
import ray.data
from turns import take_part

_HELD: dict[Path, ray.data.Dataset] = {}


def start() -> None:
    ray.init(num_cpus=2, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False


def prepare(raw: Path, work: Path) -> None:
    """Parquet of fixed-shape tensors, Ray's own choice for arrays, in files of 8,192 rows."""
    start()
    arrays = {file.stem: np.load(file, mmap_mode="r") for file in sorted(raw.glob("*.npy"))}
    rows = len(next(iter(arrays.values())))
    for at in range(0, rows, 8_192):
        piece = {name: np.ascontiguousarray(array[at : at + 8_192]) for name, array in arrays.items()}
        dataset = ray.data.from_items([0]).map_batches(lambda _, piece=piece: piece, batch_format="numpy")
        dataset.write_parquet(str(work))


def batches(source: Callable[[Path], ray.data.Dataset], buffer_rows: int) -> Callable[[Path, Path, int], Iterator[int]]:
    def epoch(_raw: Path, work: Path, batch_rows: int) -> Iterator[int]:
        found = source(work).iter_torch_batches(
            batch_size=batch_rows, prefetch_batches=2, local_shuffle_buffer_size=buffer_rows, local_shuffle_seed=0
        )
        for batch in found:
            yield len(next(iter(batch.values())))

    return epoch


def read(work: Path) -> ray.data.Dataset:
    return ray.data.read_parquet(str(work))


def materialised(work: Path) -> ray.data.Dataset:
    if work not in _HELD:
        _HELD[work] = read(work).materialize()
    return _HELD[work]


if __name__ == "__main__":
    import sys

    if sys.argv[1] == "serve":
        start()
    take_part(
        prepare,
        {
            "read-8192": batches(read, 8_192),
            "read-16384": batches(read, 16_384),
            "materialised-8192": batches(materialised, 8_192),
            "materialised-16384": batches(materialised, 16_384),
        },
    )
