"""S3 and the stores that speak like it: one class in front of `pyarrow.fs`, which carries shards, and `s3fs`, which
serves small files, listings and uploads.

    ObjectStore.read_range --> retrying --> pyarrow.fs (or s3fs) --> exactly these bytes
    credentials, endpoint, region: resolved once by botocore for both, and again when they have expired
"""

import errno
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from io import BufferedReader
from pathlib import Path
from threading import RLock
from typing import Any, BinaryIO, Literal, TypeVar
from urllib.parse import urlsplit

import botocore.session
import pyarrow as pa
import s3fs
from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

from dynfusion.edges.retry import TooShortError, retrying
from dynfusion.edges.s3_address import S3Address, is_s3, parse_s3
from dynfusion.store.files import LOCAL, Files

Library = Literal["pyarrow", "s3fs"]
Result = TypeVar("Result")

_SOURCE_BYTES = 8 << 20


@dataclass(frozen=True)
class ObjectStore:
    """A folder in a bucket, as `store.origin.Origin` wants it. Safe in threads; pickles as its fields."""

    address: S3Address
    carrier: Library = "pyarrow"
    deadline_seconds: float = 300.0
    stall_seconds: float = 15.0

    def read(self, path: str) -> bytes:
        """The whole of a small file. Raises FileNotFoundError, or ValueError when it cannot be had."""
        where = self.address.join(path)
        return self._retrying(lambda: _clients.small_files(self._reach).cat_file(where.path), where)

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
        return self._retrying(lambda: int(_clients.small_files(self._reach).info(where.path)["size"]), where)

    def write(self, path: str, source: Path) -> None:
        """Upload a file. Raises ValueError when it cannot be done."""
        where = self.address.join(path)
        self._retrying(lambda: _clients.small_files(self._reach).put_file(str(source), where.path), where)

    def _read_by_pyarrow(self, where: S3Address, start: int, stop: int) -> bytes:
        file = _clients.opened(self._reach, where.path)
        if file.size() < stop:  # perhaps another file has taken its place since it was opened
            _clients.forget(self._reach, where.path)
            file = _clients.opened(self._reach, where.path)
            _check_end(where, file.size(), stop)
        return file.read_at(stop - start, start)

    def _read_by_s3fs(self, where: S3Address, start: int, stop: int) -> bytes:
        client = _clients.small_files(self._reach)
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
    def _reach(self) -> "Reach":
        return Reach(self.address.endpoint, self.address.region, self.address.profile, self.stall_seconds)

    def _retrying(self, call: Callable[[], Result], where: S3Address) -> Result:
        made = 0

        def attempt() -> Result:
            nonlocal made
            made = _clients.generation
            return call()

        renew = partial(_clients.renew, lambda: made)
        return retrying(attempt, str(where), renew=renew, deadline_seconds=self.deadline_seconds)


@dataclass(frozen=True)
class Reach:
    """What distinguishes one client from another."""

    endpoint: str | None
    region: str | None
    profile: str | None
    stall_seconds: float


