"""WebDataset: .npy members in tar files, shards and a buffer shuffled."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import webdataset
from torch.utils.data import DataLoader
from turns import take_part


def prepare(raw: Path, work: Path) -> None:
    arrays = {file.stem: np.load(file, mmap_mode="r") for file in sorted(raw.glob("*.npy"))}
    with webdataset.ShardWriter(str(work / "shard-%04d.tar"), maxcount=8_192, verbose=0) as writer:
        for row in range(len(next(iter(arrays.values())))):
            members = {f"{name}.npy": array[row] for name, array in arrays.items()}
            writer.write({"__key__": f"{row:09d}", **members})


def loader(workers: int) -> Callable[[Path, Path, int], Iterator[int]]:
    def epoch(_raw: Path, work: Path, batch_rows: int) -> Iterator[int]:
        shards = sorted(str(file) for file in work.glob("shard-*.tar"))
        found = webdataset.WebDataset(shards, shardshuffle=len(shards), empty_check=False).shuffle(4_096).decode()
        names = sorted({"first.npy", "second.npy", "third.npy"})
        batches = found.to_tuple(*names).batched(batch_rows)
        for batch in DataLoader(batches, batch_size=None, num_workers=workers):
            yield len(batch[0])

    return epoch


if __name__ == "__main__":
    take_part(prepare, {"workers-0": loader(0), "workers-2": loader(2)})
