"""A probe file's way through a storage: written, listed, read, deleted. Nothing else there is touched."""

import os
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.error import HTTPError

from dynfusion.edges.object_store import ObjectStore
from dynfusion.edges.probe_process import serve
from dynfusion.edges.retry import one_line
from dynfusion.edges.s3_address import S3Address, is_s3, parse_s3
from dynfusion.edges.s3_clients import Reach, clients
from dynfusion.preflight.store_checks import is_nobody
from dynfusion.store.manifest import local_folder

_TRY_SECONDS, _STALL_SECONDS = 8.0, 3.0
_PREFIX = ".dynfusion-doctor-"


class Folder:
    """A folder of this machine. One that does not exist yet is judged by the nearest above it that does.

    Functions raise OSError, those of `Bucket` ValueError too; `names` has the file's alone, or nothing.
    """

    def __init__(self, uri: str) -> None:
        self.path = local_folder(uri).absolute()
        while not self.path.exists():
            self.path = self.path.parent

    def write(self, name: str, content: bytes) -> None:
        with (self.path / name).open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def names(self, name: str) -> list[str]:
        return [found for found in os.listdir(self.path) if found == name]

    def delete(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)


class Bucket:
    """A folder in a bucket, by the class that keeps runs and data there, with less patience."""

    def __init__(self, uri: str) -> None:
        address = parse_s3(uri)
        self.store = ObjectStore(address, deadline_seconds=_TRY_SECONDS, stall_seconds=_STALL_SECONDS)

    def write(self, name: str, content: bytes) -> None:
        self.store.write_bytes(f"{name}/probe", content)

    def read(self, name: str) -> bytes:
        return self.store.read(f"{name}/probe")

    def names(self, name: str) -> list[str]:
        return [name] if self.store.find(name) == ["probe"] else []

    def delete(self, name: str) -> None:
        self.store.remove(f"{name}/probe")


def place(uri: str) -> Folder | Bucket:
    """What is at this address. Raises ValueError for an address that is none."""
    return Bucket(uri) if is_s3(uri) else Folder(uri)


def probe(uri: str) -> Iterator[dict[str, Any]]:
    """The facts of `preflight.observations.Storage`, but for its address."""
    started, problems = time.monotonic(), dict[str, str | None]()
    name, content = probe_name(), os.urandom(64)
    try:
        there = place(uri)
    except ValueError as error:
        yield {"problems": {"write": str(error)}}
        return
    steps: dict[str, Callable[[], object]] = {
        "write": lambda: there.write(name, content),
        "list": lambda: _same(uri, there.names(name), [name] if problems["write"] is None else []),
        "read": lambda: _same(uri, there.read(name), content),
        "delete": lambda: there.delete(name),
    }
    for step in _planned(steps, problems):
        yield {"doing": f"while it was to {step} the probe file {name}"}
        problems[step] = problem_of(steps[step])
        yield {"problems": problems, "seconds": time.monotonic() - started}
    if "still failing" in (problems["write"] or ""):  # it may have been written all the same
        problem_of(steps["delete"])
    if is_s3(uri) and problems["write"] is None:
        yield {"doing": "while the store was asked for the time"}
        yield {"clock_offset_seconds": _clock_offset(parse_s3(uri))}


def probe_name() -> str:
    """A name that nothing else has."""
    return f"{_PREFIX}{uuid.uuid4().hex[:12]}"


def problem_of(step: Callable[[], object]) -> str | None:
    """Why it fails, None when it does not."""
    try:
        step()
    except (OSError, ValueError) as error:
        return one_line(error)
    return None


def must_see(uri: str, name: str) -> None:
    """Raises ValueError, or OSError, when the probe file of another machine is not there."""
    _same(uri, place(uri).names(name), [name])


def _planned(steps: Iterable[str], problems: Mapping[str, str | None]) -> Iterator[str]:
    """The steps that can tell something: to who may not write, what else is not allowed."""
    for step in steps:
        failed = problems.get("write")
        if failed is None or ("denied" in failed and step != "read" and not is_nobody(failed)):
            yield step


def _same(uri: str, found: object, expected: object) -> None:
    if found != expected:
        raise ValueError(f"{uri}: found something else than what was written")


def _clock_offset(address: S3Address) -> float | None:
    """The store's clock less this machine's in seconds, to within one; None when it does not tell the time."""
    endpoint = clients.access(Reach(address.endpoint, address.region, address.profile, _STALL_SECONDS)).endpoint
    before = time.time()
    try:
        with urllib.request.urlopen(endpoint, timeout=_STALL_SECONDS) as answer:
            told = answer.headers["Date"]
    except HTTPError as error:  # it wants a signature, and tells the time all the same
        told = error.headers["Date"]
        error.close()
    except OSError:
        return None
    return None if told is None else parsedate_to_datetime(told).timestamp() + 0.5 - (before + time.time()) / 2


if __name__ == "__main__":
    serve(probe)
