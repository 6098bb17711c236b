"""S3 and the stores that speak like it: one class in front of `pyarrow.fs`, which carries shards, and `s3fs`, which
serves small files, listings and uploads.

    ObjectStore.read_range --> retrying --> s3_clients: pyarrow.fs (or s3fs) --> exactly these bytes
"""

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

from dynfusion.edges.retry import FAILURES, TooShortError, is_answer, retrying
from dynfusion.edges.s3_address import S3Address, parse_s3
from dynfusion.edges.s3_clients import STALL_SECONDS, Reach, clients
from dynfusion.store.manifest import split_address

Library = Literal["pyarrow", "s3fs"]
Result = TypeVar("Result")
DEADLINE_SECONDS = 300.0
"""How long a request is tried again."""


@dataclass(frozen=True)
class ObjectStore:
    """A folder in a bucket, as `store.origin.Origin` wants it. Safe in threads; pickles as its fields."""

    address: S3Address
    carrier: Library = "pyarrow"
    deadline_seconds: float = DEADLINE_SECONDS
    stall_seconds: float = STALL_SECONDS

    def read(self, path: str) -> bytes:
        """The whole of a small file. Raises FileNotFoundError, or ValueError when it cannot be had."""
        where = self.address.join(path)
        return self._retrying(lambda: clients.small_files(self._reach).cat_file(where.path), where)

    def read_range(self, path: str, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of a file, exactly.

        Raises FileNotFoundError, or ValueError when they cannot be had: at once when the file ends before `stop`.
        """
        where = self.address.join(path)
        read = self._read_by_pyarrow if self.carrier == "pyarrow" else self._read_by_s3fs

        def fetch() -> bytes:
            content = read(where, start, stop)
            if len(content) != stop - start:
                raise TooShortError(f"found {len(content)} bytes where {stop - start} were asked for")
            return content

        return self._retrying(fetch, where)

    def size(self, path: str) -> int:
        """Bytes of a file. Raises FileNotFoundError, or ValueError when they cannot be known."""
        where = self.address.join(path)
        return self._retrying(lambda: int(clients.small_files(self._reach).info(where.path)["size"]), where)

    def write(self, path: str, source: Path) -> None:
        """Upload a file. Raises ValueError when it cannot be done."""
        where = self.address.join(path)
        self._retrying(lambda: clients.small_files(self._reach).put_file(str(source), where.path), where)

    def write_bytes(self, path: str, content: bytes) -> None:
        """Put a small file there. Raises ValueError when it cannot be done."""
        where = self.address.join(path)
        self._retrying(lambda: clients.small_files(self._reach).pipe_file(where.path, content), where)

    def find(self, path: str) -> list[str]:
        """Paths of all files below a folder, relative to it, sorted; none when there is no such folder."""
        return sorted(self.sizes(path))

    def sizes(self, path: str) -> dict[str, int]:
        """Bytes of all files below a folder, by path relative to it; one listing. Whoever makes files of them here asks
        `require_path` first.
        """
        where = self.address.join(path) if path else self.address
        found = self._retrying(lambda: clients.small_files(self._reach).find(where.path, detail=True), where)
        files = {file: info for file, info in found.items() if not file.endswith("/")}  # such a key marks a folder
        return {file.removeprefix(f"{where.path}/"): int(info["size"]) for file, info in files.items()}

    def names(self) -> list[str]:
        """Names in the folder itself, not of what lies in its folders. Raises as `size`."""
        found = self._retrying(lambda: clients.small_files(self._reach).ls(self.address.path), self.address)
        return sorted(file.removeprefix(f"{self.address.path}/") for file in found)

    def remove(self, path: str) -> None:
        """Delete a file; S3 makes nothing of one that is not there. Raises ValueError when it cannot be done."""
        where = self.address.join(path)
        self._retrying(lambda: clients.small_files(self._reach).rm_file(where.path), where)

    def _read_by_pyarrow(self, where: S3Address, start: int, stop: int) -> bytes:
        file = clients.opened(self._reach, where.path)
        if file.size() < stop:  # perhaps another file has taken its place since it was opened
            clients.forget(self._reach, where.path)
            file = clients.opened(self._reach, where.path)
            _check_end(where, file.size(), stop)
        return file.read_at(stop - start, start)

    def _read_by_s3fs(self, where: S3Address, start: int, stop: int) -> bytes:
        client = clients.small_files(self._reach)
        try:
            content = client.cat_file(where.path, start=start, end=stop)
        except OSError as error:
            if error.errno == errno.EINVAL:  # among others, a range that begins behind the end
                _check_end(where, client.info(where.path)["size"], stop)
            raise
        if len(content) < stop - start:
            _check_end(where, client.info(where.path)["size"], stop)
        return content

    @property
    def _reach(self) -> Reach:
        return Reach(self.address.endpoint, self.address.region, self.address.profile, self.stall_seconds)

    def _retrying(self, call: Callable[[], Result], where: S3Address) -> Result:
        made = 0
        reach = self._reach

        def attempt() -> Result:
            nonlocal made
            made = clients.generation
            try:
                found = call()
            except FAILURES as error:
                if is_answer(error):
                    clients.reached.add(reach)
                raise
            clients.reached.add(reach)
            return found

        try:
            return retrying(
                attempt,
                str(where),
                renew=partial(clients.renew, lambda: made),
                deadline_seconds=self.deadline_seconds,
                unreached=lambda: None if reach in clients.reached else _unreached(where),
            )
        except FileNotFoundError as error:
            if "bucket does not exist" in str(error):
                raise ValueError(f"{where}: there is no bucket {where.bucket}, make it or correct the name") from None
            raise


def locate(uri: str) -> tuple[ObjectStore, str]:
    """The folder in a bucket, and the name of the manifest in it, of a data set's address."""
    address = parse_s3(uri)
    folder, name = split_address(str(address))
    return ObjectStore(replace(address, key=parse_s3(folder).key)), name


def _unreached(where: S3Address) -> str:
    setting = "endpoint_override in the address" if where.endpoint else "endpoint_override or AWS_ENDPOINT_URL_S3"
    endpoint = where.endpoint or os.environ.get("AWS_ENDPOINT_URL_S3", "the endpoint")
    return f"{endpoint} does not answer, check {setting}"


def require_path(where: object, path: str) -> str:
    """The same path, once it leads to a file below a folder and nowhere else; ValueError, which names `where`, if not.

    Anybody who may write to a bucket names its keys; some of them, as a path on a disk, lie somewhere else.
    """
    if any(part in ("", ".", "..") for part in path.split("/")) or set(path) & set("\\\0\r\n"):
        raise ValueError(
            f"{where}: found the key {path!r} below it, allowed are paths without empty parts, dots alone, backslashes "
            "and control characters; remove it from the bucket"
        )
    return path


def _check_end(where: S3Address, size: int, stop: int) -> None:
    if size < stop:
        raise ValueError(f"{where}: found {size} bytes, at least {stop} are expected, the file is truncated or wrong")
