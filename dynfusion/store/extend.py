"""More rows or another modality for a packed dataset: new shards under a new manifest, the old one as it was.

    only new rows:   the old shards stay in use but the last, not full ones, whose rows are shuffled with the new
    anything else:   a new modality, new labels, or more about old rows: every row is packed again, as if given at once

The new manifest (`manifest-1.json`, `manifest-2.json`, ...) lies beside the old, and is the new dataset's address.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from dynfusion.store.blocks import read_blocks, write_blocks
from dynfusion.store.files import LOCAL, Files
from dynfusion.store.hashing import hash_strings, key_of
from dynfusion.store.join import REASON_PREFIX
from dynfusion.store.manifest import (
    FORMAT_VERSION,
    Manifest,
    ModalitySpec,
    ShardSpec,
    local_folder,
    read_manifest,
    split_address,
    with_fingerprint,
    write_manifest,
)
from dynfusion.store.order import choose_layout
from dynfusion.store.pack import (
    INPUTS_NAME,
    PackInputs,
    PackSettings,
    Progress,
    describe_inputs,
    merged_moments,
    modality_specs,
    open_inputs,
    shard_rows,
    start_work,
    sum_absent,
    work_folder,
)
from dynfusion.store.pack_files import JoinedCounts, ShardResult, count_absent
from dynfusion.store.pack_passes import WORK_NAME, Work, join_buckets, read_sources, write_dropped, write_shards
from dynfusion.store.packed_source import dropped_pieces, ids_of, sidecar_schema, text_pieces, vector_pieces
from dynfusion.store.reasons import Reason
from dynfusion.store.run_jobs import RunJobs
from dynfusion.store.scatter import scattered_ids
from dynfusion.store.sidecar import describe_file, read_sidecars
from dynfusion.store.source import TEXTS
from dynfusion.store.sources import Source
from dynfusion.store.statistics import Moments, merge, moments_of, no_moments, without
from dynfusion.store.table import Table


@dataclass(frozen=True)
class Base:
    """The dataset that is extended, and which of its shards stay in use; the rows of the others are packed again."""

    folder: str
    manifest: Manifest
    columns: Mapping[str, pa.DataType]
    kept: tuple[int, int]

    @property
    def kept_shards(self) -> tuple[tuple[ShardSpec, ...], tuple[ShardSpec, ...]]:
        return self.manifest.shards[: self.kept[0]], self.manifest.holdout_shards[: self.kept[1]]

    @property
    def pooled_shards(self) -> tuple[ShardSpec, ...]:
        return (*self.manifest.shards[self.kept[0] :], *self.manifest.holdout_shards[self.kept[1] :])


def extend(
    inputs: PackInputs,
    base: str | Path,
    *,
    settings: PackSettings | None = None,
    progress: Progress | None = None,
    files: Files = LOCAL,
    run_jobs: RunJobs | None = None,
) -> str:
    """Add the sources' rows and modalities to the dataset at `base`; the address of the extended dataset comes back.

    Rows are shuffled and held out by the base's own seed and share. An id that the base has may give a cell that the
    base lacks; a cell given twice is a duplicate (`on_duplicate`: the base's is the first). The same inputs again find
    what they made before; a killed run continues.

    Raises ValueError as `pack` does, for another holdout than the base's, and for a modality of another width.
    """
    settings = settings or PackSettings()
    old = read_manifest(base)
    folder = local_folder(base)
    if settings.holdout not in (0.0, old.holdout_fraction):
        raise ValueError(f"setting holdout: found {settings.holdout}, {base} holds out {old.holdout_fraction}")
    settings = settings.model_copy(
        update={"holdout": old.holdout_fraction, "seed": old.pack_seed, "block_rows": old.block_rows}
    )
    record = json.dumps([old.fingerprint, json.loads(describe_inputs(inputs, settings, files))], indent=1) + "\n"
    number = 1
    while (folder / f"manifest-{number}.json").is_file():
        if (folder / f"inputs-{number}.json").read_text(encoding="utf-8") == record:
            return f"{split_address(base)[0]}/manifest-{number}.json"
        number += 1
    sources, table = open_inputs(inputs, files)
    _check_sources(old, sources, str(base))
    with work_folder(folder / f".manifest-{number}.partial", record) as partial:

        def read(parts: Base) -> Work:
            together, texts = _together(parts, sources, table)
            work = start_work(partial, together, texts, settings, files=files, run_jobs=run_jobs, progress=progress)
            read_sources(work)
            return work

        parts = _only_rows(old, str(folder), inputs, files)
        work = read(parts) if parts is not None else None
        if parts is None or work is None or _share_ids(work, parts, files):
            shutil.rmtree(partial / WORK_NAME, ignore_errors=True)
            parts = Base(str(folder), old, _columns(str(folder), old, files), (0, 0))
            work = read(parts)
        manifest = _finish(work, parts, number, inputs, settings)
        _move(partial, folder, manifest, number)
        write_manifest(manifest, folder, f"manifest-{number}.json")
        shutil.rmtree(partial)
    return f"{split_address(base)[0]}/manifest-{number}.json"


def _check_sources(old: Manifest, sources: Sequence[Source], base: str) -> None:
    known = {spec.name: spec for spec in old.modalities}
    for source in sources:
        spec = known.get(source.name)
        if spec is not None and spec.dim != source.dim:
            raise ValueError(
                f"modality {source.name}: {source.uri} has vectors of {source.dim} numbers, {base} of {spec.dim}"
            )
        if spec is not None and source.encoder and spec.encoder and spec.encoder != source.encoder:
            raise ValueError(
                f"modality {source.name}: {source.uri} was made by {source.encoder!r}, {base} by {spec.encoder!r}"
            )


def _columns(folder: str, old: Manifest, files: Files) -> dict[str, pa.DataType]:
    schema = sidecar_schema(folder, old, files)
    skipped = {"id", *(REASON_PREFIX + name for name in old.names)}
    return {field.name: field.type for field in schema if field.name not in skipped}


def _only_rows(old: Manifest, folder: str, inputs: PackInputs, files: Files) -> Base | None:
    """The base with its full shards kept; None when the old rows get more than they had."""
    columns = _columns(folder, old, files)
    new_columns = {*inputs.labels, *([inputs.split_column] if inputs.split_column else [])} - columns.keys()
    if new_columns or set(inputs.modalities) - set(old.names):
        return None
    kept = []
    for shards in (old.shards, old.holdout_shards):
        full = not shards or shards[-1].rows % old.block_rows == 0
        kept.append(len(shards) if full else len(shards) - 1)
    return Base(folder, old, columns, (kept[0], kept[1]))


def _together(base: Base, sources: Sequence[Source], table: Table | None) -> tuple[list[Source], Table | None]:
    """The pooled rows of the base and the new ones: each source's and the table's old pieces before its new ones."""
    old, given = base.manifest, {source.name: source for source in sources}
    together = []
    for number, spec in enumerate(old.modalities):
        pieces = vector_pieces(base.folder, old, base.pooled_shards, number) + dropped_pieces(base.folder, old, number)
        new = given.pop(spec.name, None)
        texts = frozenset(name for name in TEXTS if name in base.columns) | (new.texts if new else frozenset())
        uri = new.uri if new else base.folder
        together.append(
            Source(
                name=spec.name,
                uri=uri,
                dim=spec.dim,
                encoder=spec.encoder or (new.encoder if new else ""),
                ids_at=f"modality {spec.name}: {uri}",
                texts=texts,
                pieces=(*pieces, *(new.pieces if new else ())),
            )
        )
    sidecars = [shard.sidecar for shard in base.pooled_shards] + ([old.dropped] if old.dropped else [])
    columns = {**base.columns, **(table.columns if table else {})}
    texts_of_old = text_pieces(base.folder, sidecars, list(base.columns))
    if table is not None:
        table = Table(table.uri, table.ids_at, columns, (*texts_of_old, *table.pieces))
    elif texts_of_old:
        table = Table(base.folder, f"table {base.folder}", columns, texts_of_old)
    return [*together, *given.values()], table


def _share_ids(work: Work, base: Base, files: Files) -> bool:
    """Whether a new row has the id of a row in a shard that is kept (by 64-bit hash, so perhaps by chance)."""
    key = key_of("extend")
    hashes = [
        hash_strings(ids, key=key) for folders in work.scattered for folder in folders for ids in scattered_ids(folder)
    ]
    new = np.sort(np.concatenate(hashes))
    for shards in base.kept_shards:
        for shard in shards:
            for ids in ids_of(base.folder, shard.sidecar, files):
                found = hash_strings(ids, key=key)
                at = np.minimum(np.searchsorted(new, found), len(new) - 1)
                if (new[at] == found).any():
                    return True
    return False


def _finish(work: Work, base: Base, number: int, inputs: PackInputs, settings: PackSettings) -> Manifest:
    """Everything but the manifest, which comes back."""
    old, joined = base.manifest, join_buckets(work)
    kept_train, kept_holdout = base.kept_shards
    old_rows, old_held_out = (sum(shard.rows for shard in shards) for shards in base.kept_shards)
    rows, held_out, dropped = (sum(counts.parts[part] for counts in joined) for part in range(3))
    layout = choose_layout(old_rows + rows, block_rows=old.block_rows, lanes=settings.lanes)
    size = shard_rows([source.dim for source in work.sources], layout.block_rows, settings.shard_bytes)
    train, holdout = (
        write_shards(work, joined, part, block_rows=layout.block_rows, shard_rows=size, stem=f"{stem}-{number}")
        for part, stem in enumerate(("train", "holdout"))
    )
    tables = _kept_blocks(base, train, holdout)
    blocks = work.folder / f"blocks-{number}.bin"
    write_blocks(blocks, tables)
    moments = [merge(a, b) for a, b in zip(_kept_moments(base, work), merged_moments(work.sources, train), strict=True)]
    columns = [*old.label_columns, *(label for label in inputs.labels if label not in old.label_columns)]
    return with_fingerprint(
        {
            "format_version": FORMAT_VERSION,
            "modalities": modality_specs(work.sources, moments),
            "rows": layout.rows,
            "holdout_rows": old_held_out + held_out,
            "dropped_rows": dropped,
            "block_rows": layout.block_rows,
            "lanes": layout.lanes,
            "window_blocks": layout.window_blocks,
            "pack_seed": settings.seed,
            "holdout_fraction": settings.holdout,
            "geometry": train[0].geometry if train else old.geometry,
            "shards": [*kept_train, *(shard.spec for shard in train)],
            "holdout_shards": [*kept_holdout, *(shard.spec for shard in holdout)],
            "dropped": write_dropped(work, joined, f"dropped-{number}.rows.arrow"),
            "blocks": describe_file(blocks, rows=sum(len(table) for table in tables)),
            "absent": _absent(base, work, joined),
            "label_columns": columns,
            "split_column": inputs.split_column or old.split_column,
            "extends": old.fingerprint,
        }
    )


def _kept_blocks(base: Base, train: Sequence[ShardResult], holdout: Sequence[ShardResult]) -> list[np.ndarray]:
    """The block tables of all training shards, then of the held-out ones, the kept before the new."""
    table = read_blocks(Path(base.folder), base.manifest)
    kept_train, kept_holdout = (sum(shard.blocks for shard in shards) for shards in base.kept_shards)
    first = sum(shard.blocks for shard in base.manifest.shards)
    return [
        table[:kept_train],
        *(shard.blocks for shard in train),
        table[first : first + kept_holdout],
        *(shard.blocks for shard in holdout),
    ]


def _kept_moments(base: Base, work: Work) -> list[Moments]:
    """The moments of the training rows that stay where they are: the base's without those of the pooled shards."""
    moments = [no_moments(source.dim) for source in work.sources]
    if not base.kept[0]:
        return moments
    pooled = base.manifest.shards[base.kept[0] :]
    for number, spec in enumerate(base.manifest.modalities):
        again = no_moments(spec.dim)
        for piece in vector_pieces(base.folder, base.manifest, pooled, number):
            for chunk in piece.read(work.files, work.plan.chunk_rows[number]):
                assert chunk.vectors is not None, "shards hold vectors"
                again = merge(again, moments_of(chunk.vectors[chunk.reasons == Reason.PRESENT]))
        moments[number] = without(_moments_of_spec(spec), again)
    return moments


def _moments_of_spec(spec: ModalitySpec) -> Moments:
    mean, std, minimum, maximum = (np.array(part) for part in (spec.mean, spec.std, spec.minimum, spec.maximum))
    return Moments(spec.present_rows, mean, np.square(std) * spec.present_rows, minimum, maximum)


def _absent(base: Base, work: Work, joined: Sequence[JoinedCounts]) -> dict[str, dict[str, int]]:
    """Absent cells by modality and reason: those of the rows packed now, and of the rows that stay."""
    counts = sum_absent(work.names, joined)
    kept = [shard.sidecar for shards in base.kept_shards for shard in shards]
    for file in kept:
        sidecar = read_sidecars(Path(base.folder), [file])
        for name in base.manifest.names:
            for label, cells in count_absent(sidecar[REASON_PREFIX + name]).items():
                counts[name][label] = counts[name].get(label, 0) + cells
    return counts


def _move(partial: Path, folder: Path, manifest: Manifest, number: int) -> None:
    """Put the new files beside the old; called again after a kill, it moves what is left."""
    for file in manifest.files:
        if (partial / file.path).is_file():
            os.replace(partial / file.path, folder / file.path)
    shutil.copyfile(partial / INPUTS_NAME, folder / f"inputs-{number}.json")
