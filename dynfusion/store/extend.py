"""More rows or another modality for a packed dataset: new shards under a new manifest, the old one as it was.

    only new rows:   the old shards stay in use but the last, not full ones, whose rows are shuffled with the new
    anything else:   a new modality, new labels, or more about old rows: every row is packed again, as if given at once

The new manifest (`manifest-1.json`, `manifest-2.json`, ...) lies beside the old, and is the new dataset's address.
"""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from pathlib import Path

import pyarrow as pa

from dynfusion.store.extension_base import (
    Base,
    keeping_full_shards,
    kept_of,
    known_of,
    open_base,
    share_ids,
    with_pooled_rows,
)
from dynfusion.store.file_lock import alone
from dynfusion.store.files import LOCAL, Files
from dynfusion.store.manifest import Manifest, local_folder, parse_manifest, write_manifest
from dynfusion.store.pack_inputs import PackInputs, PackSettings, describe_inputs, open_inputs, see_inputs
from dynfusion.store.pack_manifest import Kept, write_pack
from dynfusion.store.pack_passes import read_sources
from dynfusion.store.pack_work import INPUTS_NAME, Progress, Say, Work, start_work, work_folder
from dynfusion.store.run_jobs import RunJobs
from dynfusion.store.sources import Source
from dynfusion.store.table import Table
from dynfusion.store.verify import check_there

_EVERY_ROW = "every-row"


