"""A packed dataset as something to pack again: the pieces of its shards and of their sidecars, for `extend`."""

import hashlib
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from dynfusion.store.blocks import parse_blocks, wrong_checksum
from dynfusion.store.files import Files
from dynfusion.store.join import REASON_PREFIX
from dynfusion.store.manifest import FileSpec, Manifest, ModalitySpec, ShardSpec, check_size
from dynfusion.store.reasons import Reason
from dynfusion.store.sidecar import check_columns, checked_batch, wrong_digest
from dynfusion.store.source import TEXTS, Chunk, Piece, first_line
from dynfusion.store.table import usual_split

_HASHED_AT_ONCE = 1 << 20


def block_table(folder: str, manifest: Manifest, files: Files) -> np.ndarray:
    """The dataset's table of blocks. Raises ValueError when it is not the manifest's."""
    with _checked(folder, manifest.blocks, files) as file:
        return parse_blocks(file.read())


def vector_pieces(
    folder: str, manifest: Manifest, shards: Sequence[ShardSpec], modality: int, blocks: np.ndarray
) -> tuple[Piece, ...]:
    """The cells of one modality in these shards, but for those that no source gave. Every block is checked by its entry
    in the `block_table` as it is read: what is packed again gets a new checksum, which would hide old damage."""
    spec = manifest.modalities[modality]
    every = (*manifest.shards, *manifest.holdout_shards)
    ends = np.cumsum([shard.blocks for shard in every]).tolist()
    sums = {
        shard.path: blocks["crc32"][end - shard.blocks : end].copy() for shard, end in zip(every, ends, strict=True)
    }
    return tuple(
        Piece(
            f"{folder}/{shard.path}",
            0,
            shard.rows,
            2 * spec.dim * shard.rows,
            partial(_read_cells, folder, shard, manifest, modality, sums[shard.path]),
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
    sidecar = manifest.shards[0].sidecar
    with _checked(folder, sidecar, files) as file:
        schema = _reader(f"sidecar {folder}/{sidecar.path}", file).schema
    check_columns(f"{folder}/{sidecar.path}", schema, manifest)
    return schema


def sidecar_batches(folder: str, file: FileSpec, files: Files) -> Iterator[pa.RecordBatch]:
    """A sidecar batch by batch. Raises ValueError, before the first, when the file is not the manifest's."""
    where = f"sidecar {folder}/{file.path}"
    with _checked(folder, file, files) as opened:
        reader = _reader(where, opened)
        for number in range(reader.num_record_batches):
            try:
                batch = reader.get_batch(number)
            except pa.ArrowException as error:
                raise ValueError(f"{where}: not readable as Arrow IPC, {first_line(error)}") from None
            yield checked_batch(where, batch)


def _reader(where: str, file: BinaryIO) -> Any:
    try:
        reader = pa.ipc.open_file(file)
        _ = reader.schema.names  # here a name that is not UTF-8 is an error
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise ValueError(f"{where}: not readable as Arrow IPC, {first_line(error)}") from None
    return reader


@contextmanager
def _checked(folder: str, file: FileSpec, files: Files) -> Iterator[BinaryIO]:
    """A small file whose SHA-256 is the manifest's."""
    where = f"{folder}/{file.path}"
    with _opened(where, file, files) as opened:
        digest: Any = hashlib.sha256()
        while part := opened.read(_HASHED_AT_ONCE):
            digest.update(part)
        if digest.hexdigest() != file.sha256:
            raise ValueError(wrong_digest(where))
        opened.seek(0)
        yield opened


@contextmanager
def _opened(where: str, file: FileSpec, files: Files) -> Iterator[BinaryIO]:
    """A file that is as long as the manifest says."""
    named = f"shard {where}" if isinstance(file, ShardSpec) else where
    try:
        opened = files.open(where)
    except FileNotFoundError:
        check_size(named, None, file.bytes)
        raise
    with opened:
        check_size(named, opened.seek(0, 2), file.bytes)
        opened.seek(0)
        yield opened


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
    folder: str,
    shard: ShardSpec,
    manifest: Manifest,
    modality: int,
    checksums: np.ndarray,
    files: Files,
    chunk_rows: int,
) -> Iterator[Chunk]:
    spec, block_rows = manifest.modalities[modality], manifest.block_rows
    step, first = max(chunk_rows // block_rows, 1), 0
    sidecar = pa.Table.from_batches(list(sidecar_batches(folder, shard.sidecar, files)))
    texts = [name for name in TEXTS if name in sidecar.column_names]
    with _opened(f"{folder}/{shard.path}", shard, files) as file:
        for block in range(0, shard.blocks, step):
            rows = min(step * block_rows, shard.rows - first)
            vectors = np.empty((rows, spec.dim), np.float16)
            for number in range(-(-rows // block_rows)):
                part = vectors[number * block_rows : (number + 1) * block_rows]
                content = _read_block(file, f"{folder}/{shard.path}", manifest, block + number, checksums)
                start = manifest.geometry.values_offsets[modality]
                part[:] = np.frombuffer(content, np.float16, part.size, start).reshape(part.shape)
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


def _read_block(file: BinaryIO, where: str, manifest: Manifest, block: int, checksums: np.ndarray) -> bytes:
    """A whole block of a shard, its checksum right."""
    geometry = manifest.geometry
    file.seek(geometry.first_block + block * geometry.block_bytes)
    content = file.read(geometry.block_bytes)
    if zlib.crc32(content) != checksums[block]:
        raise ValueError(wrong_checksum(where, block))
    return content
