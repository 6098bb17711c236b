"""More rows or another modality for a packed dataset: new shards under a new manifest, the old one as it was.

    only new rows:   the old shards stay in use but the last, not full ones, whose rows are shuffled with the new
    anything else:   a new modality, new labels, or more about old rows: every row is packed again, as if given at once

The new manifest (`manifest-1.json`, `manifest-2.json`, ...) lies beside the old, and is the new dataset's address.
"""

import json
import os
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from dynfusion.store.extension_base import (
    Base,
    keeping_full_shards,
    kept_of,
    open_base,
    share_ids,
    with_pooled_rows,
)
from dynfusion.store.files import LOCAL, Files
from dynfusion.store.manifest import Manifest, local_folder, write_manifest
from dynfusion.store.pack_inputs import PackInputs, PackSettings, describe_inputs, open_inputs
from dynfusion.store.pack_manifest import write_pack
from dynfusion.store.pack_passes import read_sources
from dynfusion.store.pack_work import INPUTS_NAME, WORK_NAME, Progress, Work, start_work, work_folder
from dynfusion.store.run_jobs import RunJobs
from dynfusion.store.sources import Source


def extend(
    inputs: PackInputs,
    base: str | Path,
    *,
    out: Path | None = None,
    settings: PackSettings | None = None,
    progress: Progress | None = None,
    files: Files = LOCAL,
    run_jobs: RunJobs | None = None,
) -> str:
    """Add the sources' rows and modalities to the dataset at `base`; the address of the extended dataset comes back.

    Rows are shuffled and held out by the base's own seed and share. An id that the base has may give a cell that the
    base lacks; a cell given twice is a duplicate (`on_duplicate`: the base's is the first). So may a table, column by
    column: only another value than the base's is a duplicate. The same inputs again find what they made before; a
    killed run continues.

    The new files are written beside the base's, or into the folder `out`, from where the caller puts them there, the
    manifest last; `files` reads the base as well as the sources.

    Raises ValueError as `pack` does, for another holdout than the base's, and for a modality of another width.
    """
    target = local_folder(base) if out is None else out
    whole = open_base(str(base), files)
    settings = _settled(settings or PackSettings(), whole.manifest, str(base))
    content = [whole.manifest.fingerprint, json.loads(describe_inputs(inputs, settings, files))]
    record = json.dumps(content, indent=1) + "\n"
    number = _number(whole.folder, record, files)
    address = f"{whole.folder}/{_manifest_name(number)}"
    if _is_made(whole.folder, number, record, files):
        if out is not None:
            shutil.rmtree(out, ignore_errors=True)  # what an earlier run left there is not needed
        return address
    if out is not None:
        if _is_made(str(out), number, record, LOCAL):
            return address
        (out / _manifest_name(number)).unlink(missing_ok=True)  # it was made of other inputs and never taken away
    sources, table = open_inputs(inputs, files)
    _check_sources(whole.manifest, sources, str(base))
    with work_folder(target / f".manifest-{number}.partial", record) as folder:
        start = partial(start_work, folder, settings=settings, files=files, run_jobs=run_jobs, progress=progress)

        def read(parts: Base) -> Work:
            work = start(*with_pooled_rows(parts, sources, table))
            read_sources(work)
            return work

        parts = keeping_full_shards(whole, sources, table)
        work = read(parts) if parts is not None else None
        if parts is None or work is None or share_ids(work, parts):
            shutil.rmtree(folder / WORK_NAME, ignore_errors=True)
            parts, work = whole, read(whole)
        manifest = write_pack(work, inputs, settings, kept=kept_of(parts, work), suffix=f"-{number}")
        _move(folder, target, manifest, number)
        write_manifest(manifest, target, _manifest_name(number))
        shutil.rmtree(folder)
    return address


def inputs_name(manifest_name: str) -> str:
    """The file that says what an extension was made of, by the name of its manifest."""
    return manifest_name.replace("manifest", "inputs")


def _manifest_name(number: int) -> str:
    return f"manifest-{number}.json"


def _settled(settings: PackSettings, old: Manifest, base: str) -> PackSettings:
    """The settings with what the base decides."""
    if settings.holdout not in (0.0, old.holdout_fraction):
        raise ValueError(f"setting holdout: found {settings.holdout}, {base} holds out {old.holdout_fraction}")
    decided = {"holdout": old.holdout_fraction, "seed": old.pack_seed, "block_rows": old.block_rows}
    return settings.model_copy(update=decided)


def _number(folder: str, record: str, files: Files) -> int:
    """The number of the extension that was made of the same, else the first that is free."""
    number = 1
    while files.find(f"{folder}/{_manifest_name(number)}") and not _is_made(folder, number, record, files):
        number += 1
    return number


def _is_made(folder: str, number: int, record: str, files: Files) -> bool:
    """Whether the folder has the manifest of this number, made of what the record says."""
    name = _manifest_name(number)
    if not files.find(f"{folder}/{name}"):
        return False
    with files.open(f"{folder}/{inputs_name(name)}") as file:
        return file.read() == record.encode()


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


def _move(made: Path, folder: Path, manifest: Manifest, number: int) -> None:
    """Put the new files where they belong; called again after a kill, it moves what is left."""
    for file in manifest.files:
        if (made / file.path).is_file():
            os.replace(made / file.path, folder / file.path)
    shutil.copyfile(made / INPUTS_NAME, folder / inputs_name(_manifest_name(number)))
