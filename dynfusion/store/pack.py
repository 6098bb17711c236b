"""Any embeddings -> a packed dataset, in memory that does not grow with it.

    sources, table --read--> buckets of rows by hash of id --join--> rows of train | holdout | dropped in order
        --write--> shards + sidecars --> blocks.bin --> manifest.json

Each pass is a list of independent jobs (threads here, Ray tasks in `edges/ray_pack.py`) that leave finished files in a
hidden sibling folder, which takes the target's name at the end: no half packs, and a killed pack continues.
"""

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path

from pydantic import Field

from dynfusion.settings import Settings
from dynfusion.store.blocks import BLOCKS_NAME, write_blocks
from dynfusion.store.cells import OnBad, ZeroRows
from dynfusion.store.files import LOCAL, Files, name_of
from dynfusion.store.join import OnDuplicate
from dynfusion.store.manifest import (
    FORMAT_VERSION,
    NAME_PATTERN,
    Manifest,
    ModalitySpec,
    local_folder,
    read_manifest,
    with_fingerprint,
    write_manifest,
)
from dynfusion.store.order import choose_layout
from dynfusion.store.pack_files import JoinedCounts, ShardResult
from dynfusion.store.pack_passes import (
    WORK_NAME,
    Count,
    Rules,
    Work,
    join_buckets,
    read_sources,
    rows_to_do,
    write_dropped,
    write_shards,
)
from dynfusion.store.pack_plan import make_plan
from dynfusion.store.reasons import Reason
from dynfusion.store.run_jobs import RunJobs, available_cores, run_on_threads
from dynfusion.store.sidecar import describe_file
from dynfusion.store.source import binary_width
from dynfusion.store.sources import Source, open_source, source_files
from dynfusion.store.statistics import Moments, merge, no_moments
from dynfusion.store.table import Table, open_metadata

INPUTS_NAME = "inputs.json"
_SHARD_ROWS = 1 << 20
_RESERVED = {"id", "smiles", "group"}


