"""An opened dataset: random reads of any rows, and the sidecar tables."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int64

from dynfusion.store.blocks import read_blocks
from dynfusion.store.manifest import Manifest, ShardSpec, local_folder, read_manifest
from dynfusion.store.mapping import MappedFiles
from dynfusion.store.shard import check_shard
from dynfusion.store.sidecar import read_sidecars

Part = Literal["train", "holdout"]


@dataclass(frozen=True)
class Rows:
    """Some rows: float16 values [n, dim] by modality (zero where absent), presence [n, modalities], row numbers [n]."""

    values: dict[str, np.ndarray]
    present: Bool[np.ndarray, "n modalities"]
    row_ids: Int64[np.ndarray, " n"]


class MappedPart:
    """The mapped shards of one part and the arithmetic from a row to its bytes.

    `values(m)` is a view [positions, dim] with a row at *every* float16 of the mapping, so that gathering rows is one
    `take` of `value_index(row, m)`; most of those overlapping rows are meaningless and never asked for.
    """

    def __init__(self, folder: Path, manifest: Manifest, part: Part) -> None:
        shards = shards_of(manifest, part)
        self.dims = manifest.dims
        self.block_rows = manifest.block_rows
        self.rows = manifest.rows if part == "train" else manifest.holdout_rows
        self._geometry = manifest.geometry
        paths = [folder / shard.path for shard in shards]
        self._files = MappedFiles(paths, [shard.bytes for shard in shards])
        for number in {0, len(shards) - 1}:
            shard = shards[number]
            check_shard(
                paths[number],
                manifest.geometry,
                size=shard.bytes,
                num_blocks=shard.blocks,
                names=manifest.names,
            )
        counts = [shard.blocks for shard in shards]
        first = 0 if part == "train" else sum(shard.blocks for shard in manifest.shards)
        offsets = read_blocks(folder, manifest)["offset"][first : first + sum(counts)].astype(np.int64)
        self._block_starts = np.repeat(self._files.starts, counts) + offsets
        shard_of_block = np.repeat(np.arange(len(counts)), counts)
        within = np.arange(len(offsets)) - np.repeat(np.cumsum([0, *counts[:-1]]), counts)
        wrong = np.flatnonzero(offsets != manifest.geometry.first_block + within * manifest.geometry.block_bytes)
        if wrong.size:
            raise ValueError(
                f"{folder / manifest.blocks.path}: block {within[wrong[0]]} of shard "
                f"{shards[shard_of_block[wrong[0]]].path} does not lie at the manifest's stride"
            )

    @property
    def content(self) -> np.ndarray:
        """Every byte of the part's shards, uint8; bytes between two shards must not be touched."""
        return self._files.content

    def starts(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The first byte of each row's block, and the row's place in the block."""
        block, place = np.divmod(rows, self.block_rows)
        return self._block_starts[block], place

    def value_index(self, starts: np.ndarray, place: np.ndarray, modality: int) -> np.ndarray:
        """Where each row's vector begins, counted in float16 numbers."""
        row_bytes = 2 * self.dims[modality]
        return (starts + (self._geometry.values_offsets[modality] + place * row_bytes)) >> 1

    def values(self, modality: int) -> np.ndarray:
        """The overlapping view [positions, dim] of float16 that `value_index` points into."""
        flat = self.content.view(np.float16)
        shape = (len(flat) - self.dims[modality] + 1, self.dims[modality])
        return np.lib.stride_tricks.as_strided(flat, shape, (2, 2), writeable=False)

    def presence(self, starts: np.ndarray, place: np.ndarray, modality: int) -> np.ndarray:
        """Whether the modality is there, per row."""
        byte = self.content[starts + self._geometry.validity_offsets[modality] + (place >> 3)]
        return ((byte >> (place & 7).astype(np.uint8)) & 1).astype(bool)


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

    def mapped(self, part: Part) -> MappedPart:
        """The part's shards as mapped memory, opened once and kept."""
        return self._train if part == "train" else self._holdout

    @cached_property
    def _train(self) -> MappedPart:
        return MappedPart(local_folder(self.uri), self.manifest, "train")

    @cached_property
    def _holdout(self) -> MappedPart:
        return MappedPart(local_folder(self.uri), self.manifest, "holdout")


def open_dataset(uri: str | Path) -> Dataset:
    """The dataset at a local folder or `file://` address; only its manifest is read now.

    Raises ValueError when there is no valid manifest.
    """
    return Dataset(str(uri), read_manifest(uri))


def shards_of(manifest: Manifest, part: Part) -> tuple[ShardSpec, ...]:
    """The shards of one part, in row order."""
    return manifest.shards if part == "train" else manifest.holdout_shards
