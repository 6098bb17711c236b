"""First pass: every row of a source goes to the bucket that its id's hash names.

    pieces --chunk by chunk, sorted by bucket--> values.bin   float16 vectors of the present rows
                                                rows.arrow   id, reason, texts (and row): one batch a chunk
                                                borders.npy  where each bucket's run begins in every chunk

A bucket is a range of hashes, so buckets one after another, each in the order of its hashes, are the whole pack in its
order, however many buckets there are. A job's folder appears when it is complete; a killed pack keeps it.

Vectors that stay where they lie (`mapped_rows.py`) are not written again: `row` says which of the file's is the row's.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dynfusion.store.cells import OnBad, ZeroRows, find_reasons, to_half
from dynfusion.store.files import Files
from dynfusion.store.hashing import hash_strings, key_of
from dynfusion.store.reasons import Reason
from dynfusion.store.source import Chunk, Piece

_SHOWN_IDS = 3
_WRITE_BYTES = 1 << 20


@dataclass(frozen=True)
class ScatterJob:
    """Neighbouring pieces of a source to read, and all that it needs; `where` opens sentences about the source,
    `ids_at` about its ids. `columns` are the texts of all its files; a file that lacks one has nulls. Vectors that
    stay `in_place` are only looked at."""

    folder: Path
    pieces: tuple[Piece, ...]
    where: str
    ids_at: str
    columns: Mapping[str, pa.DataType]
    chunk_rows: int
    num_buckets: int
    seed: int
    on_bad: OnBad
    zero_rows: ZeroRows
    in_place: bool
    files: Files


@dataclass(frozen=True)
class Scattered:
    """What came of a job: its rows, how many of them are bad, the ids of the first bad ones."""

    rows: int
    bad: int
    bad_ids: tuple[str, ...]


def scatter(job: ScatterJob) -> Scattered:
    """Write the pieces' rows by bucket into `job.folder`.

    Raises ValueError for a row without an id, and as the pieces' readers do.
    """
    partial = job.folder.with_name(f"{job.folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    borders: list[np.ndarray] = []
    bad_ids: list[str] = []
    bad, rows = 0, 0
    writer = None
    with (
        pa.OSFile(str(partial / "rows.arrow"), "wb") as sink,
        (partial / "values.bin").open("wb", buffering=0) as values,
    ):
        for piece, before, chunk in _chunks(job):
            first_row = piece.first_row + before
            _check_ids(chunk, job, first_row)
            batch, by_bucket, some_bad = _sort_chunk(chunk, piece, values, job, first_row=first_row)
            writer = writer or pa.ipc.new_file(sink, batch.schema)
            writer.write_batch(batch)
            borders.append(by_bucket)
            rows, bad = rows + batch.num_rows, bad + len(some_bad)
            bad_ids += some_bad[: _SHOWN_IDS - len(bad_ids)].to_pylist()
        if writer:
            writer.close()
    np.save(partial / "borders.npy", np.array(borders, np.int64).reshape(-1, 2, job.num_buckets + 1))
    done = Scattered(rows, bad, tuple(bad_ids))
    (partial / "done.json").write_text(json.dumps([done.rows, done.bad, done.bad_ids]), encoding="utf-8")
    os.replace(partial, job.folder)
    return done


def _chunks(job: ScatterJob) -> Iterator[tuple[Piece, int, Chunk]]:
    """All chunks, each with its piece and the piece's rows before it."""
    for piece in job.pieces:
        before = 0
        for chunk in piece.read(job.files, job.chunk_rows):
            yield piece, before, chunk
            before += len(chunk.ids)


def read_scattered(folder: Path) -> Scattered | None:
    """What an earlier run of a job found, None when it did not get to its end."""
    try:
        rows, bad, bad_ids = json.loads((folder / "done.json").read_text(encoding="utf-8"))
    except OSError:
        return None
    return Scattered(rows, bad, tuple(bad_ids))


def bucket_of(hashes: np.ndarray, num_buckets: int) -> np.ndarray:
    """The bucket of each 64-bit hash: equal ranges, in the order of the hashes."""
    return ((hashes >> np.uint64(32)) * np.uint64(num_buckets) >> np.uint64(32)).astype(np.int64)


def shuffle_key(seed: int) -> int:
    """The key of the hash whose order is the pack's order."""
    return key_of("shuffle", seed)


def read_bucket_rows(folders: list[Path], bucket: int) -> pa.Table | None:
    """Ids, reasons and texts of a bucket's rows in the order of the source; None when no piece has a chunk."""
    tables = []
    for folder in folders:
        batches = []
        borders = _borders(folder)
        if not len(borders):
            continue
        with pa.memory_map(str(folder / "rows.arrow")) as source:
            reader = pa.ipc.open_file(source)
            for number in range(len(borders)):
                start, stop = borders[number, 0, bucket : bucket + 2].tolist()
                batches.append(reader.get_batch(number).slice(start, stop - start))
        tables.append(pa.Table.from_batches(batches))
    return pa.concat_tables(tables).combine_chunks() if tables else None


