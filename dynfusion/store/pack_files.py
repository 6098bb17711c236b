"""The files of one part (train or holdout): shards of embeddings, a sidecar beside each."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Int64, UInt8

from dynfusion.store.cells import to_half
from dynfusion.store.join import Joined
from dynfusion.store.manifest import FileSpec, Geometry, ShardSpec
from dynfusion.store.reasons import Reason
from dynfusion.store.shard import write_shard
from dynfusion.store.sidecar import REASON_PREFIX, write_sidecar
from dynfusion.store.sources import Source
from dynfusion.store.statistics import Moments, merge, moments_of, no_moments


@dataclass(frozen=True)
class Packed:
    """What is packed: the sources, the reasons of absence of their own rows, and the join."""

    sources: Sequence[Source]
    reasons: Sequence[np.ndarray]
    joined: Joined

    @cached_property
    def cells(self) -> UInt8[np.ndarray, "rows modalities"]:
        """The reason of every cell of the join."""
        columns = [
            np.where(rows < 0, np.uint8(Reason.NOT_GIVEN), reasons[rows])
            for rows, reasons in zip(self.joined.source_rows, self.reasons, strict=True)
        ]
        return np.stack(columns, axis=1).astype(np.uint8)


@dataclass(frozen=True)
class WrittenPart:
    """What the manifest says about a part; moments per modality over its present rows."""

    shards: tuple[ShardSpec, ...]
    blocks: tuple[np.ndarray, ...]
    geometry: Geometry | None
    moments: tuple[Moments, ...]


def write_part(
    folder: Path,
    packed: Packed,
    *,
    name: str,
    rows: Int64[np.ndarray, " part"],
    block_rows: int,
    shard_rows: int,
    progress: Callable[[int], None],
) -> WrittenPart:
    """Write these joined rows as shards `<name>-00000.arrow` and sidecars `<name>-00000.rows.arrow`."""
    moments = [no_moments(source.dim) for source in packed.sources]
    shards, blocks, geometry = [], [], None
    for number, start in enumerate(range(0, len(rows), shard_rows)):
        piece = rows[start : start + shard_rows]
        present = packed.cells[piece] == Reason.PRESENT
        values = [_gather(packed, m, piece, present[:, m]) for m in range(len(packed.sources))]
        moments = [merge(moments[m], _moments(values[m], present[:, m])) for m in range(len(values))]
        stem = f"{name}-{number:05d}"
        written = write_shard(
            folder / f"{stem}.arrow",
            [source.name for source in packed.sources],
            values,
            present=present,
            block_rows=block_rows,
        )
        geometry = written.geometry
        blocks.append(written.blocks)
        shards.append(
            ShardSpec(
                path=f"{stem}.arrow",
                rows=len(piece),
                bytes=written.bytes,
                sha256=written.sha256,
                blocks=len(written.blocks),
                sidecar=write_sidecar(sidecar_table(packed, piece), folder, f"{stem}.rows.arrow"),
            )
        )
        progress(start + len(piece))
    return WrittenPart(tuple(shards), tuple(blocks), geometry, tuple(moments))


def sidecar_table(packed: Packed, rows: np.ndarray) -> pa.Table:
    """What is known of these joined rows besides their vectors."""
    joined, at = packed.joined, pa.array(rows)
    columns = {"id": joined.ids.take(at), "smiles": joined.smiles.take(at)}
    for number, source in enumerate(packed.sources):
        columns[REASON_PREFIX + source.name] = pa.array(packed.cells[rows, number])
    columns |= {name: column.take(at) for name, column in joined.columns.items()}
    return pa.table(columns)


def file_spec(folder: Path, name: str, *, rows: int) -> FileSpec:
    """The description of a written file."""
    with (folder / name).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileSpec(path=name, rows=rows, bytes=(folder / name).stat().st_size, sha256=digest)


def _gather(packed: Packed, modality: int, rows: np.ndarray, present: np.ndarray) -> np.ndarray:
    """The modality's float16 vectors [rows, dim], zero where absent."""
    source = packed.sources[modality]
    values = np.zeros((len(rows), source.dim), np.float16)
    values[present] = to_half(source.vectors[packed.joined.source_rows[modality][rows[present]]])
    return values


def _moments(values: np.ndarray, present: np.ndarray) -> Moments:
    """Merged over pieces, so that the float64 copy stays small."""
    whole = no_moments(values.shape[1])
    for start in range(0, len(values), 4096):
        piece = slice(start, start + 4096)
        whole = merge(whole, moments_of(values[piece][present[piece]]))
    return whole
