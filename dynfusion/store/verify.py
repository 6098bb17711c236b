"""Every checksum of a dataset against its files."""

import hashlib
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from dynfusion.store.blocks import read_blocks
from dynfusion.store.files import Files, name_of
from dynfusion.store.manifest import FileSpec, Manifest, check_size, local_folder, read_manifest
from dynfusion.store.run_jobs import available_cores, run_on_threads


def verify(
    uri: str | Path, *, threads: int | None = None, progress: Callable[[int, int], None] | None = None
) -> list[str]:
    """One sentence per wrong file, naming it and, for a shard, its first wrong block; empty when all is right.

    Files are read on so many threads (one a core by default); `progress(bytes_done, bytes)` is called as they go.

    Raises ValueError when there is no valid manifest.
    """
    folder, manifest = local_folder(uri), read_manifest(uri)
    files = sorted(manifest.files, key=lambda file: -file.bytes)
    found: dict[int, str | None] = {}
    done = 0

    def finished(number: int, problem: str | None) -> None:
        nonlocal done
        found[number] = problem
        done += files[number].bytes
        if progress is not None:
            progress(done, sum(file.bytes for file in files))

    run_on_threads(partial(_problem, folder), files, finished=finished, threads=threads or available_cores())
    by_path = {file.path: found[number] for number, file in enumerate(files)}
    problems = {file.path: by_path[file.path] for file in manifest.files}
    blocks_right = problems[manifest.blocks.path] is None
    first = 0
    for shard in (*manifest.shards, *manifest.holdout_shards):
        problem = problems[shard.path]
        if problem and blocks_right and _size(folder / shard.path) == shard.bytes:
            problems[shard.path] = problem + _wrong_blocks(folder, manifest, shard.path, first, shard.blocks)
        first += shard.blocks
    return [problem for problem in problems.values() if problem]


def check_there(folder: str, manifest: Manifest, files: Files) -> None:
    """Raise ValueError unless the files of a dataset that a command has made before are all there, and on a local disk
    as long as the manifest says; nothing is read."""
    far = set() if files.path(folder) else {name_of(found) for found in files.find(folder)}
    for file in manifest.files:
        where = f"{folder}/{file.path}"
        path = files.path(where)
        found = _size(path) if path is not None else file.bytes if file.path in far else None
        try:
            check_size(where, found, file.bytes)
        except ValueError as error:
            raise ValueError(
                f"{error}; `dynfusion verify` names all that is wrong, the same command makes the data set again once "
                "what is left of it is removed"
            ) from None


def _problem(folder: Path, file: FileSpec) -> str | None:
    path = folder / file.path
    size = _size(path)
    if size is None:
        return f"{path}: missing"
    if size != file.bytes:
        return f"{path}: found {size} bytes, the manifest says {file.bytes}"
    with path.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    return None if digest == file.sha256 else f"{path}: its SHA-256 is not the manifest's"


def _wrong_blocks(folder: Path, manifest: Manifest, name: str, first: int, blocks: int) -> str:
    content = np.memmap(folder / name, np.uint8, mode="r")
    table = read_blocks(folder, manifest)[first : first + blocks]
    size = manifest.geometry.block_bytes
    wrong = [
        number
        for number, (offset, _, checksum) in enumerate(table.tolist())
        if zlib.crc32(content[offset : offset + size].data) != checksum
    ]
    if not wrong:
        return " (every block is right, the damage is in the schema or footer)"
    return f" ({len(wrong)} of {blocks} blocks are wrong, the first is block {wrong[0]})"


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None