def extend(
    inputs: PackInputs,
    base: str | Path,
    *,
    out: Path | None = None,
    settings: PackSettings | None = None,
    progress: Progress | None = None,
    files: Files = LOCAL,
    run_jobs: RunJobs | None = None,
    say: Say | None = None,
) -> str:
    """Add the sources' rows and modalities to the dataset at `base`; the address of the extended dataset comes back.

    Rows are shuffled and held out by the base's own seed and share. An id that the base has may give a cell that the
    base lacks; a cell given twice is a duplicate (`on_duplicate`: the base's is the first). So may a table, column by
    column: only another value than the base's is a duplicate. The same inputs again find what they made before; a
    killed run continues.

    The new files are written beside the base's, or into the folder `out`, from where the caller puts them there, the
    manifest last; `files` reads the base as well as the sources. `say` gets sentences about what is no error.

    Raises ValueError as `pack` does, for another holdout, seed or block size than the base's, for a modality of another
    width, a column of another kind, and at once when another process is extending the dataset.
    """
    target = local_folder(base) if out is None else out
    whole = open_base(str(base), files)
    settings = _settled(settings or PackSettings(), whole.manifest, str(base))
    seen = see_inputs(inputs, files)
    content = [whole.manifest.fingerprint, json.loads(describe_inputs(inputs, settings, seen))]
    record = json.dumps(content, indent=1) + "\n"
    number, made = _find(whole.folder, record, files)
    if made:
        _check_made(whole.folder, number, files)
    if made and out is None:
        return f"{whole.folder}/{_manifest_name(number)}"
    lock = target / ".extend.lock" if out is None else out.with_name(f".{out.name}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with alone(lock, f"{base}: another process is extending it, wait for it and run the same command again"):
        number, made = _find(whole.folder, record, files)  # another may have been made meanwhile
        if not made and not (out is not None and _is_made(str(out), number, record, LOCAL)):
            if out is not None:
                (out / _manifest_name(number)).unlink(missing_ok=True)  # made of other inputs and never taken away
            sources, table = _open_fitting(inputs, whole, str(base), say)
            with work_folder(target / f".manifest-{number}.partial", record) as folder:
                start = partial(
                    start_work, folder, settings=settings, files=files, run_jobs=run_jobs, progress=progress, say=say
                )
                with seen.unchanged():
                    work, kept = _read(folder, whole, sources, table, start=start)
                    manifest = write_pack(work, inputs, settings, kept=kept, suffix=f"-{number}")
                _publish(folder, target, manifest, number)
                shutil.rmtree(folder)
        elif made and out is not None:
            shutil.rmtree(out, ignore_errors=True)  # what an earlier run left there is not needed
    return f"{whole.folder}/{_manifest_name(number)}"


def _open_fitting(inputs: PackInputs, whole: Base, base: str, say: Say | None) -> tuple[list[Source], Table | None]:
    """The sources and the table, opened as the base needs them. Raises ValueError for what does not fit to it."""
    named = (*whole.manifest.label_columns, *filter(None, [whole.manifest.split_column]))
    _check_labels(whole, inputs, base)
    known = known_of(whole, base)
    sources, table = open_inputs(inputs, whole.files, known=known, columns=whole.columns, elsewhere=named)
    _tell_of_columns(whole.manifest, sources, base, say)
    _check_sources(whole.manifest, sources, base)
    _check_columns(whole, table, base)
    _tell_of_new(whole.manifest, sources, say)
    return sources, table


def inputs_name(manifest_name: str) -> str:
    """The file that says what an extension was made of, by the name of its manifest."""
    return manifest_name.replace("manifest", "inputs")


def _manifest_name(number: int) -> str:
    return f"manifest-{number}.json"


def _settled(settings: PackSettings, old: Manifest, base: str) -> PackSettings:
    """The settings with what the base decides."""
    if settings.holdout not in (0.0, old.holdout_fraction):
        raise ValueError(f"setting holdout: found {settings.holdout}, {base} holds out {old.holdout_fraction}")
    if settings.seed not in (0, old.pack_seed):
        raise ValueError(f"setting seed: found {settings.seed}, {base} was shuffled by {old.pack_seed}")
    if settings.block_rows not in (None, old.block_rows):
        raise ValueError(f"setting block_rows: found {settings.block_rows}, {base} has blocks of {old.block_rows} rows")
    decided = {"holdout": old.holdout_fraction, "seed": old.pack_seed, "block_rows": old.block_rows}
    return settings.model_copy(update=decided)


def _find(folder: str, record: str, files: Files) -> tuple[int, bool]:
    """The number of the extension that was made of the same, and True; else the first that is free, and False."""
    for number in count(1):
        if not files.find(f"{folder}/{_manifest_name(number)}"):
            break
        if _is_made(folder, number, record, files):
            return number, True
    return number, False


def _read(
    folder: Path,
    whole: Base,
    sources: Sequence[Source],
    table: Table | None,
    *,
    start: Callable[..., Work],
) -> tuple[Work, Kept]:
    """The sources, read with the rows of the base that are packed again, and what stays of the base.

    `start(sources, table)` starts the work. A run that is killed while it reads every row goes on with that.
    """
    parts = keeping_full_shards(whole, sources, table)
    if parts is not None and not (folder / _EVERY_ROW).exists():
        work = start(*with_pooled_rows(parts, sources, table))
        read_sources(work)
        if not share_ids(work, parts):
            return work, kept_of(parts, work)
        unneeded = folder / "unneeded"
        shutil.rmtree(unneeded, ignore_errors=True)
        os.replace(work.scratch, unneeded)  # at once, so that no half of it is taken for what is read below
        (folder / _EVERY_ROW).touch()
        shutil.rmtree(unneeded)
    work = start(*with_pooled_rows(whole, sources, table))
    read_sources(work)
    return work, kept_of(whole, work)


def _is_made(folder: str, number: int, record: str, files: Files) -> bool:
    """Whether the folder has the manifest of this number, made of what the record says."""
    name = _manifest_name(number)
    if not files.find(f"{folder}/{name}"):
        return False
    with files.open(f"{folder}/{inputs_name(name)}") as file:
        return file.read() == record.encode()


def _check_made(folder: str, number: int, files: Files) -> None:
    """Raise ValueError when a file of the extension of this number is missing or truncated."""
    name = f"{folder}/{_manifest_name(number)}"
    with files.open(name) as file:
        manifest = parse_manifest(file.read(), name)
    check_there(folder, manifest, files)


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


def _check_labels(whole: Base, inputs: PackInputs, base: str) -> None:
    for name in (*inputs.labels, *filter(None, [inputs.split_column])):
        taken = [spec.name for spec in whole.manifest.modalities if name in spec.features]
        if taken and name not in whole.columns:
            raise ValueError(
                f"labels and split: {name} is a feature of modality {taken[0]} of {base}, give the column of the table "
                "another name"
            )


def _tell_of_columns(old: Manifest, sources: Sequence[Source], base: str, say: Say | None) -> None:
    unnamed = {spec.name for spec in old.modalities if not spec.features}
    for source in sources:
        if say and source.name in unnamed and source.features:
            shown = ", ".join(source.features[:5]) + (", ..." if len(source.features) > 5 else "")
            say(
                f"modality {source.name}: {base} does not say the order of its columns, those of {source.uri} are "
                f"taken as they stand: {shown}"
            )


def _tell_of_new(old: Manifest, sources: Sequence[Source], say: Say | None) -> None:
    """Say which modalities the dataset did not have: a name may be misspelt."""
    new = [source.name for source in sources if source.name not in old.names]
    if new and say is not None:
        say(f"{', '.join(new)} {'is' if len(new) == 1 else 'are'} new, the data set had {', '.join(old.names)}")


def _check_columns(whole: Base, table: Table | None, base: str) -> None:
    for name, kind in (table.columns if table else {}).items():
        old = whole.columns.get(name, kind)
        if old != kind:
            words = {True: "numbers", False: "text"}
            raise ValueError(
                f"table {table.uri if table else ''}, column {name}, holds {words[pa.types.is_floating(kind)]} where "
                f"{base} has {words[pa.types.is_floating(old)]}, give it another name or the same kind of values"
            )


def _publish(made: Path, folder: Path, manifest: Manifest, number: int) -> None:
    """Put the new files where they belong, the manifest last; called again after a kill, it moves what is left.

    Raises ValueError, before it touches a file, when there is such a manifest already.
    """
    name = _manifest_name(number)
    if (folder / name).exists():
        raise ValueError(f"{folder}: another extension has become its {name} meanwhile, run the same command again")
    for file in manifest.files:
        if (made / file.path).is_file():
            os.replace(made / file.path, folder / file.path)
    (folder / inputs_name(name)).unlink(missing_ok=True)  # what lies there may be a link to somewhere else
    shutil.copyfile(made / INPUTS_NAME, folder / inputs_name(name))
    write_manifest(manifest, folder, name)
