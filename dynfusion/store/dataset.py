"""An opened dataset: random reads of any rows, and the sidecar tables."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int64

from dynfusion.store.checked_blocks import CheckedBlocks
from dynfusion.store.manifest import Manifest, local_folder, parse_manifest, read_manifest
from dynfusion.store.order import Order, Position
from dynfusion.store.origin import Remote
from dynfusion.store.part import PARTS, MappedPart, Part, map_part, shards_of
from dynfusion.store.residence import Residence
from dynfusion.store.sidecar import read_sidecars


@dataclass(frozen=True)
class Rows:
    """Some rows: float16 values [n, dim] by modality (zero where absent), presence [n, modalities], row numbers [n]."""

    values: dict[str, np.ndarray]
    present: Bool[np.ndarray, "n modalities"]
    row_ids: Int64[np.ndarray, " n"]


@dataclass(frozen=True)
class Dataset:
    """A packed dataset; files are opened when first needed. It pickles as its address and what reaches it."""

    uri: str
    manifest: Manifest
    remote: Remote | None = None

    def __reduce__(self) -> tuple[Callable[..., "Dataset"], tuple[str, Remote | None]]:
        return open_dataset, (self.uri, self.remote)

    def read(self, part: Part, rows: np.ndarray | slice | None = None) -> Rows:
        """The given rows (all by default) in the given order: numbers, a slice, or a mask of all rows of the part.

        A row number is a position in this manifest's part "train" or "holdout"; an extension may number anew.

        Raises ValueError for another part, for row numbers or a mask that do not fit it, and for a block whose checksum
        is wrong: each is checked when it is first read.
        """
        if part not in PARTS:
            raise ValueError(f"part: found {part!r}, allowed is {' or '.join(PARTS)}")
        total = self.manifest.rows if part == "train" else self.manifest.holdout_rows
        rows = slice(None) if rows is None else rows
        numbers = np.arange(total)[rows] if isinstance(rows, slice) else np.asarray(rows)
        if numbers.dtype == bool:
            if numbers.shape != (total,):
                raise ValueError(f"rows of {part}: found a mask of {numbers.shape}, allowed is one of ({total},)")
            numbers = np.flatnonzero(numbers)
        if len(numbers) and not (numbers.min() >= 0 and numbers.max() < total):
            raise ValueError(f"rows of {part}: found {numbers.min()} to {numbers.max()}, allowed are 0 to {total - 1}")
        numbers = numbers.astype(np.int64).reshape(-1)
        names, dims = self.manifest.names, self.manifest.dims
        if not len(numbers):
            empty = {name: np.zeros((0, dim), np.float16) for name, dim in zip(names, dims, strict=True)}
            return Rows(empty, np.zeros((0, len(names)), bool), numbers)
        if self._residence is None:
            mapped = self._checked(part)
            with mapped.held(numbers):
                return Rows(*_gather(mapped, names, numbers), numbers)
        values = {name: np.empty((len(numbers), dim), np.float16) for name, dim in zip(names, dims, strict=True)}
        present = np.empty((len(numbers), len(names)), bool)
        for places, mapped in self._residence.pieces(part, numbers):
            some, present[places] = _gather(mapped, names, numbers[places])
            for name in names:
                values[name][places] = some[name]
        return Rows(values, present, numbers)

    def table(self, part: Literal["train", "holdout", "dropped"]) -> pa.Table:
        """The sidecar row for row: `id`, `smiles`, `reason:<modality>`, the label columns, the split column.

        Raises ValueError for a file that is missing, or whose SHA-256, checked when it is first read, is not the
        manifest's.
        """
        if part == "dropped":
            files = [self.manifest.dropped] if self.manifest.dropped else []
        else:
            files = [shard.sidecar for shard in shards_of(self.manifest, part)]
        read = files or [self.manifest.shards[0].sidecar]
        folder = local_folder(self.uri) if self._residence is None else self._residence.small_files(read)
        table = read_sidecars(folder, read, self.manifest, checked=self._checked_sidecars)
        return table if files else table.slice(0, 0)

    def part_along(self, order: Order, lanes: range, start: Position, *, check: bool = True) -> MappedPart:
        """The training rows for one reader that follows the order on these lanes from `start`; close it in the end.

        `check` has local blocks checked when they are first held; far ones always are.
        """
        if self._residence is not None:
            return self._residence.part_along(order, lanes, start)
        return self._checked("train") if check else self.mapped("train")

    def _checked(self, part: Part) -> MappedPart:
        if part not in self._checked_parts:
            mapped = self.mapped(part)
            blocks = CheckedBlocks(mapped, local_folder(self.uri), self.manifest, part)
            self._checked_parts.setdefault(part, mapped.behind(blocks))  # another thread may have been first
        return self._checked_parts[part]

    def mapped(self, part: Part) -> MappedPart:
        """The part's shards as mapped memory, opened once and kept, nothing checked.

        Raises ValueError when they are not local files.
        """
        return self._train if part == "train" else self._holdout

    @cached_property
    def _residence(self) -> Residence | None:
        return None if self.remote is None else Residence(self.remote, self.manifest)

    @cached_property
    def _checked_parts(self) -> dict[Part, MappedPart]:
        return {}

    @cached_property
    def _checked_sidecars(self) -> set[str]:
        return set()

    @cached_property
    def _train(self) -> MappedPart:
        return map_part(local_folder(self.uri), self.manifest, "train")

    @cached_property
    def _holdout(self) -> MappedPart:
        return map_part(local_folder(self.uri), self.manifest, "holdout")


def open_dataset(uri: str | Path, remote: Remote | None = None) -> Dataset:
    """The dataset at a local folder or `file://` address, or at the far place that `remote` reaches; only its manifest
    is read now. (`dynfusion.edges.datasets.open_dataset` takes `s3://` addresses and makes `remote` of them.)

    Raises ValueError when there is no valid manifest.
    """
    if remote is None:
        return Dataset(str(uri), read_manifest(uri))
    name = remote.manifest_name
    try:
        content = remote.origin.read(name)
    except FileNotFoundError:
        raise ValueError(f"{uri}: no packed dataset here, {name} is missing") from None
    return Dataset(str(uri), parse_manifest(content, f"{uri}, {name}"), remote)


def _gather(mapped: MappedPart, names: tuple[str, ...], rows: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Values by modality and presence of some rows."""
    starts, place = mapped.starts(rows)
    values = {name: mapped.values(m)[mapped.value_index(starts, place, m)] for m, name in enumerate(names)}
    return values, np.stack([mapped.presence(starts, place, m) for m in range(len(names))], axis=1)
