"""An opened dataset: random reads of any rows, and the sidecar tables."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int64

from dynfusion.store.manifest import Manifest, local_folder, read_manifest
from dynfusion.store.order import Order, Position
from dynfusion.store.part import MappedPart, Part, map_part, shards_of
from dynfusion.store.sidecar import read_sidecars


@dataclass(frozen=True)
class Rows:
    """Some rows: float16 values [n, dim] by modality (zero where absent), presence [n, modalities], row numbers [n]."""

    values: dict[str, np.ndarray]
    present: Bool[np.ndarray, "n modalities"]
    row_ids: Int64[np.ndarray, " n"]


@dataclass(frozen=True)
class Dataset:
    """A packed dataset; files are opened when first needed. It pickles as its address."""

    uri: str
    manifest: Manifest

    def __reduce__(self) -> tuple[Callable[[str], "Dataset"], tuple[str]]:
        return open_dataset, (self.uri,)

    def read(self, part: Part, rows: np.ndarray | slice | None = None) -> Rows:
        """The given rows (all by default) in the given order; a row number is a position in the pack, kept for good.

        Raises ValueError for row numbers outside the part.
        """
        total = self.manifest.rows if part == "train" else self.manifest.holdout_rows
        rows = slice(None) if rows is None else rows
        numbers = np.arange(total)[rows] if isinstance(rows, slice) else np.asarray(rows)
        if len(numbers) and not (numbers.min() >= 0 and numbers.max() < total):
            raise ValueError(f"rows of {part}: found {numbers.min()} to {numbers.max()}, allowed are 0 to {total - 1}")
        numbers = numbers.astype(np.int64).reshape(-1)
        names, dims = self.manifest.names, self.manifest.dims
        if not len(numbers):
            empty = {name: np.zeros((0, dim), np.float16) for name, dim in zip(names, dims, strict=True)}
            return Rows(empty, np.zeros((0, len(names)), bool), numbers)
        mapped = self.mapped(part)
        starts, place = mapped.starts(numbers)
        values = {name: mapped.values(m)[mapped.value_index(starts, place, m)] for m, name in enumerate(names)}
        present = np.stack([mapped.presence(starts, place, m) for m in range(len(names))], axis=1)
        return Rows(values, present, numbers)

    def table(self, part: Literal["train", "holdout", "dropped"]) -> pa.Table:
        """The sidecar row for row: `id`, `smiles`, `reason:<modality>`, the label columns, the split column."""
        folder = local_folder(self.uri)
        if part == "dropped":
            files = [self.manifest.dropped] if self.manifest.dropped else []
        else:
            files = [shard.sidecar for shard in shards_of(self.manifest, part)]
        if files:
            return read_sidecars(folder, files)
        return read_sidecars(folder, [self.manifest.shards[0].sidecar]).slice(0, 0)

    def part_along(self, order: Order, lanes: range, start: Position) -> MappedPart:
        """The training rows for one reader that follows the order on these lanes from `start` on; close it in the end."""
        return self.mapped("train")

    def mapped(self, part: Part) -> MappedPart:
        """The part's shards as mapped memory, opened once and kept."""
        return self._train if part == "train" else self._holdout

    @cached_property
    def _train(self) -> MappedPart:
        return map_part(local_folder(self.uri), self.manifest, "train")

    @cached_property
    def _holdout(self) -> MappedPart:
        return map_part(local_folder(self.uri), self.manifest, "holdout")


def open_dataset(uri: str | Path) -> Dataset:
    """The dataset at a local folder or `file://` address; only its manifest is read now.

    Raises ValueError when there is no valid manifest.
    """
    return Dataset(str(uri), read_manifest(uri))
