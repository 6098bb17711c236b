"""The dataset that is extended: which of its shards stay in use, and its other rows as sources beside the new ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from dynfusion.store.files import Files
from dynfusion.store.hashing import hash_strings, key_of
from dynfusion.store.join import REASON_PREFIX
from dynfusion.store.manifest import (
    FileSpec,
    Manifest,
    ModalitySpec,
    ShardSpec,
    check_links,
    parse_manifest,
    split_address,
)
from dynfusion.store.pack_files import count_absent
from dynfusion.store.pack_manifest import Kept
from dynfusion.store.pack_work import Work
from dynfusion.store.packed_source import (
    block_table,
    dropped_pieces,
    sidecar_batches,
    sidecar_schema,
    text_pieces,
    vector_pieces,
)
from dynfusion.store.reasons import Reason
from dynfusion.store.scatter import scattered_ids
from dynfusion.store.source import TEXTS, OpenedFile
from dynfusion.store.sources import Source
from dynfusion.store.statistics import Moments, merge, moments_of, no_moments, without
from dynfusion.store.table import Table, usual_split


@dataclass(frozen=True)
class Base:
    """A dataset in a folder that `files` reads, the sidecar columns that a table gave, and how many of the first shards
    of each part (train, holdout) stay in use; the rows of the others are packed again.
    """

    folder: str
    manifest: Manifest
    files: Files
    columns: Mapping[str, pa.DataType]
    kept: tuple[int, int] = (0, 0)

    @property
    def kept_shards(self) -> tuple[tuple[ShardSpec, ...], tuple[ShardSpec, ...]]:
        return self.manifest.shards[: self.kept[0]], self.manifest.holdout_shards[: self.kept[1]]

    @property
    def kept_sidecars(self) -> tuple[FileSpec, ...]:
        return tuple(shard.sidecar for shards in self.kept_shards for shard in shards)

    @property
    def pooled_shards(self) -> tuple[ShardSpec, ...]:
        return (*self.manifest.shards[self.kept[0] :], *self.manifest.holdout_shards[self.kept[1] :])


def open_base(address: str, files: Files) -> Base:
    """The dataset at an address that `files` reads, none of its shards kept.

    Raises ValueError when there is no valid manifest.
    """
    folder, name = split_address(address)
    try:
        content = _read(f"{folder}/{name}", files)
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{address}: no packed dataset here, {name} is missing") from None
    manifest = parse_manifest(content, f"{folder}/{name}")
    here = files.path(folder)
    if here is not None:
        check_links(here, manifest)
    skipped = {"id", *(REASON_PREFIX + name for name in manifest.names)}
    schema = sidecar_schema(folder, manifest, files)
    return Base(folder, manifest, files, {field.name: field.type for field in schema if field.name not in skipped})


def keeping_full_shards(base: Base, sources: Sequence[Source], table: Table | None) -> Base | None:
    """The base with its full shards kept; None when the old rows get a modality or a column that they
    lack or another spelling of the split."""
    columns = {name for source in sources for name in source.texts} | (table.columns.keys() if table else set())
    if columns - base.columns.keys() or {source.name for source in sources} - set(base.manifest.names):
        return None
    kept = []
    for shards in (base.manifest.shards, base.manifest.holdout_shards):
        full = not shards or shards[-1].rows % base.manifest.block_rows == 0
        kept.append(len(shards) if full else len(shards) - 1)
    parts = replace(base, kept=(kept[0], kept[1]))
    return parts if _spells_splits_as_today(parts) else None


def _spells_splits_as_today(base: Base) -> bool:
    """Whether the split of all rows that stay is written as a new row's would be."""
    name = base.manifest.split_column
    return name is None or all(
        usual_split(batch[name]).equals(batch[name])
        for file in base.kept_sidecars
        for batch in sidecar_batches(base.folder, file, base.files)
    )


