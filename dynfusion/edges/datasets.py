"""Packed datasets wherever they lie: opened, checked and put there."""

import hashlib
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from dynfusion.edges.object_store import ObjectStore
from dynfusion.edges.s3_address import is_s3, parse_s3
from dynfusion.store import dataset as local
from dynfusion.store import verify as checking
from dynfusion.store.blocks import parse_blocks
from dynfusion.store.manifest import MANIFEST_NAME, FileSpec, Manifest, read_manifest
from dynfusion.store.origin import CONNECTIONS, CacheSettings, Remote

_RANGE_BYTES = 12 << 20


def open_dataset(
    uri: str | Path,
    *,
    cache: CacheSettings = CacheSettings(),  # noqa: B008, it is frozen
    processes: int = 1,
) -> local.Dataset:
    """The dataset at a local folder, a `file://` or an `s3://` address; only its manifest is read now.

    `processes` of this run share the node and its cache. Raises ValueError when there is no valid manifest.
    """
    if not is_s3(uri):
        return local.open_dataset(uri)
    return local.open_dataset(uri, Remote(ObjectStore(parse_s3(str(uri))), cache, processes))


def verify(uri: str | Path) -> list[str]:
    """One sentence per wrong file, as `store.verify`; a far dataset is streamed, nothing is kept.

    Raises ValueError when there is no valid manifest.
    """
    if not is_s3(uri):
        return checking.verify(uri)
    store = ObjectStore(parse_s3(str(uri)))
    manifest = open_dataset(uri).manifest
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        problems = list(pool.map(partial(_problem, store, manifest), manifest.files))
    return [problem for problem in problems if problem]


def upload(folder: Path, uri: str, progress: Callable[[int, int], None]) -> Manifest:
    """Put a packed dataset at an `s3://` address, the manifest last; what is already there stays.

    Raises ValueError when another dataset is there, or the store cannot be written.
    """
    store, manifest = ObjectStore(parse_s3(uri)), read_manifest(folder)
    there = manifest_at(uri)
    if there is not None:
        if there.fingerprint != manifest.fingerprint:
            raise ValueError(f"{uri}: already holds another data set, choose another place or remove it first")
        return there
    total, done = sum(file.bytes for file in manifest.files), 0
    with ThreadPoolExecutor(4) as pool:
        for file, _ in zip(
            manifest.files,
            pool.map(lambda file: store.write(file.path, folder / file.path), manifest.files),
            strict=True,
        ):
            done += file.bytes
            progress(done, total)
    store.write(MANIFEST_NAME, folder / MANIFEST_NAME)
    return manifest


def manifest_at(uri: str) -> Manifest | None:
    """The manifest at an `s3://` address, None when there is none. Raises ValueError when it is not a valid one."""
    try:
        ObjectStore(parse_s3(uri)).read(MANIFEST_NAME)
    except FileNotFoundError:
        return None
    return open_dataset(uri).manifest


def _problem(store: ObjectStore, manifest: Manifest, file: FileSpec) -> str | None:
    digest = hashlib.sha256()
    where = f"{store.address.join(file.path)}"
    try:
        for start in range(0, file.bytes, _RANGE_BYTES):
            digest.update(store.read_range(file.path, start, min(start + _RANGE_BYTES, file.bytes)))
    except FileNotFoundError:
        return f"{where}: missing"
    except ValueError as error:
        return str(error)
    if digest.hexdigest() == file.sha256:
        return None
    return f"{where}: its SHA-256 is not the manifest's{_wrong_blocks(store, manifest, file)}"


def _wrong_blocks(store: ObjectStore, manifest: Manifest, file: FileSpec) -> str:
    """Which blocks of a damaged shard are wrong, as far as the block table is right."""
    shards = [*manifest.shards, *manifest.holdout_shards]
    if file not in shards:
        return ""
    content = store.read(manifest.blocks.path)
    if hashlib.sha256(content).hexdigest() != manifest.blocks.sha256:
        return ""
    number = shards.index(file)
    first = sum(shard.blocks for shard in shards[:number])
    table = parse_blocks(content)[first : first + shards[number].blocks]
    size = manifest.geometry.block_bytes
    wrong = [
        block
        for block, (offset, _, checksum) in enumerate(table.tolist())
        if zlib.crc32(store.read_range(file.path, offset, offset + size)) != checksum
    ]
    if not wrong:
        return " (every block is right, the damage is in the schema or footer)"
    return f" ({len(wrong)} of {len(table)} blocks are wrong, the first is block {wrong[0]})"
