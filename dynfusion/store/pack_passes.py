"""The three passes of a pack, each a list of jobs: read sources into buckets, join the buckets, write the shards."""

from collections.abc import Iterator, Sequence

import pyarrow as pa

from dynfusion.printable import printable
from dynfusion.store.join import PLACE_PREFIX
from dynfusion.store.manifest import FileSpec
from dynfusion.store.pack_files import (
    JoinedCounts,
    JoinJob,
    Segment,
    ShardJob,
    ShardResult,
    read_segment,
    run_join,
    run_shard,
)
from dynfusion.store.pack_notes import tell_of_table
from dynfusion.store.pack_plan import rows_known
from dynfusion.store.pack_work import Work
from dynfusion.store.scatter import Scattered, ScatterJob, read_scattered, scatter, shuffle_key
from dynfusion.store.sidecar import SidecarWriter
from dynfusion.store.sources import Source


def read_sources(work: Work) -> None:
    """Every row of every source into its bucket.

    Raises ValueError for bad rows under `on_bad="error"`, naming ids, for a source without rows, and for what a file
    can have wrong.
    """
    jobs: list[tuple[int, ScatterJob]] = list(_scatter_jobs(work))
    results: list[Scattered | None] = [read_scattered(job.folder) for _, job in jobs]
    todo = [number for number, result in enumerate(results) if result is None]

    def finished(number: int, result: Scattered) -> None:
        results[todo[number]] = result
        work.count.add(result.rows, expected=rows_known(jobs[todo[number]][1].pieces))

    for (_, job), result in zip(jobs, results, strict=True):
        if result is not None:
            work.count.add(result.rows, expected=rows_known(job.pieces))
    work.run(scatter, [jobs[number][1] for number in todo], finished=finished)
    for number, source in enumerate(work.sources):
        found = [result for (of, _), result in zip(jobs, results, strict=True) if of == number and result is not None]
        _check_source(source, found)
    if (
        work.table
        and work.table.pieces
        and not sum(
            result.rows for (of, _), result in zip(jobs, results, strict=True) if of == len(work.sources) and result
        )
    ):
        raise ValueError(f"{work.table.ids_at} has no rows, at least one is needed")


def join_buckets(work: Work) -> list[JoinedCounts]:
    """What every bucket holds, bucket after bucket, and the rows of each in order on disk.

    Raises ValueError under `on_duplicate="error"` for a source with an id more than once, and for a table none of whose
    ids is in a source.
    """
    columns = dict(work.table.columns) if work.table else {}
    jobs = [
        JoinJob(
            work=work.scratch,
            bucket=bucket,
            sources=dict(zip(work.names, work.scattered, strict=False)),
            table=work.scattered[-1],
            columns=columns,
            holdout=work.rules.holdout,
            shuffle_key=shuffle_key(work.rules.seed),
            on_duplicate=work.rules.on_duplicate,
            with_group=work.with_group,
            old=work.old,
            split_column=work.table.split_column if work.table else None,
        )
        for bucket in range(work.plan.num_buckets)
    ]
    results: dict[int, JoinedCounts] = {}
    work.run(run_join, jobs, finished=results.__setitem__)
    joined = [results[bucket] for bucket in range(len(jobs))]
    if work.rules.on_duplicate == "error":
        _check_duplicates(work, joined)
    tell_of_table(work, joined)
    rows = sum(sum(counts.parts[:2]) for counts in joined)
    work.count.total = work.count.done + rows
    return joined


def write_shards(
    work: Work, joined: Sequence[JoinedCounts], part: int, *, block_rows: int, shard_rows: int, stem: str
) -> list[ShardResult]:
    """The rows of train (0) or holdout (1) as shards `<stem>-00000.arrow` and so on, with their sidecars."""
    segments = list(_segments(joined, part))
    total = sum(segment.stop - segment.start for segment in segments)
    jobs = [
        ShardJob(
            folder=work.folder,
            work=work.scratch,
            stem=f"{stem}-{number:05d}",
            segments=_cut(segments, start, min(start + shard_rows, total)),
            sources=dict(zip(work.names, work.scattered, strict=False)),
            mapped=work.mapped,
            dims=tuple(source.dim for source in work.sources),
            block_rows=block_rows,
        )
        for number, start in enumerate(range(0, total, shard_rows))
    ]
    results: dict[int, ShardResult] = {}

    def finished(number: int, result: ShardResult) -> None:
        results[number] = result
        work.count.add(result.spec.rows, expected=result.spec.rows)

    work.run(run_shard, jobs, finished=finished)
    return [results[number] for number in range(len(jobs))]