def with_pooled_rows(base: Base, sources: Sequence[Source], table: Table | None) -> tuple[list[Source], Table | None]:
    """The pooled rows of the base and the new ones: each source's and the table's old pieces before its new ones."""
    old, given = base.manifest, {source.name: source for source in sources}
    together, blocks = [], block_table(base.folder, old, base.files)
    for number, spec in enumerate(old.modalities):
        pieces = vector_pieces(base.folder, old, base.pooled_shards, number, blocks)
        pieces += dropped_pieces(base.folder, old, number)
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
                features=spec.features,
            )
        )
    sidecars = [shard.sidecar for shard in base.pooled_shards] + ([old.dropped] if old.dropped else [])
    columns = {**base.columns, **(table.columns if table else {})}
    texts_of_old = text_pieces(base.folder, sidecars, list(base.columns), old.split_column)
    if table is not None:
        split = table.split_column or old.split_column
        table = Table(table.uri, table.ids_at, columns, (*texts_of_old, *table.pieces), split)
    else:  # without pieces too: the new shards have the columns of the old
        table = Table(base.folder, f"table {base.folder}", columns, texts_of_old, old.split_column)
    return [*together, *given.values()], table


def known_of(base: Base, address: str) -> dict[str, OpenedFile]:
    """What the base says about its modalities, as if it were a file whose like is given now."""
    return {
        spec.name: OpenedFile(address, address, spec.dim, spec.encoder, (), (), spec.features)
        for spec in base.manifest.modalities
    }


def share_ids(work: Work, base: Base) -> bool:
    """Whether a new row has the id of a row in a shard that is kept (by 64-bit hash, so perhaps by chance)."""
    key = key_of("extend")
    hashes = [
        hash_strings(ids, key=key) for folders in work.scattered for folder in folders for ids in scattered_ids(folder)
    ]
    new = np.sort(np.concatenate(hashes))
    for file in base.kept_sidecars:
        for batch in sidecar_batches(base.folder, file, base.files):
            found = hash_strings(batch["id"], key=key)
            at = np.minimum(np.searchsorted(new, found), len(new) - 1)
            if (new[at] == found).any():
                return True
    return False


def kept_of(base: Base, work: Work) -> Kept:
    """What the new manifest says about the shards that stay.

    Raises ValueError when the base's table of blocks is damaged.
    """
    old, (train, holdout) = base.manifest, base.kept_shards
    table, first = block_table(base.folder, old, base.files), sum(shard.blocks for shard in old.shards)
    return Kept(
        shards=train,
        holdout_shards=holdout,
        blocks=table[: sum(shard.blocks for shard in train)],
        holdout_blocks=table[first : first + sum(shard.blocks for shard in holdout)],
        geometry=old.geometry,
        moments=_kept_moments(base, work, table),
        absent=_kept_absent(base),
        label_columns=old.label_columns,
        split_column=old.split_column,
        fingerprint=old.fingerprint,
    )


def _read(uri: str, files: Files) -> bytes:
    with files.open(uri) as file:
        return file.read()


def _kept_moments(base: Base, work: Work, blocks: np.ndarray) -> dict[str, Moments]:
    """The moments of the training rows that stay where they are: the base's without those of the pooled shards."""
    if not base.kept[0]:
        return {}
    moments, pooled = {}, base.manifest.shards[base.kept[0] :]
    for number, spec in enumerate(base.manifest.modalities):
        again = no_moments(spec.dim)
        for piece in vector_pieces(base.folder, base.manifest, pooled, number, blocks):
            for chunk in piece.read(base.files, work.plan.chunk_rows[number]):
                assert chunk.vectors is not None, "shards hold vectors"
                again = merge(again, moments_of(chunk.vectors[chunk.reasons == Reason.PRESENT]))
        moments[spec.name] = without(_moments_of_spec(spec), again)
    return moments


def _moments_of_spec(spec: ModalitySpec) -> Moments:
    mean, std, minimum, maximum = (np.array(part) for part in (spec.mean, spec.std, spec.minimum, spec.maximum))
    return Moments(spec.present_rows, mean, np.square(std) * spec.present_rows, minimum, maximum)


def _kept_absent(base: Base) -> dict[str, dict[str, int]]:
    """Absent cells by modality and reason among the rows that stay."""
    counts: dict[str, dict[str, int]] = {name: {} for name in base.manifest.names}
    for file in base.kept_sidecars:
        for batch in sidecar_batches(base.folder, file, base.files):
            for name, found in counts.items():
                for label, cells in count_absent(batch[REASON_PREFIX + name]).items():
                    found[label] = found.get(label, 0) + cells
    return counts
