"""The jobs of the second and third pass, each from a few numbers and finished files to finished files.

    join:   bucket's rows.arrow of all sources --> bucket-00000.arrow (rows in order, where their vectors lie), .json
    shard:  a range of rows --> their buckets' tables and vectors --> train-00000.arrow + .rows.arrow, then .npz

A job that finds its last file has been done before. Any machine that sees the folder can run any job.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dynfusion.store.join import (
    PLACE_PREFIX,
    REASON_PREFIX,
    Duplicates,
    OnDuplicate,
    distinct_rows,
    join_bucket,
    merged_rows,
)
from dynfusion.store.manifest import Geometry, ShardSpec
from dynfusion.store.mapped_rows import MappedRows
from dynfusion.store.reasons import Reason
from dynfusion.store.scatter import bucket_size, read_bucket_rows, read_bucket_values
from dynfusion.store.shard import ShardWriter
from dynfusion.store.sidecar import SidecarWriter
from dynfusion.store.statistics import Moments

_MOMENTS = ("mean", "deviation", "minimum", "maximum")


@dataclass(frozen=True)
class JoinJob:
    """One bucket to join: the scattered pieces of every modality and of the table, and the rules. The first `old`
    pieces of each (the table is "") are those of a dataset that is extended."""

    work: Path
    bucket: int
    sources: Mapping[str, tuple[Path, ...]]
    table: tuple[Path, ...]
    old: Mapping[str, int]
    columns: Mapping[str, pa.DataType]
    holdout: float
    shuffle_key: int
    on_duplicate: OnDuplicate
    with_group: bool
    split_column: str | None


@dataclass(frozen=True)
class JoinedCounts:
    """What a bucket holds: rows of train, holdout and dropped; absent cells by modality and reason; what a source
    (the table is "") has more than once; the ids of the new table, and how many of them are in a source; the training
    rows of each split."""

    parts: tuple[int, int, int]
    absent: dict[str, dict[str, int]]
    duplicates: dict[str, Duplicates]
    in_table: int
    matched: int
    splits: dict[str, int]


@dataclass(frozen=True)
class Segment:
    """Rows [start, stop) of one part of one bucket; `first` is where the part begins among the bucket's rows."""

    bucket: int
    first: int
    start: int
    stop: int


@dataclass(frozen=True)
class ShardJob:
    """One shard to write: its name, the rows it takes, and where the vectors of each modality lie: in the buckets of
    its `sources`, unless `mapped` has them."""

    folder: Path
    work: Path
    stem: str
    segments: tuple[Segment, ...]
    sources: Mapping[str, tuple[Path, ...]]
    mapped: Mapping[str, MappedRows]
    dims: tuple[int, ...]
    block_rows: int

    @property
    def rows(self) -> int:
        return sum(segment.stop - segment.start for segment in self.segments)


@dataclass(frozen=True)
class ShardResult:
    """What the manifest says about a shard, its block table, and moments per modality over its present rows."""

    spec: ShardSpec
    geometry: Geometry
    blocks: np.ndarray
    moments: tuple[Moments, ...]


def run_join(job: JoinJob) -> JoinedCounts:
    """Join one bucket and write its rows; what was written before is only read."""
    stem = job.work / f"bucket-{job.bucket:05d}"
    done = stem.with_suffix(".json")
    if not done.is_file():
        duplicates: dict[str, Duplicates] = {}
        sources = {name: _distinct(name, folders, job, duplicates) for name, folders in job.sources.items()}
        table = _merged(job, duplicates)
        bucket = join_bucket(
            sources,
            table,
            columns=job.columns,
            holdout=job.holdout,
            key=job.shuffle_key,
            with_group=job.with_group,
        )
        with (
            pa.OSFile(str(stem.with_suffix(".arrow")), "wb") as sink,
            pa.ipc.new_file(sink, bucket.rows.schema) as writer,
        ):
            writer.write_table(bucket.rows.combine_chunks())
        absent = {name: count_absent(bucket.rows[REASON_PREFIX + name]) for name in job.sources}
        splits = _count_splits(bucket.rows.slice(0, bucket.counts[0]), job.split_column)
        counts = JoinedCounts(bucket.counts, absent, duplicates, *_count_matches(job, sources), splits)
        _write_last(done, json.dumps(asdict(counts)).encode())
    found = json.loads(done.read_text(encoding="utf-8"))
    found["duplicates"] = {name: Duplicates(**content) for name, content in found["duplicates"].items()}
    train, holdout, dropped = found["parts"]
    return JoinedCounts(**{**found, "parts": (train, holdout, dropped)})


def run_shard(job: ShardJob) -> ShardResult:
    """Write one shard and its sidecar; what was written before is only read."""
    done = job.work / f"{job.stem}.npz"
    if not done.is_file():
        names = list(job.sources)
        buffers: list[Any] = [np.empty(0, np.float16) for _ in names]
        sidecar: SidecarWriter | None = None
        with ShardWriter(
            job.folder / f"{job.stem}.arrow", names, job.dims, rows=job.rows, block_rows=job.block_rows
        ) as writer:
            for segment in job.segments:
                rows = read_segment(job.work, segment)
                kept = rows.select([name for name in rows.column_names if not name.startswith(PLACE_PREFIX)])
                sidecar = sidecar or SidecarWriter(job.folder, f"{job.stem}.rows.arrow", kept.schema)
                sidecar.append(kept)
                values = [_values(job, number, segment.bucket, buffers) for number in range(len(names))]
                writer.append(values, [rows[PLACE_PREFIX + name].to_numpy() for name in names])
            written = writer.close()
        assert sidecar is not None, "a shard has rows"
        spec = ShardSpec(
            path=f"{job.stem}.arrow",
            rows=job.rows,
            bytes=written.bytes,
            sha256=written.sha256,
            blocks=len(written.blocks),
            sidecar=sidecar.close(),
        )
        _write_result(done, ShardResult(spec, written.geometry, written.blocks, written.moments))
    return _read_result(done)


