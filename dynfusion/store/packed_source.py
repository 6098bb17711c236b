"""A packed dataset as something to pack again: the pieces of its shards and of their sidecars, for `extend`."""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import pyarrow as pa

from dynfusion.store.files import Files
from dynfusion.store.join import REASON_PREFIX
from dynfusion.store.manifest import FileSpec, Manifest, ModalitySpec, ShardSpec
from dynfusion.store.reasons import Reason
from dynfusion.store.source import TEXTS, Chunk, Piece
from dynfusion.store.table import usual_split


def vector_pieces(folder: str, manifest: Manifest, shards: Sequence[ShardSpec], modality: int) -> tuple[Piece, ...]:
    """The cells of one modality in these shards, but for those that no source gave."""
    spec = manifest.modalities[modality]
    return tuple(
        Piece(
            f"{folder}/{shard.path}",
            0,
            shard.rows,
            2 * spec.dim * shard.rows,
            partial(_read_cells, folder, shard, manifest, modality),
            packed=True,
        )
        for shard in shards
    )


def dropped_pieces(folder: str, manifest: Manifest, modality: int) -> tuple[Piece, ...]:
    """Why one modality's cells of the dropped rows are absent, where a source said so."""
    file, spec = manifest.dropped, manifest.modalities[modality]
    if file is None:
        return ()
    return (Piece(f"{folder}/{file.path}", 0, file.rows, 0, partial(_read_dropped, folder, file, spec), packed=True),)


def text_pieces(
    folder: str, sidecars: Sequence[FileSpec], columns: Sequence[str], split_column: str | None
) -> tuple[Piece, ...]:
    """The ids and these columns of the sidecars, as pieces of a table, the split in the spelling of today."""
    return tuple(
        Piece(
            f"{folder}/{file.path}",
            0,
            file.rows,
            file.bytes,
            partial(_read_texts, folder, file, tuple(columns), split_column),
            packed=True,
        )
        for file in sidecars
    )


def sidecar_schema(folder: str, manifest: Manifest, files: Files) -> pa.Schema:
    """The columns of the dataset's sidecars."""
    with files.open(f"{folder}/{manifest.shards[0].sidecar.path}") as file:
        return pa.ipc.open_file(file).schema


def sidecar_batches(folder: str, file: FileSpec, files: Files) -> Iterator[pa.RecordBatch]:
    """A sidecar batch by batch."""
    with files.open(f"{folder}/{file.path}") as opened:
        reader = pa.ipc.open_file(opened)
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number)


def _read_texts(
    folder: str, file: FileSpec, columns: Sequence[str], split_column: str | None, files: Files, chunk_rows: int
) -> Iterator[Chunk]:
    for batch in sidecar_batches(folder, file, files):
        for start in range(0, batch.num_rows, chunk_rows):
            part = batch.slice(start, chunk_rows)
            texts = {name: usual_split(part[name]) if name == split_column else part[name] for name in columns}
            yield Chunk(part["id"], None, None, texts)


def _read_dropped(folder: str, file: FileSpec, spec: ModalitySpec, files: Files, chunk_rows: int) -> Iterator[Chunk]:
    for batch in sidecar_batches(folder, file, files):
        for start in range(0, batch.num_rows, chunk_rows):
            part = batch.slice(start, chunk_rows)
            reasons = part[REASON_PREFIX + spec.name].to_numpy()
            given = np.flatnonzero(reasons != Reason.NOT_GIVEN)
            kept = part.take(pa.array(given))
            texts = {name: kept[name] for name in TEXTS if name in part.schema.names}
            yield Chunk(kept["id"], np.zeros((len(given), spec.dim), np.float16), reasons[given], texts)


def _read_cells(
    folder: str, shard: ShardSpec, manifest: Manifest, modality: int, files: Files, chunk_rows: int
) -> Iterator[Chunk]:
    spec, geometry, block_rows = manifest.modalities[modality], manifest.geometry, manifest.block_rows
    step, row_bytes, first = max(chunk_rows // block_rows, 1), 2 * spec.dim, 0
    texts = [name for name in TEXTS if name in sidecar_schema(folder, manifest, files).names]
    sidecar = pa.Table.from_batches(list(sidecar_batches(folder, shard.sidecar, files)))
    with files.open(f"{folder}/{shard.path}") as file:
        for block in range(0, shard.blocks, step):
            rows = min(step * block_rows, shard.rows - first)
            vectors = np.empty((rows, spec.dim), np.float16)
            content = memoryview(vectors.data).cast("B")
            for number in range(-(-rows // block_rows)):
                start = geometry.first_block + (block + number) * geometry.block_bytes
                file.seek(start + geometry.values_offsets[modality])
                part = content[number * block_rows * row_bytes : (number + 1) * block_rows * row_bytes]
                part[:] = file.read(len(part))
            known = sidecar.slice(first, rows).combine_chunks()
            reasons = known[REASON_PREFIX + spec.name].to_numpy()
            given = np.flatnonzero(reasons != Reason.NOT_GIVEN)
            kept = known.take(pa.array(given))
            yield Chunk(
                kept["id"].combine_chunks(),
                vectors[given],
                reasons[given],
                {name: kept[name].combine_chunks() for name in texts},
            )
            first += rows
