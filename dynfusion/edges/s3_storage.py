"""A run's folder in a bucket. Small files by one request each, checkpoints by parallel ones, all of them retried."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from dynfusion.edges.object_store import DEADLINE_SECONDS, ObjectStore, require_path
from dynfusion.edges.s3_address import is_s3, parse_s3
from dynfusion.edges.s3_clients import STALL_SECONDS
from dynfusion.fusion.api import FusionModel
from dynfusion.store.manifest import local_folder
from dynfusion.training.scratch import scratch_folder
from dynfusion.training.storage import LocalStorage, Storage, in_order

_TRANSFERS = 8


class S3Storage:
    """`training.storage.Storage` at an `s3://` address. Safe to pickle: it holds the address, never a key."""

    def __init__(self, uri: str, *, deadline_seconds: float = DEADLINE_SECONDS) -> None:
        stall_seconds = min(STALL_SECONDS, deadline_seconds / 3)  # so that the last attempt ends soon after
        self.store = ObjectStore(parse_s3(uri), deadline_seconds=deadline_seconds, stall_seconds=stall_seconds)

    @property
    def address(self) -> str:
        return str(self.store.address)

    def names(self) -> list[str]:
        return sorted({path.split("/")[0] for path in self.store.find("")})

    def read(self, path: str) -> bytes:
        return self.store.read(path)

    def write(self, path: str, content: bytes) -> None:
        self.store.write_bytes(path, content)

    def discard(self, path: str) -> None:
        self.store.remove(path)

    def sizes(self, path: str) -> dict[str, int]:
        return self.store.sizes(path)

    def put(self, folder: Path, path: str, *, last: str) -> None:
        files = in_order(folder, last)
        first = [file for file in files if not file.match(last)]
        with ThreadPoolExecutor(_TRANSFERS) as pool:
            for part in (first, files[len(first) :]):
                list(pool.map(lambda file: self.store.write(_joined(path, str(file.relative_to(folder))), file), part))

    def remove(self, path: str) -> None:
        for name in self.store.find(path):
            self.store.remove(_joined(path, name))

    @contextmanager
    def local(self, path: str) -> Iterator[Path]:
        names = [require_path(self.store.address, name) for name in self.store.find(path)]
        with scratch_folder("fetched") as folder:
            with ThreadPoolExecutor(_TRANSFERS) as pool:
                list(pool.map(lambda name: self._fetch(_joined(path, name), folder / name), names))
            yield folder

    def _fetch(self, path: str, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(self.store.read(path))


def _joined(path: str, name: str) -> str:
    """A file's path below the storage's own folder: in a bucket `//` is another place than `/`."""
    return f"{path}/{name}" if path else name


def open_storage(uri: str, *, deadline_seconds: float = DEADLINE_SECONDS) -> Storage:
    """The folder at a path, a `file://` or an `s3://` address, which is tried again for so long at each request.

    Raises ValueError for another scheme.
    """
    return S3Storage(uri, deadline_seconds=deadline_seconds) if is_s3(uri) else LocalStorage(local_folder(uri))


def below(uri: str, name: str) -> str:
    """The address of a folder below another's; what follows a `?` stays behind it."""
    folder, question, query = uri.partition("?")
    return f"{folder.rstrip('/')}/{name}{question}{query}"


def load_model(uri: str) -> FusionModel:
    """The model in a folder, wherever it lies. Raises ValueError when there is none."""
    with open_storage(uri).local("") as folder:
        return FusionModel.load(folder)