def write_dropped(work: Work, joined: Sequence[JoinedCounts], name: str) -> FileSpec | None:
    """The sidecar of the rows without any modality; None when there are none."""
    writer: SidecarWriter | None = None
    for segment in _segments(joined, 2):
        rows = read_segment(work.scratch, segment)
        rows = rows.select([column for column in rows.column_names if not column.startswith(PLACE_PREFIX)])
        writer = writer or SidecarWriter(work.folder, name, rows.schema)
        writer.append(rows)
    return writer.close() if writer else None


def _scatter_jobs(work: Work) -> Iterator[tuple[int, ScatterJob]]:
    named: list[tuple[str, str, dict[str, pa.DataType]]] = [
        (f"modality {source.name}", source.ids_at, dict.fromkeys(sorted(source.texts), pa.string()))
        for source in work.sources
    ]
    if work.table:
        named.append((f"table {work.table.uri}", work.table.ids_at, work.table.columns))
    for number, (where, ids_at, columns) in enumerate(named):
        for folder, pieces in zip(work.scattered[number], work.groups[number], strict=True):
            yield (
                number,
                ScatterJob(
                    folder=folder,
                    pieces=pieces,
                    where=where,
                    ids_at=ids_at,
                    columns=columns,
                    chunk_rows=work.plan.chunk_rows[number],
                    num_buckets=work.plan.num_buckets,
                    seed=work.rules.seed,
                    on_bad=work.rules.on_bad,
                    zero_rows=work.rules.zero_rows,
                    in_place=number < len(work.names) and work.names[number] in work.mapped,
                    files=work.files,
                ),
            )


def _check_source(source: Source, found: Sequence[Scattered]) -> None:
    if source.pieces and not sum(result.rows for result in found):
        raise ValueError(f"{source.ids_at} has no rows, at least one is needed")
    bad = sum(result.bad for result in found)
    ids = [printable(name) for result in found for name in result.bad_ids][:3]
    if bad:
        raise ValueError(
            f"modality {source.name}: {bad} row{'s' * (bad > 1)} of {source.uri} with NaN, infinity, numbers beyond "
            "float16's 65504 or all too small for float16 (below 6e-8) "
            f"(ids {', '.join(ids)}{', ...' if bad > len(ids) else ''}), --on-bad absent leaves them out"
        )


def _check_duplicates(work: Work, joined: Sequence[JoinedCounts]) -> None:
    named = [(source.name, source.ids_at) for source in work.sources]
    for name, ids_at in [*named, *([("", work.table.ids_at)] if work.table else [])]:
        found = [counts.duplicates[name] for counts in joined if name in counts.duplicates]
        known = [duplicates for duplicates in found if duplicates.known]
        if known:
            another = f" with another {known[0].column}" if known[0].column else ""
            raise ValueError(
                f"{ids_at} gives ids{another} that the data set has already "
                f"({sum(duplicates.known for duplicates in known)} of them, such as {known[0].example!r}), "
                "--on-duplicate first keeps what it has, last takes the new"
            )
        if found:
            raise ValueError(
                f"{ids_at} has duplicate ids ({sum(duplicates.ids for duplicates in found)} of them, such as "
                f"{found[0].example!r}, {found[0].times} times{_in_column(found[0].column)}), "
                "each id may stand once, or --on-duplicate first or last keeps one"
            )


def _in_column(column: str) -> str:
    return f" with more than one {column}" if column else ""


def _segments(joined: Sequence[JoinedCounts], part: int) -> Iterator[Segment]:
    """All rows of a part, bucket after bucket."""
    for bucket, counts in enumerate(joined):
        if counts.parts[part]:
            yield Segment(bucket, sum(counts.parts[:part]), 0, counts.parts[part])


def _cut(segments: Sequence[Segment], start: int, stop: int) -> tuple[Segment, ...]:
    """The rows [start, stop) of all these segments one after another."""
    cut, at = [], 0
    for segment in segments:
        low, high = max(start - at, 0), min(stop - at, segment.stop)
        if low < high:
            cut.append(Segment(segment.bucket, segment.first, low, high))
        at += segment.stop
    return tuple(cut)