def _borders(folder: Path) -> np.ndarray:
    return np.load(folder / "borders.npy", mmap_mode="r", allow_pickle=False)


def bucket_size(folders: Sequence[Path], bucket: int) -> int:
    """How many rows `read_bucket_rows` gives."""
    borders = [_borders(folder)[:, 0, bucket : bucket + 2] for folder in folders]
    return sum(int((border[:, 1] - border[:, 0]).sum()) for border in borders)


def scattered_ids(folder: Path) -> Iterator[pa.Array]:
    """All ids of a finished job, chunk by chunk."""
    if len(_borders(folder)):
        with pa.memory_map(str(folder / "rows.arrow")) as source:
            reader = pa.ipc.open_file(source)
            for number in range(reader.num_record_batches):
                yield reader.get_batch(number)["id"]


def read_bucket_values(folders: list[Path], bucket: int, dim: int, *, buffer: np.ndarray) -> np.ndarray:
    """The float16 vectors of a bucket's present rows in the order of the source, and a row of zeros behind them.

    They lie in the flat `buffer` when it is large enough, else in a new one; `vectors.base` is it, to be used again.
    """
    runs: list[tuple[Path, int, int]] = []
    for folder in folders:
        borders = _borders(folder)
        at = 0
        for number in range(len(borders)):
            start, stop = borders[number, 1, bucket : bucket + 2].tolist()
            runs.append((folder / "values.bin", at + start, stop - start))
            at += int(borders[number, 1, -1])
    numbers = (sum(rows for _, _, rows in runs) + 1) * dim
    if len(buffer) < numbers:
        buffer = np.empty(numbers + (numbers >> 3), np.float16)
    values = buffer[:numbers].reshape(-1, dim)
    values[-1] = 0
    content, done, row_bytes = memoryview(values.data).cast("B"), 0, 2 * dim
    for path, start, rows in runs:
        with path.open("rb", buffering=0) as file:
            file.seek(start * row_bytes)
            _fill(file, content[done : done + rows * row_bytes])
        done += rows * row_bytes
    return values


def _fill(file: Any, content: memoryview) -> None:
    done = 0
    while done < len(content):
        got = file.readinto(content[done:])
        assert got, "a finished job has all its bytes"
        done += got


def _sort_chunk(
    chunk: Chunk, piece: Piece, values: Any, job: ScatterJob, *, first_row: int
) -> tuple[pa.RecordBatch, np.ndarray, pa.Array]:
    """The chunk's rows by bucket, the borders of the buckets' rows and vectors [2, buckets + 1], and the bad ids."""
    bucket = bucket_of(hash_strings(chunk.ids, key=shuffle_key(job.seed)), job.num_buckets)
    order = np.argsort(bucket.astype(np.uint16) if job.num_buckets < 1 << 16 else bucket, kind="stable")
    columns = {"id": chunk.ids}
    present, bad_ids = np.zeros(0, np.int64), chunk.ids.slice(0, 0)
    if chunk.vectors is not None:
        half = to_half(chunk.vectors)
        zero_rows: ZeroRows = "keep" if piece.packed else job.zero_rows
        try:
            reasons, bad = find_reasons(chunk.vectors, half, given=chunk.reasons, zero_rows=zero_rows)
        except ValueError as error:
            raise ValueError(f"{job.where}: {piece.uri}: {error}") from None
        columns["reason"] = pa.array(reasons)
        if bad.any() and job.on_bad == "error":
            bad_ids = chunk.ids.filter(pa.array(bad))
        present = order[reasons[order] == Reason.PRESENT]
        if job.in_place:
            columns["row"] = pa.array(np.arange(first_row, first_row + len(reasons)))
        else:
            _write_rows(values, half, present)
    for name, kind in job.columns.items():
        columns[name] = chunk.texts[name] if name in chunk.texts else pa.nulls(len(chunk.ids), kind)
    batch = pa.record_batch(columns).take(pa.array(order))
    edges = np.arange(job.num_buckets + 1)
    ends = [np.searchsorted(bucket[rows], edges) for rows in (order, present)]
    return batch, np.stack(ends), bad_ids


def _write_rows(values: Any, half: np.ndarray, rows: np.ndarray) -> None:
    """These rows one after another, about a MB at a time."""
    step = max(_WRITE_BYTES // (2 * half.shape[1]), 1)
    buffer = np.empty((min(step, len(rows)), half.shape[1]), np.float16)
    for start in range(0, len(rows), step):
        taken = buffer[: len(rows) - start]
        np.take(half, rows[start : start + step], axis=0, out=taken, mode="clip")
        content = memoryview(taken.data).cast("B")
        while content:
            content = content[values.write(content) :]


def _check_ids(chunk: Chunk, job: ScatterJob, first_row: int) -> None:
    blank = pc.fill_null(pc.equal(chunk.ids, ""), True).to_numpy(zero_copy_only=False)
    if blank.any():
        row = first_row + int(blank.argmax())
        raise ValueError(f"{job.ids_at} has no id in row {row}, every row needs one")
