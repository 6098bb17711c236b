"""Joined rows -> shards, block table, and the manifest of them and of what stays from the dataset that they extend."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce

import numpy as np

from dynfusion.store.blocks import BLOCK_DTYPE, write_blocks
from dynfusion.store.manifest import FORMAT_VERSION, Geometry, Manifest, ModalitySpec, ShardSpec, with_fingerprint
from dynfusion.store.order import choose_layout
from dynfusion.store.pack_files import JoinedCounts, ShardResult
from dynfusion.store.pack_inputs import PackInputs, PackSettings
from dynfusion.store.pack_passes import join_buckets, write_dropped, write_shards
from dynfusion.store.pack_work import Work
from dynfusion.store.reasons import Reason
from dynfusion.store.sidecar import describe_file
from dynfusion.store.sources import Source
from dynfusion.store.statistics import Moments, merge, no_moments

_SHARD_ROWS = 1 << 20


def _no_blocks() -> np.ndarray:
    return np.zeros(0, BLOCK_DTYPE)


@dataclass(frozen=True)
class Kept:
    """What stays of an extended dataset: shards with their block tables, their moments and absent cells by modality,
    the dataset's columns and fingerprint. By default nothing, as for a new pack.
    """

    shards: tuple[ShardSpec, ...] = ()
    holdout_shards: tuple[ShardSpec, ...] = ()
    blocks: np.ndarray = field(default_factory=_no_blocks)
    holdout_blocks: np.ndarray = field(default_factory=_no_blocks)
    geometry: Geometry | None = None
    moments: Mapping[str, Moments] = field(default_factory=dict)
    absent: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    label_columns: tuple[str, ...] = ()
    split_column: str | None = None
    fingerprint: str | None = None


def write_pack(
    work: Work, inputs: PackInputs, settings: PackSettings, *, kept: Kept | None = None, suffix: str = ""
) -> Manifest:
    """Join what `read_sources` read and write everything but the manifest, which comes back.

    The shards follow those that are `kept`; `suffix` tells the new files from theirs.

    Raises ValueError when no row is left for training, and for duplicates that the settings do not allow.
    """
    kept, joined = kept or Kept(), join_buckets(work)
    rows, held_out, dropped = (sum(counts.parts[part] for counts in joined) for part in range(3))
    rows += sum(shard.rows for shard in kept.shards)
    held_out += sum(shard.rows for shard in kept.holdout_shards)
    if not rows:
        raise ValueError(
            f"modality {', '.join(inputs.modalities)}: none of {held_out + dropped} rows is left for training "
            f"({dropped} have no modality, {held_out} are held out), at least one is needed"
        )
    layout = choose_layout(rows, block_rows=settings.block_rows, lanes=settings.lanes)
    size = _shard_rows([source.dim for source in work.sources], layout.block_rows, settings.shard_bytes)
    train, holdout = (
        write_shards(work, joined, part, block_rows=layout.block_rows, shard_rows=size, stem=f"{stem}{suffix}")
        for part, stem in enumerate(("train", "holdout"))
    )
    tables = [kept.blocks, *(shard.blocks for shard in train)]
    tables += [kept.holdout_blocks, *(shard.blocks for shard in holdout)]
    blocks = work.folder / f"blocks{suffix}.bin"
    write_blocks(blocks, tables)
    return with_fingerprint(
        {
            "format_version": FORMAT_VERSION,
            "modalities": _modality_specs(work.sources, kept.moments, train),
            "rows": layout.rows,
            "holdout_rows": held_out,
            "dropped_rows": dropped,
            "block_rows": layout.block_rows,
            "lanes": layout.lanes,
            "window_blocks": layout.window_blocks,
            "pack_seed": settings.seed,
            "holdout_fraction": settings.holdout,
            "geometry": train[0].geometry if train else kept.geometry,
            "shards": [*kept.shards, *(shard.spec for shard in train)],
            "holdout_shards": [*kept.holdout_shards, *(shard.spec for shard in holdout)],
            "dropped": write_dropped(work, joined, f"dropped{suffix}.rows.arrow"),
            "blocks": describe_file(blocks, rows=sum(len(table) for table in tables)),
            "absent": _sum_absent(work.names, kept.absent, joined),
            "label_columns": list(dict.fromkeys([*kept.label_columns, *inputs.labels])),
            "split_column": inputs.split_column or kept.split_column,
            "extends": kept.fingerprint,
        }
    )


def _shard_rows(dims: Sequence[int], block_rows: int, shard_bytes: int) -> int:
    """Rows of a shard: whole blocks of about so many bytes, and no more than a million rows."""
    by_bytes = shard_bytes // (2 * sum(dims) * block_rows)
    return max(min(by_bytes, _SHARD_ROWS // block_rows), 1) * block_rows


def _modality_specs(
    sources: Sequence[Source], kept: Mapping[str, Moments], shards: Sequence[ShardResult]
) -> list[ModalitySpec]:
    """What the manifest says about each modality; the moments of the shards are merged in their order."""
    specs = []
    for number, source in enumerate(sources):
        new = reduce(merge, (shard.moments[number] for shard in shards), no_moments(source.dim))
        found = merge(kept.get(source.name, no_moments(source.dim)), new)
        specs.append(
            ModalitySpec(
                name=source.name,
                dim=source.dim,
                encoder=source.encoder,
                mean=tuple(found.mean.tolist()),
                std=tuple(found.std.tolist()),
                minimum=tuple(found.minimum.tolist()),
                maximum=tuple(found.maximum.tolist()),
                present_rows=found.count,
                features=source.features,
            )
        )
    return specs


def _sum_absent(
    names: Sequence[str], kept: Mapping[str, Mapping[str, int]], joined: Sequence[JoinedCounts]
) -> dict[str, dict[str, int]]:
    """Absent cells by modality and reason over what is kept and all buckets, in the order of the reasons."""
    totals: dict[str, dict[str, int]] = {}
    for name in names:
        parts = [kept.get(name, {}), *(counts.absent[name] for counts in joined)]
        cells = {reason.label: sum(part.get(reason.label, 0) for part in parts) for reason in Reason}
        totals[name] = {label: count for label, count in cells.items() if count}
    return totals
