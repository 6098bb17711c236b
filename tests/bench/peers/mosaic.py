"""MosaicML streaming: MDS shards, shuffled, through a DataLoader."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from streaming import MDSWriter, StreamingDataset
from streaming.base.util import clean_stale_shared_memory
from torch.utils.data import DataLoader
from turns import take_part


def prepare(raw: Path, work: Path) -> None:
    arrays = {file.stem: np.load(file, mmap_mode="r") for file in sorted(raw.glob("*.npy"))}
    columns = {name: f"ndarray:float16:{array.shape[1]}" for name, array in arrays.items()}
    with MDSWriter(out=str(work / "mds"), columns=columns, size_limit=1 << 26) as writer:
        for row in range(len(next(iter(arrays.values())))):
            writer.write({name: array[row] for name, array in arrays.items()})


def loader(workers: int, algorithm: str) -> Callable[[Path, Path, int], Iterator[int]]:
    def epoch(_raw: Path, work: Path, batch_rows: int) -> Iterator[int]:
        clean_stale_shared_memory()
        found = StreamingDataset(
            local=str(work / "mds"), shuffle=True, shuffle_algo=algorithm, batch_size=batch_rows, num_canonical_nodes=1
        )
        for batch in DataLoader(found, batch_rows, num_workers=workers):
            yield len(next(iter(batch.values())))

    return epoch


if __name__ == "__main__":
    take_part(
        prepare,
        {
            "py1e-0": loader(0, "py1e"),
            "py1e-2": loader(2, "py1e"),
            "py1br-2": loader(2, "py1br"),
        },
    )