def read_segment(work: Path, segment: Segment) -> pa.Table:
    """The joined rows of a segment, as a table of one chunk."""
    with pa.OSFile(str(work / f"bucket-{segment.bucket:05d}.arrow")) as source:
        rows = pa.ipc.open_file(source).read_all()
    return rows.slice(segment.first + segment.start, segment.stop - segment.start).combine_chunks()


def _distinct(name: str, folders: Sequence[Path], job: JoinJob, duplicates: dict[str, Duplicates]) -> pa.Table | None:
    """A source's rows of this bucket, each id once, with the place of each vector; says what stood more than once."""
    rows = read_bucket_rows(list(folders), job.bucket)
    if rows is None:
        return None
    rows = _with_places(rows)
    known = bucket_size(folders[: job.old[name]], job.bucket)
    kept, found = distinct_rows(rows["id"].combine_chunks(), job.on_duplicate, known_rows=known)
    if found is not None:
        duplicates[name] = found
    return rows if kept is None else rows.take(pa.array(kept))


def _values(job: ShardJob, number: int, bucket: int, buffers: list[Any]) -> np.ndarray:
    """What the places of a modality's rows count in: the rows of its file, or the bucket's vectors in its buffer."""
    name = list(job.sources)[number]
    if name in job.mapped:
        return job.mapped[name].unchanged()
    values = read_bucket_values(list(job.sources[name]), bucket, job.dims[number], buffer=buffers[number])
    buffers[number] = values.base
    return values


def _merged(job: JoinJob, duplicates: dict[str, Duplicates]) -> pa.Table | None:
    """The table's rows of this bucket, each id once; says what has several values in one column."""
    rows = read_bucket_rows(list(job.table), job.bucket)
    if rows is None:
        return None
    rows, found = merged_rows(rows, job.on_duplicate, known_rows=bucket_size(job.table[: job.old[""]], job.bucket))
    if found is not None:
        duplicates[""] = found
    return rows


def _count_matches(job: JoinJob, sources: Mapping[str, pa.Table | None]) -> tuple[int, int]:
    """The ids of the new table, and how many of them stand in a source."""
    rows = read_bucket_rows(list(job.table[job.old[""] :]), job.bucket)
    if rows is None:
        return 0, 0
    ids = pc.unique(rows["id"])
    given = [chunk for found in sources.values() if found is not None for chunk in found["id"].chunks]
    return len(ids), pc.sum(pc.is_in(ids, value_set=pa.chunked_array(given, pa.string()))).as_py() or 0


def _count_splits(rows: pa.Table, column: str | None) -> dict[str, int]:
    if column is None or column not in rows.column_names:
        return {}
    return {found["values"]: found["counts"] for found in pc.value_counts(rows[column].drop_null()).to_pylist()}


def _with_places(rows: pa.Table) -> pa.Table:
    """With a column `place`: which of the bucket's (or file's) vectors is the row's, -1 where it is absent."""
    if "reason" not in rows.column_names:
        return rows
    present = rows["reason"].to_numpy() == Reason.PRESENT
    place = rows["row"].to_numpy() if "row" in rows.column_names else np.cumsum(present) - 1
    return rows.append_column("place", pa.array(np.where(present, place, -1)))


def count_absent(reasons: pa.Array | pa.ChunkedArray) -> dict[str, int]:
    """How many cells are absent, by the reason's label, in the order of the reasons."""
    by_reason = np.bincount(reasons.to_numpy(), minlength=len(Reason))
    return {
        reason.label: int(by_reason[reason]) for reason in Reason if reason is not Reason.PRESENT and by_reason[reason]
    }


def _write_result(path: Path, result: ShardResult) -> None:
    arrays: dict[str, Any] = {"blocks": result.blocks, "counts": np.array([m.count for m in result.moments])}
    for number, moments in enumerate(result.moments):
        arrays[f"moments{number}"] = np.stack([getattr(moments, name) for name in _MOMENTS])
    text = json.dumps([result.spec.model_dump(mode="json"), result.geometry.model_dump(mode="json")])
    temporary = path.with_name(f"{path.stem}.partial.npz")
    np.savez(temporary, text=np.array(text), **arrays)
    os.replace(temporary, path)


def _read_result(path: Path) -> ShardResult:
    with np.load(path, allow_pickle=False) as found:
        spec, geometry = json.loads(str(found["text"]))
        moments = tuple(Moments(int(count), *found[f"moments{number}"]) for number, count in enumerate(found["counts"]))
        return ShardResult(ShardSpec(**spec), Geometry(**geometry), found["blocks"], moments)


def _write_last(path: Path, content: bytes) -> None:
    temporary = path.with_name(f"{path.name}.partial")
    temporary.write_bytes(content)
    os.replace(temporary, path)
