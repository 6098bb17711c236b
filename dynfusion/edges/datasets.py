"""Packed datasets wherever they lie: opened, checked and put there."""

import hashlib
import os
import shutil
import stat
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from dynfusion.edges.object_store import ObjectStore, locate
from dynfusion.edges.s3_address import is_s3, parse_s3
from dynfusion.edges.s3_files import reaching
from dynfusion.store import dataset as local
from dynfusion.store import verify as checking
from dynfusion.store.blocks import parse_blocks
from dynfusion.store.extend import inputs_name
from dynfusion.store.file_lock import alone
from dynfusion.store.files import Files
from dynfusion.store.manifest import (
    MANIFEST_NAME,
    FileSpec,
    Manifest,
    parse_manifest,
    read_manifest,
    split_address,
)
from dynfusion.store.origin import CONNECTIONS, CacheSettings, Remote
from dynfusion.store.pack_work import INPUTS_NAME
from dynfusion.training.config import DataSettings
from dynfusion.training.sources import Sources, join

_RANGE_BYTES = 12 << 20
_UPLOADS = 4
_DOING = {"pack": "packing to", "extend": "extending"}

Progress = Callable[[int, int], None]
"""Called with the bytes done so far, and of how many."""


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
    store, name = locate(str(uri))
    return local.open_dataset(uri, Remote(store, cache, processes, name))


def open_sources(data: DataSettings, *, processes: int = 1) -> Sources:
    """The data sets that a run trains on. Raises ValueError as `open_dataset` and `training.sources.join` do."""
    return join([open_dataset(uri, cache=data, processes=processes) for uri in data.uris], data.weights)


def verify(uri: str | Path, *, progress: Progress | None = None) -> list[str]:
    """One sentence per wrong file, as `store.verify`; a far dataset is streamed, nothing is kept.

    Raises ValueError when there is no valid manifest.
    """
    if not is_s3(uri):
        return checking.verify(uri, progress=progress)
    store, manifest = locate(str(uri))[0], open_dataset(uri).manifest
    total, done, problems = sum(file.bytes for file in manifest.files), 0, []
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        found = pool.map(partial(_problem, store, manifest), manifest.files)
        for file, problem in zip(manifest.files, found, strict=True):
            problems += [problem] if problem else []
            done += file.bytes
            if progress is not None:
                progress(done, total)
    return problems


class TakenError(ValueError):
    """Another data set lies at the address."""


def upload(folder: Path, uri: str) -> Manifest:
    """Put a packed dataset at an `s3://` address, the manifest last; what is already there stays.

    Raises ValueError when another dataset is there, or the store cannot be written.
    """
    store, manifest = ObjectStore(parse_s3(uri)), read_manifest(folder)
    there = _manifest_in(store)
    if there is not None:
        if there.fingerprint != manifest.fingerprint:
            raise _taken(uri)
        return there
    record = [INPUTS_NAME] if (folder / INPUTS_NAME).is_file() else []
    _put(store, folder, [*(file.path for file in manifest.files), *record], MANIFEST_NAME)
    return manifest


def pack_to_store(pack_at: Callable[[Path], Manifest], uri: str, record: str | None = None) -> Manifest:
    """What `pack_at(folder)` packs, uploaded to an `s3://` address and gone from this disk.

    `record` is what the pack is made of (`describe_inputs`): a dataset at the address that was made of the same comes
    back, any other is an error before anything is packed. The folder on this disk (TMPDIR says where) has a name of its
    own for each address, so a killed pack continues.

    Raises ValueError as `upload` and `pack` do, and when another process of this user is packing to the address. A pack
    that finds the address taken only when it is finished stays on this disk, and the error says where.
    """
    store = ObjectStore(parse_s3(uri))
    there = _manifest_in(store)
    if there is not None:
        if record is None or _text_in(store, INPUTS_NAME) != record:
            raise _taken(uri)
        return there
    with _staging("pack", uri) as folder:
        pack_at(folder)
        try:
            manifest = upload(folder, uri)
        except TakenError as error:
            raise TakenError(f"{error}; what was packed stays in {folder}") from None
        shutil.rmtree(folder)
    return manifest


def extend_in_store(extend_at: Callable[[str, Path, Files], str], uri: str) -> str:
    """Extend the dataset at an `s3://` address; the address of the extended one comes back.

    `extend_at(base, folder, files)` reads the base through `files`, writes what is new into a folder on this disk, as
    for `pack_to_store`, and returns where it belongs. The new files go up from there, the manifest last. Two extensions
    of one dataset at a time would write over each other's files.

    Raises ValueError when there is no dataset, as `extend` does, and when the store cannot be written.
    """
    store, base_name = locate(uri)
    known = {file.path for file in open_dataset(uri).manifest.files}
    with _staging("extend", uri) as folder:
        name = split_address(extend_at(f"{store.address}/{base_name}", folder, reaching(store.address)))[1]
        if (folder / name).is_file():
            if _manifest_in(store, name) is not None:
                shutil.rmtree(folder)
                raise TakenError(
                    f"{uri}: another extension has become its {name} meanwhile, run the same command again"
                )
            new = (file.path for file in read_manifest(folder / name).files if file.path not in known)
            _put(store, folder, [*new, inputs_name(name)], name)
            shutil.rmtree(folder)
    parts = urlsplit(uri)
    return parts._replace(path=f"{split_address(parts.path)[0].rstrip('/')}/{name}").geturl()


@contextmanager
def _staging(verb: str, uri: str) -> Iterator[Path]:
    """Where to write what goes to an address: a path in a folder of TMPDIR that only this user can enter.

    The folder goes when nothing is left in it. Raises ValueError at once when another process is at it, and when
    somebody else made a folder of this name.
    """
    digest = hashlib.sha256(uri.encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"dynfusion-{verb}-{os.getuid()}-{digest}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ValueError(f"{folder}: another user can write here, set TMPDIR to a folder of your own")
    try:
        with alone(folder / "lock", f"{uri}: another process is {_DOING[verb]} it, in {folder}"):
            yield folder / "data"
    finally:
        with suppress(OSError):
            folder.rmdir()


def _taken(uri: str) -> TakenError:
    return TakenError(f"{uri}: already holds another data set, choose another place or remove it first")


def _text_in(store: ObjectStore, name: str) -> str | None:
    try:
        return store.read(name).decode()
    except FileNotFoundError:
        return None


def _put(store: ObjectStore, folder: Path, paths: Iterable[str], manifest_name: str) -> None:
    """Upload these files of a folder, then its manifest."""
    with ThreadPoolExecutor(_UPLOADS) as pool:
        list(pool.map(lambda path: store.write(path, folder / path), paths))
    store.write(manifest_name, folder / manifest_name)


def _manifest_in(store: ObjectStore, name: str = MANIFEST_NAME) -> Manifest | None:
    try:
        return parse_manifest(store.read(name), f"{store.address}/{name}")
    except FileNotFoundError:
        return None


def _problem(store: ObjectStore, manifest: Manifest, file: FileSpec) -> str | None:
    digest = hashlib.sha256()
    where = f"{store.address.join(file.path)}"
    try:
        size = store.size(file.path)
        if size != file.bytes:
            return f"{where}: found {size} bytes, the manifest says {file.bytes}"
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
