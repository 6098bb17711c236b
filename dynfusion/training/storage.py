"""Where a run is kept: a folder that all its machines see. `edges/s3_storage.py` offers the same for a bucket."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol, runtime_checkable


@runtime_checkable
class Storage(Protocol):
    """A folder. Paths are relative to it, with `/`; a folder below it is named by its path alone."""

    @property
    def address(self) -> str:
        """What a person calls it."""

    def names(self) -> list[str]:
        """Names of the files and folders that lie directly in it, sorted; none when it does not exist."""

    def read(self, path: str) -> bytes:
        """A small file. Raises FileNotFoundError."""

    def write(self, path: str, content: bytes) -> None:
        """Put a small file there, whole or not at all."""

    def discard(self, path: str) -> None:
        """Delete a small file; nothing happens when there is none."""

    def sizes(self, path: str) -> dict[str, int]:
        """Bytes of every file below a folder below it, by path relative to that folder."""

    def put(self, folder: Path, path: str, *, last: str) -> None:
        """Copy a local folder there; files whose name matches the pattern `last` go when all others have arrived."""

    def remove(self, path: str) -> None:
        """Delete a folder below it; nothing happens when there is none."""

    def local(self, path: str) -> AbstractContextManager[Path]:
        """A folder below it on this machine's disk, to read inside the `with`; empty when there is none."""


class LocalStorage:
    """A folder of this machine, or one that every machine has mounted."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @property
    def address(self) -> str:
        return str(self.folder)

    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir()) if self.folder.is_dir() else []

    def read(self, path: str) -> bytes:
        return (self.folder / path).read_bytes()

    def write(self, path: str, content: bytes) -> None:
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        part = _part(target)
        part.write_bytes(content)
        os.replace(part, target)

    def discard(self, path: str) -> None:
        (self.folder / path).unlink(missing_ok=True)

    def sizes(self, path: str) -> dict[str, int]:
        files = (file for file in (self.folder / path).rglob("*") if file.is_file())
        return {file.relative_to(self.folder / path).as_posix(): file.stat().st_size for file in files}

    def put(self, folder: Path, path: str, *, last: str) -> None:
        for source in in_order(folder, last):
            target = self.folder / path / source.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            part = _part(target)
            shutil.copyfile(source, part)
            os.replace(part, target)

    def remove(self, path: str) -> None:
        shutil.rmtree(self.folder / path, ignore_errors=True)

    @contextmanager
    def local(self, path: str) -> Iterator[Path]:
        yield self.folder / path


def _part(target: Path) -> Path:
    """Where a file is written before it is moved into place; process numbers repeat across machines."""
    return target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")


def in_order(folder: Path, last: str) -> list[Path]:
    """All files below a folder, sorted, those whose name matches `last` behind the others."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return sorted(files, key=lambda path: path.match(last))


def exists(storage: Storage, path: str) -> bool:
    """Whether a small file is there."""
    try:
        storage.read(path)
    except FileNotFoundError:
        return False
    return True
