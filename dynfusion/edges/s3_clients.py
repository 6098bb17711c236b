"""Clients of S3 by two libraries, made once for each place and again when credentials have expired.

Credentials, endpoint and region are resolved by botocore alone, for both.
"""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from threading import RLock
from typing import Any
from urllib.parse import urlsplit

import botocore.session
import pyarrow as pa
import s3fs
from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

from dynfusion.edges.s3_address import S3Address

STALL_SECONDS = 15.0
_ATTEMPTS = 10
"""Of a library that tries by itself: over a minute, most of it before the last ones."""


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
        self.reached: set[Reach] = set()
        """Which have answered once."""
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

    def access(self, reach: Reach) -> "Access":
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


@dataclass(frozen=True)
class Access:
    """What botocore found out: where the store is and who we are; no keys means that anybody may read."""

    endpoint: str
    region: str
    keys: dict[str, str] | None


def _find_access(reach: Reach) -> Access:
    for name in ("botocore", "aiobotocore"):  # at DEBUG, which a program may have set for all, they log session tokens
        if logging.getLogger(name).level == logging.NOTSET:
            logging.getLogger(name).setLevel(logging.INFO)
    session = botocore.session.Session(profile=reach.profile)
    region = reach.region or os.environ.get("AWS_REGION") or None  # which every SDK knows but botocore
    client = session.create_client("s3", region_name=region, endpoint_url=reach.endpoint)
    found = session.get_credentials()
    keys = None
    if found is not None:
        frozen = found.get_frozen_credentials()
        keys = {"access_key": frozen.access_key, "secret_key": frozen.secret_key}
        if frozen.token:
            keys["session_token"] = frozen.token
    found_region = client.meta.region_name
    return Access(client.meta.endpoint_url, "us-east-1" if found_region == "aws-global" else found_region, keys)


def _make_pyarrow(access: Access, stall_seconds: float) -> S3FileSystem:
    return S3FileSystem(**(access.keys or {}), **_options(access, stall_seconds, attempts=1))


def _options(access: Access, stall_seconds: float, *, attempts: int) -> dict[str, Any]:
    """All that a file system of pyarrow's is told but keys."""
    parts = urlsplit(access.endpoint)
    return {
        "anonymous": access.keys is None,
        "region": access.region,
        "endpoint_override": parts.netloc,
        "scheme": parts.scheme,
        "connect_timeout": stall_seconds,
        "request_timeout": stall_seconds,
        "retry_strategy": AwsStandardS3RetryStrategy(max_attempts=attempts),
    }


class TravellingFiles(S3FileSystem):
    """Without keys, and pickled as the address alone: pyarrow's own pickle forgets how often to try."""

    def __init__(self, address: S3Address) -> None:
        access = clients.access(Reach(address.endpoint, address.region, None, STALL_SECONDS))
        super().__init__(**_options(access, STALL_SECONDS, attempts=_ATTEMPTS))
        self.address = address

    def __reduce__(self) -> tuple[type, tuple[S3Address]]:
        return TravellingFiles, (self.address,)


def filesystem(address: S3Address) -> tuple[str, TravellingFiles]:
    """(path, file system) for a library that reads and writes by itself and pickles it: no key is in it.

    Each machine finds its own credentials. Raises ValueError for an address with a profile, which cannot travel.
    """
    if address.profile is not None:
        raise ValueError(f"{address}: found ?profile=, other machines need it as AWS_PROFILE in their environment")
    return address.path, TravellingFiles(address)


def _make_s3fs(access: Access, stall_seconds: float, *, retries: int) -> s3fs.S3FileSystem:
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


clients = Clients()
"""Those of this process."""
