"""Lance: random `take`, with the rows of a batch as drawn and sorted, and blocks shuffled in memory."""

from collections.abc import Callable, Iterator
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
from turns import take_part


def prepare(raw: Path, work: Path) -> None:
    arrays = {file.stem: np.load(file, mmap_mode="r") for file in sorted(raw.glob("*.npy"))}
    rows = len(next(iter(arrays.values())))
    for at in range(0, rows, 65_536):
        piece = {
            name: pa.FixedSizeListArray.from_arrays(
                pa.array(np.ascontiguousarray(array[at : at + 65_536]).reshape(-1)), array.shape[1]
            )
            for name, array in arrays.items()
        }
        lance.write_dataset(pa.table(piece), str(work / "lance"), mode="append" if at else "create")


def numpy_of(found: pa.Table | pa.RecordBatch) -> dict[str, np.ndarray]:
    columns = {}
    for name in found.schema.names:
        column = found.column(name)
        whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        columns[name] = whole.flatten().to_numpy(zero_copy_only=False).reshape(len(whole), -1)
    return columns


def take(in_order: bool) -> Callable[[Path, Path, int], Iterator[int]]:
    def epoch(_raw: Path, work: Path, batch_rows: int) -> Iterator[int]:
        found = lance.dataset(str(work / "lance"))
        order = np.random.default_rng(0).permutation(found.count_rows())
        for at in range(0, len(order), batch_rows):
            rows = order[at : at + batch_rows]
            yield len(next(iter(numpy_of(found.take(np.sort(rows) if in_order else rows)).values())))

    return epoch


def blocks(_raw: Path, work: Path, batch_rows: int) -> Iterator[int]:
    """Runs of 256 rows in random order, a window of 16 batches read at once and permuted."""
    found = lance.dataset(str(work / "lance"))
    draw = np.random.default_rng(0)
    starts = draw.permutation(found.count_rows() // 256) * 256
    per_window = 16 * batch_rows // 256
    for at in range(0, len(starts), per_window):
        rows = (np.sort(starts[at : at + per_window])[:, None] + np.arange(256)).reshape(-1)
        window = numpy_of(found.take(rows))
        order = draw.permutation(len(rows))
        for first in range(0, len(rows), batch_rows):
            batch = {name: array[order[first : first + batch_rows]] for name, array in window.items()}
            yield len(next(iter(batch.values())))


if __name__ == "__main__":
    take_part(prepare, {"take": take(False), "take-sorted": take(True), "blocks": blocks})
