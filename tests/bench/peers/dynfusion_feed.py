"""Our own feed on the packed form of the same bytes, and one thread's memcpy of them as the ceiling."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from turns import take_part

from dynfusion.store.dataset import open_dataset
from dynfusion.store.feed import Feed, FeedSettings
from dynfusion.store.order import Order
from dynfusion.store.pack import pack
from dynfusion.store.pack_inputs import PackInputs


def prepare(raw: Path, work: Path) -> None:
    folders = {}
    for file in sorted(raw.glob("*.npy")):
        folders[file.stem] = work / file.stem
        folders[file.stem].mkdir()
        (folders[file.stem] / "embeddings.npy").symlink_to(file.resolve())
        rows = len(np.load(file, mmap_mode="r"))
        (folders[file.stem] / "ids.txt").write_text("".join(f"{number:09d}\n" for number in range(rows)))
    pack(PackInputs(folders), out=work / "packed")


def feed(threads: int) -> Callable[[Path, Path, int], Iterator[int]]:
    def epochs(_raw: Path, work: Path, batch_rows: int) -> Iterator[int]:
        dataset = open_dataset(work / "packed")
        manifest = dataset.manifest
        batch = max(batch_rows // manifest.lanes, 1) * manifest.lanes
        order = Order(manifest.layout, manifest.fingerprint, 0, batch)
        with Feed(dataset, order, rank=0, world_size=1, settings=FeedSettings(threads=threads)) as found:
            for fed in found:
                yield len(fed.row_ids)

    return epochs


def memcpy(raw: Path, _work: Path, batch_rows: int) -> Iterator[int]:
    arrays = [np.load(file, mmap_mode="r") for file in sorted(raw.glob("*.npy"))]
    buffers = [np.zeros((batch_rows, array.shape[1]), array.dtype) for array in arrays]
    while True:
        for at in range(0, len(arrays[0]), batch_rows):
            for array, buffer in zip(arrays, buffers, strict=True):
                piece = array[at : at + batch_rows]
                np.copyto(buffer[: len(piece)], piece)
            yield len(piece)


if __name__ == "__main__":
    take_part(prepare, {"feed-1": feed(1), "feed-2": feed(2), "memcpy": memcpy})