class PackSettings(Settings):
    """How to pack; what to pack is `PackInputs`. `memory_bytes` and `threads` change no byte of the result."""

    on_bad: OnBad = Field(
        default="error", description="rows with NaN, infinity or numbers beyond float16: refuse or leave out"
    )
    on_duplicate: OnDuplicate = Field(
        default="error", description="an id more than once in a source: refuse, or keep the first or the last"
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
    memory_bytes: int = Field(default=2 << 30, ge=384 << 20, description="of the process, about, whatever the input")
    threads: int | None = Field(default=None, ge=1, description="jobs at a time; one a core when None")


@dataclass(frozen=True)
class PackInputs:
    """Addresses of the modalities by name, in the order they are packed, and of the optional metadata table.

    `binary_dtype` is the type of the numbers in columns of bytes that do not say it themselves.
    """

    modalities: Mapping[str, str | Path]
    table: str | Path | None = None
    id_column: str = "id"
    labels: tuple[str, ...] = ()
    split_column: str | None = None
    binary_dtype: str = "float16"

    def __post_init__(self) -> None:
        if not self.modalities:
            raise ValueError("modalities: found none, at least one NAME=PATH is needed")
        wrong = [name for name in self.modalities if not re.match(NAME_PATTERN, name)]
        if wrong:
            raise ValueError(f"modality {wrong[0]}: a name is made of letters, digits and any of _ . + -")
        if self.table is None and (self.labels or self.split_column):
            raise ValueError("labels and split: they are columns of a table, and no table was given")
        named = [*self.labels, *([self.split_column] if self.split_column else [])]
        if len(set(named)) < len(named) or _RESERVED & set(named):
            raise ValueError(f"labels and split: found {', '.join(named)}, each once and none of id, smiles, group")
        binary_width(self.binary_dtype)


Progress = Callable[[int, int], None]
"""Called with the rows read and written so far, and of how many."""


def pack(
    inputs: PackInputs,
    *,
    out: str | Path,
    settings: PackSettings | None = None,
    progress: Progress | None = None,
    files: Files = LOCAL,
    run_jobs: RunJobs | None = None,
) -> Manifest:
    """Pack the sources into the folder `out` and return its manifest.

    The same inputs and settings give the same bytes, in whichever order the sources' rows stand, in whatever memory and
    wherever the jobs run. Packing them again into the same place returns what is there; a killed pack continues.

    Raises ValueError for every fault of the inputs (the file and what is allowed), and when `out` holds something else.
    """
    settings = settings or PackSettings()
    target = local_folder(out)
    record = describe_inputs(inputs, settings, files)
    if target.exists() and any(target.iterdir() if target.is_dir() else [target]):
        return _already_packed(target, record)
    sources, table = open_inputs(inputs, files)
    with work_folder(target.with_name(f".{target.name}.partial"), record) as folder:
        work = start_work(folder, sources, table, settings, files=files, run_jobs=run_jobs, progress=progress)
        read_sources(work)
        manifest = _write(work, join_buckets(work), inputs, settings)
        shutil.rmtree(work.scratch)
        write_manifest(manifest, folder)
        os.replace(folder, target)
    return manifest


def open_inputs(inputs: PackInputs, files: Files) -> tuple[list[Source], Table | None]:
    """The sources and the table, opened. Raises ValueError for what can be seen to be wrong before rows are read."""
    sources = [
        open_source(name, str(uri), files=files, binary_dtype=inputs.binary_dtype)
        for name, uri in inputs.modalities.items()
    ]
    if inputs.table is None:
        return sources, None
    table = open_metadata(
        str(inputs.table),
        id_column=inputs.id_column,
        labels=inputs.labels,
        split_column=inputs.split_column,
        files=files,
    )
    return sources, table


def start_work(
    folder: Path,
    sources: Sequence[Source],
    table: Table | None,
    settings: PackSettings,
    *,
    files: Files,
    run_jobs: RunJobs | None,
    progress: Progress | None,
) -> Work:
    """The work in a folder, continued when an earlier run cut it alike."""
    threads = settings.threads or available_cores()
    plan = make_plan(sources, table, memory_bytes=settings.memory_bytes, threads=threads)
    _keep_plan(folder / WORK_NAME, f"{plan.num_buckets} buckets\n")
    rules = Rules(settings.on_bad, settings.zero_rows, settings.on_duplicate, settings.holdout, settings.seed)
    return Work(
        folder=folder,
        sources=sources,
        table=table,
        rules=rules,
        plan=plan,
        files=files,
        run=run_jobs or partial(run_on_threads, threads=threads),
        count=Count(progress or _no_progress, rows_to_do(sources, table)),
    )


def shard_rows(dims: Sequence[int], block_rows: int, shard_bytes: int) -> int:
    """Rows of a shard: whole blocks of about so many bytes, and no more than a million rows."""
    by_bytes = shard_bytes // (2 * sum(dims) * block_rows)
    return max(min(by_bytes, _SHARD_ROWS // block_rows), 1) * block_rows


def modality_specs(sources: Sequence[Source], moments: Sequence[Moments]) -> list[ModalitySpec]:
    """What the manifest says about each modality, its statistics over the training rows included."""
    return [
        ModalitySpec(
            name=source.name,
            dim=source.dim,
            encoder=source.encoder,
            mean=tuple(found.mean.tolist()),
            std=tuple(found.std.tolist()),
            minimum=tuple(found.minimum.tolist()),
            maximum=tuple(found.maximum.tolist()),
            present_rows=found.count,
        )
        for source, found in zip(sources, moments, strict=True)
    ]


def merged_moments(sources: Sequence[Source], shards: Sequence[ShardResult]) -> list[Moments]:
    """The moments of all shards, per modality, merged in the order of the shards."""
    return [
        reduce(merge, (shard.moments[number] for shard in shards), no_moments(source.dim))
        for number, source in enumerate(sources)
    ]


def sum_absent(names: Sequence[str], joined: Sequence[JoinedCounts]) -> dict[str, dict[str, int]]:
    """Absent cells by modality and reason over all buckets, in the order of the reasons."""
    totals: dict[str, dict[str, int]] = {}
    for name in names:
        cells = {reason.label: sum(counts.absent[name].get(reason.label, 0) for counts in joined) for reason in Reason}
        totals[name] = {label: count for label, count in cells.items() if count}
    return totals


def _write(work: Work, joined: Sequence[JoinedCounts], inputs: PackInputs, settings: PackSettings) -> Manifest:
    """Everything but the manifest, which comes back."""
    rows, held_out, dropped = (sum(counts.parts[part] for counts in joined) for part in range(3))
    if not rows:
        raise ValueError(
            f"modality {', '.join(inputs.modalities)}: none of {held_out + dropped} rows is left for training "
            f"({dropped} have no modality, {held_out} are held out), at least one is needed"
        )
    layout = choose_layout(rows, block_rows=settings.block_rows, lanes=settings.lanes)
    size = shard_rows([source.dim for source in work.sources], layout.block_rows, settings.shard_bytes)
    train, holdout = (
        write_shards(work, joined, part, block_rows=layout.block_rows, shard_rows=size, stem=stem)
        for part, stem in enumerate(("train", "holdout"))
    )
    tables = [shard.blocks for shard in (*train, *holdout)]
    write_blocks(work.folder / BLOCKS_NAME, tables)
    return with_fingerprint(
        {
            "format_version": FORMAT_VERSION,
            "modalities": modality_specs(work.sources, merged_moments(work.sources, train)),
            "rows": layout.rows,
            "holdout_rows": held_out,
            "dropped_rows": dropped,
            "block_rows": layout.block_rows,
            "lanes": layout.lanes,
            "window_blocks": layout.window_blocks,
            "pack_seed": settings.seed,
            "holdout_fraction": settings.holdout,
            "geometry": train[0].geometry,
            "shards": [shard.spec for shard in train],
            "holdout_shards": [shard.spec for shard in holdout],
            "dropped": write_dropped(work, joined, "dropped.rows.arrow"),
            "blocks": describe_file(work.folder / BLOCKS_NAME, rows=sum(len(table) for table in tables)),
            "absent": sum_absent(work.names, joined),
            "label_columns": inputs.labels,
            "split_column": inputs.split_column,
        }
    )


def describe_inputs(inputs: PackInputs, settings: PackSettings, files: Files) -> str:
    """What was packed and how, as text that is equal exactly when the pack would be: the versions of all files, and
    the settings that change a byte."""
    content = {
        "format_version": FORMAT_VERSION,
        "modalities": [[name, _versions(str(uri), files)] for name, uri in inputs.modalities.items()],
        "table": _versions(str(inputs.table), files) if inputs.table else None,
        "columns": [inputs.id_column, list(inputs.labels), inputs.split_column, inputs.binary_dtype],
        "settings": settings.model_dump(mode="json", exclude={"memory_bytes", "threads"}),
    }
    return json.dumps(content, indent=1) + "\n"


def _versions(uri: str, files: Files) -> dict[str, str]:
    return {name_of(file): files.version(file) for file in source_files(uri, files)}


def _already_packed(target: Path, record: str) -> Manifest:
    try:
        same = (target / INPUTS_NAME).read_text(encoding="utf-8") == record
    except OSError:
        same = False
    if not same:
        raise ValueError(f"{target}: already holds something else, choose another place or remove it first")
    return read_manifest(target)


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


def _keep_plan(scratch: Path, plan: str) -> None:
    """Start again when an earlier run had another number of buckets."""
    path = scratch / "plan.txt"
    if not (path.is_file() and path.read_text(encoding="utf-8") == plan):
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        path.write_text(plan, encoding="utf-8")


def _no_progress(done: int, total: int) -> None:
    """Stay silent."""
