"""Any embeddings -> a packed dataset.

    sources --reasons of absence--> join by id, shuffle --> train | holdout | dropped --> shards + sidecars
                                                                                       --> blocks.bin --> manifest.json

Everything is written into a hidden sibling folder that takes the target's name at the end: no half packs.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from dynfusion.settings import Settings
from dynfusion.store.blocks import BLOCKS_NAME, write_blocks
from dynfusion.store.cells import OnBad, ZeroRows, find_reasons
from dynfusion.store.join import choose_held_out, join
from dynfusion.store.manifest import (
    FORMAT_VERSION,
    NAME_PATTERN,
    FileSpec,
    Manifest,
    ModalitySpec,
    local_folder,
    read_manifest,
    with_fingerprint,
    write_manifest,
)
from dynfusion.store.order import Layout, choose_layout
from dynfusion.store.pack_files import Packed, WrittenPart, file_spec, sidecar_table, write_part
from dynfusion.store.reasons import Reason
from dynfusion.store.sidecar import write_sidecar
from dynfusion.store.sources import Source, digest_files, read_source
from dynfusion.store.table import Metadata, read_metadata

_INPUTS_NAME = "inputs.json"


class PackSettings(Settings):
    """How to pack; what to pack is `PackInputs`."""

    on_bad: OnBad = Field(
        default="error", description="rows with NaN, infinity or numbers beyond float16: refuse or leave out"
    )
    zero_rows: ZeroRows = Field(
        default="keep", description="rows of zeros are vectors (keep) or missing values (absent)"
    )
    holdout: float = Field(default=0.0, ge=0, lt=1, description="share of groups kept out of training")
    seed: int = Field(default=0, ge=0, description="of the shuffle; the held-out rows do not depend on it")
    block_rows: int | None = Field(
        default=None, ge=8, multiple_of=8, description="rows of a block; chosen by size when None"
    )
    lanes: int | None = Field(default=None, ge=1, description="lanes of the order; chosen by size when None")
    shard_bytes: int = Field(default=192 << 20, ge=1, description="embeddings in one shard, about")


@dataclass(frozen=True)
class PackInputs:
    """Paths of the modalities by name, in the order they are packed, and the optional metadata table."""

    modalities: Mapping[str, Path]
    table: Path | None = None
    id_column: str = "id"
    labels: tuple[str, ...] = ()
    split_column: str | None = None

    def __post_init__(self) -> None:
        if not self.modalities:
            raise ValueError("modalities: found none, at least one NAME=PATH is needed")
        wrong = [name for name in self.modalities if not re.match(NAME_PATTERN, name)]
        if wrong:
            raise ValueError(f"modality {wrong[0]}: a name is made of letters, digits and any of _ . + -")
        if self.table is None and (self.labels or self.split_column):
            raise ValueError("labels and split: they are columns of a table, and no table was given")
        reserved = {"id", "smiles", "group"}
        named = [*self.labels, *([self.split_column] if self.split_column else [])]
        if len(set(named)) < len(named) or reserved & set(named):
            raise ValueError(f"labels and split: found {', '.join(named)}, each once and none of id, smiles, group")


def pack(
    inputs: PackInputs,
    *,
    out: str | Path,
    settings: PackSettings | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Pack the sources into the folder `out` and return its manifest; `progress(rows_done, rows)` is called as it goes.

    The same inputs and settings give the same bytes, in whichever order the sources' rows stand. Packing them again
    into the same place returns what is there.

    Raises ValueError for every fault of the inputs (the file and what is allowed), and when `out` holds something else.
    """
    settings = settings or PackSettings()
    target = local_folder(out)
    record = _describe_inputs(inputs, settings)
    if target.exists() and any(target.iterdir() if target.is_dir() else [target]):
        return _already_packed(target, record)
    sources = [read_source(name, path) for name, path in inputs.modalities.items()]
    metadata = _read_table(inputs)
    reasons = [find_reasons(source, on_bad=settings.on_bad, zero_rows=settings.zero_rows) for source in sources]
    joined = join(sources, metadata, seed=settings.seed)
    with _new_folder(target) as folder:
        manifest = _write(folder, Packed(sources, reasons, joined), inputs, settings, progress or _no_progress)
        (folder / _INPUTS_NAME).write_text(record, encoding="utf-8")
        write_manifest(manifest, folder)
    return manifest


