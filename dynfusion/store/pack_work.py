"""A pack under way: its hidden folder, which a killed run leaves for the next one, and how its jobs are cut and run."""

import errno
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

from dynfusion.store.cells import OnBad, ZeroRows
from dynfusion.store.files import Files
from dynfusion.store.join import OnDuplicate
from dynfusion.store.mapped_rows import MappedRows, map_sources
from dynfusion.store.pack_inputs import PackSettings
from dynfusion.store.pack_plan import Plan, group_pieces, make_plan, mappable_bytes, rows_known
from dynfusion.store.run_jobs import RunJobs, available_cores, run_on_threads
from dynfusion.store.source import Piece
from dynfusion.store.sources import Source
from dynfusion.store.table import Table

INPUTS_NAME = "inputs.json"
WORK_NAME = "work"
_WORK_FORMAT = 2
"""Of the files in the work folder: those of another format are not continued."""

Progress = Callable[[int, int], None]
"""Called with the rows read and written so far, and of how many."""
Say = Callable[[str], None]
"""Called with a sentence about what was found that is no error."""


@dataclass(frozen=True)
class Rules:
    """What the passes need of the settings."""

    on_bad: OnBad
    zero_rows: ZeroRows
    on_duplicate: OnDuplicate
    holdout: float
    seed: int


@dataclass
class Count:
    """Rows read and written so far, of how many; told to `progress` whenever it grows."""

    progress: Callable[[int, int], None]
    total: int
    done: int = 0

    def add(self, rows: int, *, expected: int) -> None:
        """`rows` more are done, of which so many were counted in the total."""
        self.total += rows - expected
        self.done += rows
        if rows:
            self.progress(self.done, self.total)


@dataclass(frozen=True)
class Work:
    """A pack under way: what goes in, how it is cut, how jobs run, and the folder in which everything is written."""

    folder: Path
    sources: Sequence[Source]
    table: Table | None
    rules: Rules
    plan: Plan
    mapped: Mapping[str, MappedRows]
    files: Files
    run: RunJobs
    count: Count = field(repr=False)
    say: Say = field(repr=False)

    @property
    def scratch(self) -> Path:
        return self.folder / WORK_NAME

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(source.name for source in self.sources)

    @cached_property
    def groups(self) -> tuple[tuple[tuple[Piece, ...], ...], ...]:
        """The pieces of each source by job; the table's come last, none without a table."""
        given = [source.pieces for source in self.sources] + [self.table.pieces if self.table else ()]
        return tuple(group_pieces(pieces) for pieces in given)

    @cached_property
    def scattered(self) -> tuple[tuple[Path, ...], ...]:
        """The folders of each source's jobs, and the table's."""
        return tuple(
            tuple(self.scratch / f"read-{number}-{place:05d}" for place in range(len(groups)))
            for number, groups in enumerate(self.groups)
        )

    @cached_property
    def old(self) -> dict[str, int]:
        """How many of the first folders of each source (the table is "") are those of a dataset that is extended."""
        counts = (sum(group[0].packed for group in groups) for groups in self.groups)
        return dict(zip((*self.names, ""), counts, strict=True))

    @cached_property
    def with_group(self) -> bool:
        """Whether any source or the table says which rows belong together."""
        in_table = self.table is not None and "group" in self.table.columns
        return in_table or any("group" in source.texts for source in self.sources)


@contextmanager
def work_folder(folder: Path, record: str) -> Iterator[Path]:
    """The hidden folder of a pack: what an earlier run of the same inputs left there is kept, anything else is not.

    It stays when the run is killed or a file system fails, so that the next run continues; it vanishes when the inputs
    are at fault or the disk is full.
    """
    path = folder / INPUTS_NAME
    if not (path.is_file() and path.read_text(encoding="utf-8") == record):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        path.write_text(record, encoding="utf-8")
    try:
        yield folder
    except (ValueError, OSError) as error:
        if isinstance(error, ValueError) or error.errno == errno.ENOSPC:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def start_work(
    folder: Path,
    sources: Sequence[Source],
    table: Table | None,
    settings: PackSettings,
    *,
    files: Files,
    run_jobs: RunJobs | None,
    progress: Progress | None,
    say: Say | None = None,
) -> Work:
    """The work in a folder, continued when an earlier run cut it alike."""
    threads = settings.threads or available_cores()
    mapped = map_sources(sources, files, memory_bytes=mappable_bytes(settings.memory_bytes))
    plan = make_plan(sources, table, mapped, memory_bytes=settings.memory_bytes, threads=threads)
    cut = f"{plan.num_buckets} buckets, in place: {', '.join(mapped) or 'none'}"
    _keep_plan(folder / WORK_NAME, f"work format {_WORK_FORMAT}, {cut}\n")
    rules = Rules(settings.on_bad, settings.zero_rows, settings.on_duplicate, settings.holdout, settings.seed)
    return Work(
        folder=folder,
        sources=sources,
        table=table,
        rules=rules,
        plan=plan,
        mapped=mapped,
        files=files,
        run=run_jobs or partial(run_on_threads, threads=threads),
        count=Count(progress or _no_progress, _rows_to_do(sources, table)),
        say=say or _say_nothing,
    )


def _rows_to_do(sources: Sequence[Source], table: Table | None) -> int:
    """What is known of the rows to read and to write before anything is read."""
    known = [rows_known(source.pieces) for source in sources]
    return sum(known) + (rows_known(table.pieces) if table else 0) + max(known, default=0)


def _keep_plan(scratch: Path, plan: str) -> None:
    """Start again when an earlier run was cut otherwise."""
    path = scratch / "plan.txt"
    if not (path.is_file() and path.read_text(encoding="utf-8") == plan):
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        path.write_text(plan, encoding="utf-8")


def _say_nothing(sentence: str) -> None:
    """Nobody listens."""


def _no_progress(done: int, total: int) -> None:
    """Stay silent."""
