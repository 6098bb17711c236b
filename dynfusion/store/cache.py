"""The folder that keeps far datasets on a node, shared by its processes and never larger than it was told to be.

    <cache>/room.lock                          held while room is given out
    <cache>/<fingerprint>/in-use.lock          held, shared, by every process that reads this dataset's whole shards
    <cache>/<fingerprint>/<shard>              a whole shard, under this name only once its checksums were right
    <cache>/<fingerprint>/<shard>.verified     what the file looked like then; when it differs, it is verified again
    <cache>/<fingerprint>/<file>.lock          held while somebody brings the shard or the small file
    <cache>/blocks-<pid>-<number>              a process's blocks of a dataset that does not fit; locked while it lives

A dataset in use is never removed; the one that has not been used for longest goes first.
"""

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np

from dynfusion.store.file_lock import locked, take_lock
from dynfusion.store.manifest import Manifest, ShardSpec
from dynfusion.store.origin import wrong_block

_SLACK_BYTES = 64 << 20
_POLL_SECONDS = 0.2
_numbers = count()


@dataclass(frozen=True)
class Room:
    """A right to a part of the cache, kept until `release`: a dataset's folder, or a file of blocks of one's own."""

    path: Path
    descriptor: int

    def release(self) -> None:
        """Give the room back; blocks go, whole shards stay for whoever comes next."""
        if self.path.is_file():
            self.path.unlink()
        os.close(self.descriptor)


def whole_room(cache: Path, manifest: Manifest, limit_bytes: int) -> Room | None:
    """The dataset's folder, locked against removal, when all its shards fit; None when they do not.

    Datasets that nobody reads make room.
    """
    folder = cache / manifest.fingerprint
    cache.mkdir(parents=True, exist_ok=True)
    needed = sum(file.bytes for file in manifest.files)
    with locked(cache / "room.lock"):
        folder.mkdir(exist_ok=True)
        descriptor = take_lock(folder / "in-use.lock", shared=True)
        assert descriptor is not None
        (folder / "whole-bytes").write_text(str(needed))
        os.utime(folder)
        if _make_room(cache, needed, limit_bytes, own=folder, have=_bytes_below(folder)):
            return Room(folder, descriptor)
        os.close(descriptor)
    return None


def block_room(
    cache: Path,
    *,
    wanted_bytes: int,
    least_bytes: int,
    limit_bytes: int,
    wait_seconds: float,
    say: Callable[[str], None],
) -> Room:
    """A file of as many bytes as can be had, at most `wanted_bytes`; it vanishes with its process.

    Waits, saying so, while others hold the room. Raises ValueError when `least_bytes` cannot be had in time.
    """
    cache.mkdir(parents=True, exist_ok=True)
    deadline, said = time.monotonic() + wait_seconds, False
    while True:
        with locked(cache / "room.lock"):
            free = min(limit_bytes - _taken(cache, None), shutil.disk_usage(cache).free - _SLACK_BYTES)
            if free < wanted_bytes and _make_room(cache, wanted_bytes, limit_bytes, own=None, have=0):
                free = wanted_bytes
            if free >= least_bytes:
                path = cache / f"blocks-{os.getpid()}-{next(_numbers)}"
                descriptor = take_lock(path)
                assert descriptor is not None
                os.truncate(descriptor, min(wanted_bytes, free))
                return Room(path, descriptor)
        sentence = (
            f"data.cache_bytes: found {limit_bytes}, other processes and data sets in use leave {max(free, 0)} of "
            f"them in {cache} and the blocks of the coming steps take {least_bytes}"
        )
        if limit_bytes < least_bytes or time.monotonic() > deadline:
            raise ValueError(f"{sentence}; give more bytes or another data.cache_dir")
        if not said:
            say(f"waiting for room: {sentence}")
            said = True
        time.sleep(_POLL_SECONDS)


def is_verified(folder: Path, shard: ShardSpec) -> bool:
    """Whether the folder holds this shard, unchanged since it was verified."""
    stamp = folder / f"{shard.path}.verified"
    try:
        return stamp.read_text() == _looks(folder / shard.path)
    except FileNotFoundError:
        return False


def is_whole(folder: Path, manifest: Manifest, shard: ShardSpec, table: np.ndarray) -> bool:
    """The same after verifying a file that changed since; a wrong one is removed. Needs the shard's lock.

    `table` is the shard's part of the block table.
    """
    path = folder / shard.path
    if is_verified(folder, shard):
        return True
    if not path.is_file():
        return False
    content = np.memmap(path, np.uint8, mode="r") if path.stat().st_size == shard.bytes else None
    if content is None or wrong_block(content, table, manifest.geometry) is not None:
        path.unlink(missing_ok=True)
        return False
    mark_verified(folder, shard)
    return True


def mark_verified(folder: Path, shard: ShardSpec) -> None:
    """Note what the shard's file looks like now that its checksums are right."""
    (folder / f"{shard.path}.verified").write_text(_looks(folder / shard.path))


def _looks(path: Path) -> str:
    """Size, time of change and the machine's run: after a restart the disk may lack what was written just before."""
    found = path.stat()
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{found.st_size} {found.st_mtime_ns} {boot.read_text().strip() if boot.is_file() else ''}"


def _make_room(cache: Path, needed: int, limit_bytes: int, *, own: Path | None, have: int) -> bool:
    """Remove unused datasets, oldest first, until `needed` fits beside the rest; False when it cannot."""
    unused = [folder for folder in _datasets(cache) if folder != own and not _in_use(folder)]
    unused.sort(key=lambda folder: folder.stat().st_mtime)
    removable = sum(_bytes_below(folder) for folder in unused)
    if _taken(cache, own) - removable + needed > limit_bytes:
        return False
    for folder in unused:
        if _fits(cache, needed, limit_bytes, own, have):
            break
        shutil.rmtree(folder, ignore_errors=True)
    return _fits(cache, needed, limit_bytes, own, have)


def _fits(cache: Path, needed: int, limit_bytes: int, own: Path | None, have: int) -> bool:
    free = shutil.disk_usage(cache).free
    return _taken(cache, own) + needed <= limit_bytes and needed - have <= free - _SLACK_BYTES


def _taken(cache: Path, own: Path | None) -> int:
    """Bytes that are spoken for besides `own`'s: a dataset in use counts whole, before all of it has come."""
    taken = 0
    for folder in _datasets(cache):
        if folder != own:
            whole = folder / "whole-bytes"
            promised = int(whole.read_text()) if whole.is_file() and _in_use(folder) else 0
            taken += max(promised, _bytes_below(folder))
    for path in cache.glob("blocks-*"):
        descriptor = take_lock(path, wait=False)
        if descriptor is None:
            taken += path.stat().st_size
        else:
            path.unlink()
            os.close(descriptor)
    return taken


def _datasets(cache: Path) -> list[Path]:
    return [lock.parent for lock in cache.glob("*/in-use.lock")]


def _in_use(folder: Path) -> bool:
    descriptor = take_lock(folder / "in-use.lock", wait=False)
    if descriptor is None:
        return True
    os.close(descriptor)
    return False


def _bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