def _write(
    folder: Path,
    packed: Packed,
    inputs: PackInputs,
    settings: PackSettings,
    progress: Callable[[int, int], None],
) -> Manifest:
    """Everything but the manifest, which comes back."""
    present = packed.cells == Reason.PRESENT
    dropped = ~present.any(axis=1)
    held_out = choose_held_out(packed.joined.group, settings.holdout) & ~dropped
    train = np.flatnonzero(~dropped & ~held_out)
    if not len(train):
        raise ValueError(
            f"modality {', '.join(inputs.modalities)}: none of {len(dropped)} rows is left for training "
            f"({int(dropped.sum())} have no modality, {int(held_out.sum())} are held out), at least one is needed"
        )
    layout = choose_layout(len(train), block_rows=settings.block_rows, lanes=settings.lanes)
    total = len(train) + int(held_out.sum())
    shard_rows = _shard_rows(packed.sources, layout, settings.shard_bytes)
    parts = [
        write_part(
            folder,
            packed,
            name=name,
            rows=rows,
            block_rows=layout.block_rows,
            shard_rows=shard_rows,
            progress=partial(_report, progress, before, total),
        )
        for name, rows, before in (("train", train, 0), ("holdout", np.flatnonzero(held_out), len(train)))
    ]
    write_blocks(folder / BLOCKS_NAME, [table for part in parts for table in part.blocks])
    return _manifest(folder, packed, parts, layout=layout, inputs=inputs, settings=settings)


def _manifest(
    folder: Path,
    packed: Packed,
    parts: Sequence[WrittenPart],
    *,
    layout: Layout,
    inputs: PackInputs,
    settings: PackSettings,
) -> Manifest:
    train, holdout = parts
    dropped = np.flatnonzero((packed.cells != Reason.PRESENT).all(axis=1))
    num_blocks = sum(len(table) for part in parts for table in part.blocks)
    assert train.geometry is not None, "a part with rows has shards"
    return with_fingerprint(
        {
            "format_version": FORMAT_VERSION,
            "modalities": [
                ModalitySpec(
                    name=source.name,
                    dim=source.dim,
                    encoder=source.encoder,
                    mean=tuple(moments.mean.tolist()),
                    std=tuple(moments.std.tolist()),
                    minimum=tuple(moments.minimum.tolist()),
                    maximum=tuple(moments.maximum.tolist()),
                    present_rows=moments.count,
                )
                for source, moments in zip(packed.sources, train.moments, strict=True)
            ],
            "rows": layout.rows,
            "holdout_rows": sum(shard.rows for shard in holdout.shards),
            "dropped_rows": len(dropped),
            "block_rows": layout.block_rows,
            "lanes": layout.lanes,
            "window_blocks": layout.window_blocks,
            "pack_seed": settings.seed,
            "holdout_fraction": settings.holdout,
            "geometry": train.geometry,
            "shards": train.shards,
            "holdout_shards": holdout.shards,
            "dropped": _write_dropped(folder, packed, dropped),
            "blocks": file_spec(folder, BLOCKS_NAME, rows=num_blocks),
            "absent": _count_absent(packed),
            "label_columns": inputs.labels,
            "split_column": inputs.split_column,
        }
    )


def _write_dropped(folder: Path, packed: Packed, rows: np.ndarray) -> FileSpec | None:
    return write_sidecar(sidecar_table(packed, rows), folder, "dropped.rows.arrow") if len(rows) else None


def _count_absent(packed: Packed) -> dict[str, dict[str, int]]:
    counts = {}
    for number, source in enumerate(packed.sources):
        by_reason = np.bincount(packed.cells[:, number], minlength=len(Reason))
        counts[source.name] = {
            reason.label: int(by_reason[reason])
            for reason in Reason
            if reason is not Reason.PRESENT and by_reason[reason]
        }
    return counts


def _shard_rows(sources: Sequence[Source], layout: Layout, shard_bytes: int) -> int:
    row_bytes = 2 * sum(source.dim for source in sources)
    return max(shard_bytes // (row_bytes * layout.block_rows), 1) * layout.block_rows


def _read_table(inputs: PackInputs) -> Metadata | None:
    if inputs.table is None:
        return None
    return read_metadata(
        inputs.table, id_column=inputs.id_column, labels=inputs.labels, split_column=inputs.split_column
    )


def _describe_inputs(inputs: PackInputs, settings: PackSettings) -> str:
    """What was packed and how, as text that is equal exactly when the pack would be."""
    content: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "modalities": [[name, digest_files(path)] for name, path in inputs.modalities.items() if path.exists()],
        "table": digest_files(inputs.table) if inputs.table and inputs.table.is_file() else None,
        "columns": [inputs.id_column, list(inputs.labels), inputs.split_column],
        "settings": settings.model_dump(mode="json"),
    }
    return json.dumps(content, indent=1) + "\n"


def _already_packed(target: Path, record: str) -> Manifest:
    try:
        same = (target / _INPUTS_NAME).read_text(encoding="utf-8") == record
    except OSError:
        same = False
    if not same:
        raise ValueError(f"{target}: already holds something else, choose another place or remove it first")
    return read_manifest(target)


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """A folder beside the target that becomes the target when the block ends well and vanishes when it does not."""
    folder = target.with_name(f".{target.name}.partial")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
        os.replace(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _report(progress: Callable[[int, int], None], before: int, total: int, done: int) -> None:
    progress(before + done, total)


def _no_progress(done: int, total: int) -> None:
    """Stay silent."""
