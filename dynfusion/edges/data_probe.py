"""A packed data set, looked at: its manifest, whether all files are there, and the checksums of a sample of blocks."""

import hashlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dynfusion.edges.object_store import ObjectStore, locate
from dynfusion.edges.probe_process import serve
from dynfusion.edges.s3_address import is_s3
from dynfusion.store.blocks import parse_blocks
from dynfusion.store.manifest import Manifest, ShardSpec, local_folder, parse_manifest, read_manifest, split_address

_TRY_SECONDS, _STALL_SECONDS = 10.0, 4.0
_SAMPLE = 64
"""Blocks that are read at most: spread evenly over all, the first and the last among them."""


@dataclass(frozen=True)
class Folder:
    """The folder of a data set, near; functions as those of `ObjectStore`."""

    path: Path

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def read_range(self, name: str, start: int, stop: int) -> bytes:
        with (self.path / name).open("rb") as file:
            file.seek(start)
            return file.read(stop - start)

    def sizes(self, names: str) -> dict[str, int]:
        return {file.name: file.stat().st_size for file in (self.path / names).iterdir() if file.is_file()}


def probe(uri: str, sample: int = _SAMPLE) -> Iterator[dict[str, Any]]:
    """The facts of `preflight.observations.Data`, but for its address."""
    yield {"doing": "while its manifest was read"}
    try:
        folder, manifest = _open(uri)
        yield {"fingerprint": manifest.fingerprint, "rows": manifest.rows, "files": len(manifest.files)}
        yield {"bytes": sum(file.bytes for file in manifest.files), "doing": "while its files were listed"}
        sizes = folder.sizes("")
        wrong = [
            text for file in manifest.files if (text := _wrong_size(uri, file.path, sizes.get(file.path), file.bytes))
        ]
        yield {"wrong_files": wrong, "doing": f"while {manifest.blocks.path} was read"}
        if sizes.get(manifest.blocks.path) != manifest.blocks.bytes:
            return
        table = folder.read(manifest.blocks.path)
        if hashlib.sha256(table).hexdigest() != manifest.blocks.sha256:
            yield {"wrong_files": [*wrong, f"{manifest.blocks.path}: its SHA-256 is not the manifest's"]}
            return
        whole = {file.path for file in manifest.files if sizes.get(file.path) == file.bytes}
        yield from _blocks(folder, manifest, parse_blocks(table), whole, sample)
    except (OSError, ValueError) as error:
        yield {"problem": str(error)}


def _open(uri: str) -> tuple[Folder | ObjectStore, Manifest]:
    if not is_s3(uri):
        return Folder(local_folder(uri)), read_manifest(uri)
    store, name = locate(uri)
    store = replace(store, deadline_seconds=_TRY_SECONDS, stall_seconds=_STALL_SECONDS)
    try:
        return store, parse_manifest(store.read(name), f"{store.address}/{name}")
    except FileNotFoundError:
        raise ValueError(f"{store.address}: no packed dataset here, {name} is missing") from None


def _wrong_size(uri: str, name: str, found: int | None, expected: int) -> str | None:
    if found == expected:
        return None
    if found is None:
        return f"{name}: the manifest lists it but it is not in {split_address(uri.partition('?')[0])[0]}"
    return f"{name}: found {found} bytes, the manifest says {expected}"


def _blocks(
    folder: Folder | ObjectStore, manifest: Manifest, table: np.ndarray, whole: set[str], sample: int
) -> Iterator[dict[str, Any]]:
    """What a sample of blocks of the shards that are there comes to."""
    places = [(shard, block) for shard in (*manifest.shards, *manifest.holdout_shards) for block in range(shard.blocks)]
    chosen = np.unique(np.linspace(0, len(places) - 1, min(sample, len(places))).round().astype(int))
    read, wrong = 0, list[str]()
    for number in chosen.tolist():
        shard, block = places[number]
        if shard.path not in whole:
            continue
        yield {"doing": f"while block {block} of {shard.path} was read"}
        read += 1
        if not _is_right(folder, shard, manifest.geometry.block_bytes, table[number]):
            wrong.append(f"{shard.path}: the checksum of block {block} is wrong")
        yield {"blocks": len(places), "blocks_read": read, "wrong_blocks": wrong}


def _is_right(folder: Folder | ObjectStore, shard: ShardSpec, size: int, entry: np.void) -> bool:
    start = int(entry["offset"])
    return zlib.crc32(folder.read_range(shard.path, start, start + size)) == int(entry["crc32"])


if __name__ == "__main__":
    serve(probe)
