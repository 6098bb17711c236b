"""Every checksum of a dataset against its files."""

import hashlib
import zlib
from pathlib import Path

import numpy as np

from dynfusion.store.blocks import read_blocks
from dynfusion.store.manifest import FileSpec, Manifest, local_folder, read_manifest


def verify(uri: str | Path) -> list[str]:
    """One sentence per wrong file, naming it and, for a shard, its first wrong block; empty when all is right.

    Raises ValueError when there is no valid manifest.
    """
    folder, manifest = local_folder(uri), read_manifest(uri)
    problems = {file.path: _problem(folder, file) for file in manifest.files}
    blocks_right = problems[manifest.blocks.path] is None
    first = 0
    for shard in (*manifest.shards, *manifest.holdout_shards):
        problem = problems[shard.path]
        if problem and blocks_right and _size(folder / shard.path) == shard.bytes:
            problems[shard.path] = problem + _wrong_blocks(folder, manifest, shard.path, first, shard.blocks)
        first += shard.blocks
    return [problem for problem in problems.values() if problem]


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
