"""Hugging Face datasets: a shuffled map-style set, and an iterable one with a shuffle buffer."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"

import datasets
import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import DataLoader
from turns import take_part

_ROWS_AT_ONCE = 8_192


def prepare(raw: Path, work: Path) -> None:
    """Arrow files of fixed-size float16 lists, its own format on disk."""
    arrays = {file.stem: np.load(file, mmap_mode="r") for file in sorted(raw.glob("*.npy"))}
    rows = len(next(iter(arrays.values())))
    pieces = [
        pa.table({name: _lists(array[at : at + _ROWS_AT_ONCE]) for name, array in arrays.items()})
        for at in range(0, rows, _ROWS_AT_ONCE)
    ]
    datasets.Dataset(pa.concat_tables(pieces)).save_to_disk(str(work / "arrow"))


def _lists(array: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(array).reshape(-1)), array.shape[1])


def counted(make: Callable[[datasets.Dataset, int], Iterator]) -> Callable[[Path, Path, int], Iterator[int]]:
    def epoch(_raw: Path, work: Path, batch_rows: int) -> Iterator[int]:
        for batch in make(datasets.load_from_disk(str(work / "arrow")), batch_rows):
            yield len(next(iter(batch.values())))

    return epoch


def mapped(kind: str) -> Callable[[datasets.Dataset, int], Iterator]:
    return lambda found, rows: found.shuffle(seed=0).with_format(kind).iter(rows)


def iterable(found: datasets.Dataset, rows: int) -> Iterator:
    streamed = found.to_iterable_dataset(num_shards=8).shuffle(seed=0, buffer_size=16_384)
    return iter(streamed.with_format("numpy").batch(rows))


def loader(found: datasets.Dataset, rows: int) -> Iterator:
    return iter(DataLoader(found.with_format("torch"), rows, shuffle=True, num_workers=0))


if __name__ == "__main__":
    datasets.disable_progress_bars()
    torch.set_num_threads(2)
    take_part(
        prepare,
        {
            "map-torch": counted(mapped("torch")),
            "map-numpy": counted(mapped("numpy")),
            "iterable-numpy": counted(iterable),
            "loader-torch": counted(loader),
        },
    )
