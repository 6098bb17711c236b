"""Files and a run's storage in memory, behind the interfaces that the product reads them by."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from dynfusion.store.files import Files as SourceFiles


class _Content(io.BytesIO):
    """Bytes with what any open file has."""

    name, mode = "memory", "rb"


def memory_files(contents: dict[str, bytes]) -> SourceFiles:
    """`store.files.Files` over contents by address."""

    def open_(uri: str) -> Any:
        if uri not in contents:
            raise FileNotFoundError(uri)
        return io.BufferedReader(_Content(contents[uri]))

    def find(uri: str) -> list[str]:
        return sorted(name for name in contents if name == uri or name.startswith(f"{uri}/") or fnmatch(name, uri))

    return SourceFiles(open_, find, lambda uri: "", lambda uri: None)


class MemoryStorage:
    """`training.storage.Storage` over contents by path; what is written is kept, folders need not be made."""

    def __init__(self, contents: dict[str, bytes]) -> None:
        self.contents = dict(contents)

    @property
    def address(self) -> str:
        return "memory"

    def names(self) -> list[str]:
        return sorted({path.split("/")[0] for path in self.contents})

    def read(self, path: str) -> bytes:
        if path not in self.contents:
            raise FileNotFoundError(path)
        return self.contents[path]

    def write(self, path: str, content: bytes) -> None:
        self.contents[path] = content

    def discard(self, path: str) -> None:
        self.contents.pop(path, None)

    def sizes(self, path: str) -> dict[str, int]:
        below = f"{path}/" if path else ""
        return {name.removeprefix(below): len(c) for name, c in self.contents.items() if name.startswith(below)}

    def put(self, folder: Path, path: str, *, last: str) -> None:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                self.contents[f"{path}/{file.relative_to(folder).as_posix()}"] = file.read_bytes()

    def remove(self, path: str) -> None:
        for name in self.sizes(path):
            del self.contents[f"{path}/{name}"]

    @contextmanager
    def local(self, path: str) -> Iterator[Path]:
        raise NotImplementedError("nothing here is on a disk")
        yield Path()