class Clients:
    """One client of each library for each reach, made when first needed and again after `renew`."""

    def __init__(self) -> None:
        self.generation = 0
        self._made: dict[tuple[Any, ...], Any] = {}
        self._lock = RLock()

    def renew(self, used: Callable[[], int]) -> None:
        """Forget all clients and who we are, unless that was done since generation `used()` failed."""
        with self._lock:
            if used() == self.generation:
                self.generation += 1
                self._made.clear()

    def opened(self, reach: Reach, path: str) -> pa.NativeFile:
        """A file whose size was asked for once; reading it at a place is safe in threads."""
        return self._once(("opened", reach, path), lambda: self.carrier(reach).open_input_file(path))

    def forget(self, reach: Reach, path: str) -> None:
        """Ask for the size again when the file is next opened."""
        with self._lock:
            self._made.pop(("opened", reach, path), None)

    def carrier(self, reach: Reach) -> S3FileSystem:
        return self._once(("pyarrow", reach), lambda: _make_pyarrow(self.access(reach), reach.stall_seconds))

    def small_files(self, reach: Reach) -> s3fs.S3FileSystem:
        """Without retries of its own."""
        return self._once(("s3fs", reach), lambda: _make_s3fs(self.access(reach), reach.stall_seconds, retries=1))

    def sources(self, reach: Reach) -> s3fs.S3FileSystem:
        """With its own retries, for files that others read through it."""
        return self._once(("sources", reach), lambda: _make_s3fs(self.access(reach), reach.stall_seconds, retries=8))

    def access(self, reach: Reach) -> "_Access":
        return self._once(("access", reach), lambda: _find_access(reach))

    def _once(self, key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        """Only `opened` is asked often, and finds what it wants without the lock."""
        found = self._made.get(key)
        if found is None:
            with self._lock:
                found = self._made.get(key)
                if found is None:
                    found = self._made[key] = make()
        return found


_clients = Clients()


@dataclass(frozen=True)
class _Access:
    """What botocore found out: where the store is and who we are; no keys means that anybody may read."""

    endpoint: str
    region: str
    keys: dict[str, str] | None


def _find_access(reach: Reach) -> _Access:
    session = botocore.session.Session(profile=reach.profile)
    client = session.create_client("s3", region_name=reach.region, endpoint_url=reach.endpoint)
    found = session.get_credentials()
    keys = None
    if found is not None:
        frozen = found.get_frozen_credentials()
        keys = {"access_key": frozen.access_key, "secret_key": frozen.secret_key}
        if frozen.token:
            keys["session_token"] = frozen.token
    region = client.meta.region_name
    return _Access(client.meta.endpoint_url, "us-east-1" if region == "aws-global" else region, keys)


def _make_pyarrow(access: _Access, stall_seconds: float) -> S3FileSystem:
    parts = urlsplit(access.endpoint)
    return S3FileSystem(
        **(access.keys or {}),
        anonymous=access.keys is None,
        region=access.region,
        endpoint_override=parts.netloc,
        scheme=parts.scheme,
        connect_timeout=stall_seconds,
        request_timeout=stall_seconds,
        retry_strategy=AwsStandardS3RetryStrategy(max_attempts=1),
    )


def _make_s3fs(access: _Access, stall_seconds: float, *, retries: int) -> s3fs.S3FileSystem:
    keys = access.keys or {}
    client = s3fs.S3FileSystem(
        anon=access.keys is None,
        key=keys.get("access_key"),
        secret=keys.get("secret_key"),
        token=keys.get("session_token"),
        endpoint_url=access.endpoint,
        client_kwargs={"region_name": access.region},
        config_kwargs={
            "connect_timeout": stall_seconds,
            "read_timeout": stall_seconds,
            "retries": {"total_max_attempts": 1},
            "max_pool_connections": 32,
            "response_checksum_validation": "when_required",
            "request_checksum_calculation": "when_required",
        },
        use_listings_cache=False,
        skip_instance_cache=True,
    )
    client.retries = retries
    return client


def _check_end(where: S3Address, size: int, stop: int) -> None:
    if size < stop:
        raise ValueError(f"{where}: found {size} bytes, at least {stop} are expected, the file is truncated or wrong")


def _place(folder: S3Address | None, uri: str) -> tuple[Any, S3Address]:
    address = parse_s3(uri)
    if folder is not None and f"{address.path}/".startswith(f"{folder.path}/"):
        return _clients.sources(
            Reach(folder.endpoint, folder.region, folder.profile, ObjectStore.stall_seconds)
        ), address
    if address != S3Address(address.bucket, address.key):
        raise ValueError(
            f"{address}: sources take endpoint, region and profile from AWS_ENDPOINT_URL_S3, AWS_REGION and AWS_PROFILE"
        )
    return _clients.sources(Reach(None, None, None, ObjectStore.stall_seconds)), address


def _open(folder: S3Address | None, uri: str) -> BinaryIO:
    if not is_s3(uri):
        return LOCAL.open(uri)
    client, address = _place(folder, uri)
    return BufferedReader(client.open(address.path, "rb", block_size=_SOURCE_BYTES), 1 << 16)


def _find(folder: S3Address | None, uri: str) -> list[str]:
    if not is_s3(uri):
        return LOCAL.find(uri)
    client, address = _place(folder, uri)
    found = client.glob(address.path) if "*" in address.path else client.find(address.path)
    return sorted(f"s3://{path}" for path in found if not client.isdir(path))


def _version(folder: S3Address | None, uri: str) -> str:
    if not is_s3(uri):
        return LOCAL.version(uri)
    client, address = _place(folder, uri)
    found = client.info(address.path)
    return f"{found['size']} bytes, ETag {found.get('ETag', '')}"


def _path(uri: str) -> Path | None:
    return None if is_s3(uri) else LOCAL.path(uri)


def reaching(folder: S3Address | None) -> Files:
    """The functions by which `pack` reads files, for local and `s3://` addresses; those below `folder` are reached by
    the endpoint, region and profile of its address."""
    return Files(partial(_open, folder), partial(_find, folder), partial(_version, folder), _path)


ANYWHERE = reaching(None)
"""The functions by which `pack` reads sources, for local and `s3://` addresses."""
