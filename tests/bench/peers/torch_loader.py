"""torch.utils.data.DataLoader over memory-mapped .npy files: whole batches (`__getitems__`) and row by row."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from turns import nothing, take_part


class RowByRow(Dataset):
    def __init__(self, raw: Path) -> None:
        self.arrays = {file.stem: np.load(file, mmap_mode="r") for file in sorted(raw.glob("*.npy"))}

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, row: int) -> dict[str, np.ndarray]:
        return {name: array[row] for name, array in self.arrays.items()}


class Whole(RowByRow):
    def __getitems__(self, rows: list[int]) -> dict[str, torch.Tensor]:
        index = np.asarray(rows)
        return {name: torch.from_numpy(array[index]) for name, array in self.arrays.items()}


class Selected(RowByRow):
    def __getitems__(self, rows: list[int]) -> dict[str, torch.Tensor]:
        index = torch.tensor(rows)
        return {name: torch.from_numpy(array).index_select(0, index) for name, array in self.arrays.items()}


def loader(kind: Callable[[Path], RowByRow], workers: int) -> Callable[[Path, Path, int], Iterator[int]]:
    def epoch(raw: Path, _work: Path, batch_rows: int) -> Iterator[int]:
        whole = {} if kind is RowByRow else {"collate_fn": _as_it_is}
        for batch in DataLoader(kind(raw), batch_rows, shuffle=True, num_workers=workers, **whole):
            yield len(next(iter(batch.values())))

    return epoch


def _as_it_is(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return batch


if __name__ == "__main__":
    import warnings

    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
    torch.set_num_threads(1)  # two were slower at these sizes
    take_part(
        nothing,
        {
            "batched-numpy-0": loader(Whole, 0),
            "batched-index_select-0": loader(Selected, 0),
            "sample-0": loader(RowByRow, 0),
            "sample-2": loader(RowByRow, 2),
        },
    )
