"""The blocks of one part (train or holdout) in memory, and the arithmetic from a row to its bytes."""

import copy
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Literal, Protocol, get_args, runtime_checkable

import numpy as np
from jaxtyping import Int64, UInt8

from dynfusion.store.blocks import read_blocks
from dynfusion.store.manifest import Manifest, ShardSpec
from dynfusion.store.mapping import MappedFiles
from dynfusion.store.order import Position
from dynfusion.store.shard import check_shard

Part = Literal["train", "holdout"]
PARTS = get_args(Part)

_NOTHING_TO_HOLD = nullcontext()


@runtime_checkable
class Comings(Protocol):
    """What brings blocks from far away into a part's memory; whether they stay once they were held."""

    stays: bool

    def hold(self, rows: Int64[np.ndarray, " rows"], position: Position | None) -> AbstractContextManager[None]:
        """Wait until the blocks of these rows are in place and keep them; ValueError when they cannot be had."""

    def close(self) -> None:
        """Stop bringing; whoever waits gets a ValueError, what is held stays until it is let go."""


class MappedPart:
    """Some bytes in memory, where each block begins in them, and the way from a row to its vectors.

    `values(m)` is a view [positions, dim] with a row at *every* float16 of the memory, so that gathering rows is one
    `take` of `value_index(row, m)`; most of those overlapping rows are meaningless and never asked for.

    Blocks that lie far away come and go: inside `held(rows, position)` the rows' blocks are in place. `owner` keeps the
    memory alive.
    """

    def __init__(
        self,
        manifest: Manifest,
        part: Part,
        content: UInt8[np.ndarray, " bytes"],
        block_starts: Int64[np.ndarray, " blocks"],
        *,
        owner: object,
        comings: Comings | None = None,
    ) -> None:
        self.dims = manifest.dims
        self.block_rows = manifest.block_rows
        self.rows = manifest.rows if part == "train" else manifest.holdout_rows
        self.content = content
        self._geometry = manifest.geometry
        self._block_starts = block_starts
        self._owner = owner
        self._comings = comings

    def held(self, rows: np.ndarray, position: Position | None = None) -> AbstractContextManager[None]:
        """Wait until the blocks of these rows are in place, and keep them there inside the `with` block.

        `position` is the step that the rows are of, when a feed reads along its order. `starts` belongs inside.

        Raises ValueError when they cannot be had.
        """
        if self._comings is None:
            return _NOTHING_TO_HOLD
        return self._comings.hold(rows, position)

    def behind(self, comings: Comings) -> "MappedPart":
        """The same memory, of which `comings` says when a block may be read."""
        guarded = copy.copy(self)
        guarded._comings = comings
        return guarded

    @property
    def stays(self) -> bool:
        """Whether every block that was held once is in place for good."""
        return self._comings is None or self._comings.stays

    def close(self) -> None:
        """Stop what brings blocks from far away; a part of local files needs none."""
        if self._comings is not None:
            self._comings.close()

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


def map_part(folder: Path, manifest: Manifest, part: Part) -> MappedPart:
    """A part whose shards lie in this folder.

    Raises ValueError for a shard that is missing, truncated or laid out differently from what the manifest says.
    """
    shards = shards_of(manifest, part)
    files = MappedFiles([shard.bytes for shard in shards])
    for number, shard in enumerate(shards):
        files.place(number, folder / shard.path)
    for number in {0, len(shards) - 1}:
        check_one(folder, manifest, shards[number])
    starts = block_offsets(read_blocks(folder, manifest), manifest, part) + shard_starts(files.starts, shards)
    return MappedPart(manifest, part, files.content, starts, owner=files)


def shards_of(manifest: Manifest, part: Part) -> tuple[ShardSpec, ...]:
    """The shards of one part, in row order."""
    return manifest.shards if part == "train" else manifest.holdout_shards


def blocks_of(table: np.ndarray, manifest: Manifest, part: Part) -> np.ndarray:
    """The part's entries in the table of all blocks, which has the training blocks first."""
    num_train = sum(shard.blocks for shard in manifest.shards)
    return table[:num_train] if part == "train" else table[num_train:]


def block_offsets(table: np.ndarray, manifest: Manifest, part: Part) -> Int64[np.ndarray, " blocks"]:
    """Where each block of the part begins in its shard, in bytes.

    Raises ValueError when a block does not lie at the stride that the manifest gives.
    """
    shards, geometry = shards_of(manifest, part), manifest.geometry
    offsets = blocks_of(table, manifest, part)["offset"].astype(np.int64)
    counts = [shard.blocks for shard in shards]
    within = np.arange(len(offsets)) - np.repeat(np.cumsum([0, *counts[:-1]]), counts)
    wrong = np.flatnonzero(offsets != geometry.first_block + within * geometry.block_bytes)
    if wrong.size:
        shard = shards[int(np.repeat(np.arange(len(counts)), counts)[wrong[0]])]
        raise ValueError(
            f"{manifest.blocks.path}: block {within[wrong[0]]} of shard {shard.path} does not lie at the manifest's "
            "stride"
        )
    return offsets


def shard_starts(starts: np.ndarray, shards: tuple[ShardSpec, ...]) -> Int64[np.ndarray, " blocks"]:
    """For each block, where its shard begins."""
    return np.repeat(starts, [shard.blocks for shard in shards])


def check_one(folder: Path, manifest: Manifest, shard: ShardSpec) -> None:
    """Raise ValueError unless this shard in `folder` is laid out as the manifest says."""
    check_shard(folder / shard.path, manifest.geometry, size=shard.bytes, num_blocks=shard.blocks, names=manifest.names)
