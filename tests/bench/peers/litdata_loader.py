"""LitData: its own chunks, shuffled, through its own loader."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import litdata
import numpy as np
import torch
from turns import take_part


def row(arrays: dict[str, np.ndarray], number: int) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.array(array[number])) for name, array in arrays.items()}


def prepare(raw: Path, work: Path) -> None:
    arrays = {file.stem: np.load(file, mmap_mode="r") for file in sorted(raw.glob("*.npy"))}
    litdata.optimize(
        fn=partial(row, arrays),
        inputs=list(range(len(next(iter(arrays.values()))))),
        output_dir=str(work / "chunks"),
        num_workers=1,
        chunk_bytes="64MB",
        start_method="fork",
    )


def loader(workers: int) -> Callable[[Path, Path, int], Iterator[int]]:
    def epoch(_raw: Path, work: Path, batch_rows: int) -> Iterator[int]:
        found = litdata.StreamingDataset(str(work / "chunks"), shuffle=True)
        for batch in litdata.StreamingDataLoader(found, batch_size=batch_rows, num_workers=workers):
            yield len(next(iter(batch.values())))

    return epoch


if __name__ == "__main__":
    take_part(prepare, {"workers-0": loader(0), "workers-2": loader(2)})
