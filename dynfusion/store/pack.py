"""Any embeddings -> a packed dataset, in memory that does not grow with it.

    sources, table --read--> buckets of rows by hash of id --join--> rows of train | holdout | dropped in order
        --write--> shards + sidecars --> blocks.bin --> manifest.json

Each pass is a list of independent jobs (threads here, Ray tasks in `edges/ray_pack.py`) that leave finished files in a
hidden sibling folder, which takes the target's name at the end: no half packs, and a killed pack continues.
"""

import os
import shutil
from pathlib import Path

from dynfusion.store.file_lock import alone
from dynfusion.store.files import LOCAL, Files
from dynfusion.store.manifest import Manifest, local_folder, read_manifest, write_manifest
from dynfusion.store.pack_inputs import PackInputs, PackSettings, describe_inputs, open_inputs, see_inputs
from dynfusion.store.pack_manifest import write_pack
from dynfusion.store.pack_passes import read_sources
from dynfusion.store.pack_work import INPUTS_NAME, Progress, Say, start_work, work_folder
from dynfusion.store.run_jobs import RunJobs
from dynfusion.store.verify import check_there


def pack(
    inputs: PackInputs,
    *,
    out: str | Path,
    settings: PackSettings | None = None,
    progress: Progress | None = None,
    files: Files = LOCAL,
    run_jobs: RunJobs | None = None,
    say: Say | None = None,
) -> Manifest:
    """Pack the sources into the folder `out` and return its manifest.

    The same inputs and settings give the same bytes, in whichever order the sources' rows stand, in whatever memory and
    wherever the jobs run. Packing them again into the same place returns what is there; a killed pack continues. `say`
    gets sentences about what was found that is no error.

    Raises ValueError for every fault of the inputs (the file and what is allowed), for a file that changes meanwhile,
    when `out` holds something else or no longer all that was packed, and at once when another process is packing to it.
    """
    settings = settings or PackSettings()
    target = local_folder(out)
    seen = see_inputs(inputs, files)
    record = describe_inputs(inputs, settings, seen)
    if _holds_something(target):
        return _already_packed(target, record)
    sources, table = open_inputs(inputs, files)
    target.parent.mkdir(parents=True, exist_ok=True)
    with alone(target.with_name(f".{target.name}.lock"), f"{target}: another process is packing to it"):
        if _holds_something(target):  # it was packed meanwhile
            return _already_packed(target, record)
        with work_folder(target.with_name(f".{target.name}.partial"), record) as folder:
            work = start_work(
                folder, sources, table, settings, files=files, run_jobs=run_jobs, progress=progress, say=say
            )
            with seen.unchanged():
                read_sources(work)
                manifest = write_pack(work, inputs, settings)
            shutil.rmtree(work.scratch)
            write_manifest(manifest, folder)
            os.replace(folder, target)
    return manifest


def _holds_something(target: Path) -> bool:
    return target.exists() and any(target.iterdir() if target.is_dir() else [target])


def _already_packed(target: Path, record: str) -> Manifest:
    try:
        same = (target / INPUTS_NAME).read_text(encoding="utf-8") == record
    except OSError:
        same = False
    if not same:
        raise ValueError(f"{target}: already holds something else, choose another place or remove it first")
    manifest = read_manifest(target)
    check_there(str(target), manifest, LOCAL)
    return manifest
