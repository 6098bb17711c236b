"""Where sources lie: four functions, so that an object store can take the place of the local disk.

Only this file opens what is packed; `edges/s3_files.py` offers the same four functions for other addresses.
"""

import glob
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_HASHED_BYTES = 64 << 20


@dataclass(frozen=True)
class Files:
    """`open(uri)` gives a seekable binary file; `find(uri)` the sorted addresses of all files that a file's address, a
    folder (with its subfolders) or a pattern with * names, none when there are none; `version(uri)` a text that changes
    when the file's content does; `path(uri)` where the file lies on this machine's disk, None when it does not.

    Functions of a module, so that it pickles to other machines.
    """

    open: Callable[[str], BinaryIO]
    find: Callable[[str], list[str]]
    version: Callable[[str], str]
    path: Callable[[str], Path | None]


Looks = tuple[int, int]
"""Size and time of change in nanoseconds of a file on disk: when they differ, it may be another."""


def looks_of(status: os.stat_result) -> Looks:
    """How a file looks."""
    return status.st_size, status.st_mtime_ns


def check_unchanged(uri: str, seen: Looks, now: Looks) -> None:
    """Raises ValueError when a file looks otherwise than it did."""
    if seen != now:
        raise ValueError(
            f"{uri}: it changed while it was being packed, from {seen[0]} to {now[0]} bytes or by its time of change; "
            "pack again when whatever writes it is done"
        )


def folder_of(uri: str) -> str:
    """The address of the folder that a file lies in."""
    return uri.rpartition("/")[0]


def name_of(uri: str) -> str:
    """The last part of an address."""
    return uri.rpartition("/")[2]


def _local(uri: str) -> str:
    scheme, found, rest = uri.partition("://")
    if found and scheme != "file":
        raise ValueError(f"{uri}: found {scheme}://, known are local paths, file:// and s3:// addresses")
    return rest if found else uri


def _open(uri: str) -> BinaryIO:
    return open(_local(uri), "rb")


def _find(uri: str) -> list[str]:
    path = _local(uri)
    places = [path] if os.path.exists(path) else glob.glob(path)
    found: list[str] = []
    for place in places:
        if os.path.isfile(place):
            found.append(place)
            continue
        inside = [file for file in Path(place).rglob("*") if file.is_file()]
        found += [str(file) for file in inside if not any(part[0] == "." for part in file.relative_to(place).parts)]
    return sorted(found)


def _path(uri: str) -> Path:
    return Path(_local(uri))


def _version(uri: str) -> str:
    """The content's hash, so that a file written again alike is the same; a large file's size and time of change, so
    that it is not read for this."""
    path = _local(uri)
    status = os.stat(path)
    if status.st_size > _HASHED_BYTES:
        return f"{status.st_size} bytes, changed at {status.st_mtime_ns} ns"
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


LOCAL = Files(_open, _find, _version, _path)
