"""Files that are packed, on local disks and in buckets: the functions of `store.files.Files`."""

from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

from dynfusion.edges.retry import FAILURES, one_line
from dynfusion.edges.s3_address import S3Address, is_s3, parse_s3
from dynfusion.edges.s3_clients import STALL_SECONDS, Reach, clients
from dynfusion.store.files import LOCAL, Files

_SOURCE_BYTES = 8 << 20


_asked: set[tuple[Reach, str]] = set()
"""The buckets that are there, or of which nobody could say."""


def _place(folder: S3Address | None, uri: str) -> tuple[Any, Reach, S3Address]:
    address = parse_s3(uri)
    if folder is not None and f"{address.path}/".startswith(f"{folder.path}/"):
        reach = Reach(folder.endpoint, folder.region, folder.profile, STALL_SECONDS)
        return clients.sources(reach), reach, address
    if address != S3Address(address.bucket, address.key):
        raise ValueError(
            f"{address}: sources take endpoint, region and profile from AWS_ENDPOINT_URL_S3, AWS_REGION and AWS_PROFILE"
        )
    reach = Reach(None, None, None, STALL_SECONDS)
    return clients.sources(reach), reach, address


def _open(folder: S3Address | None, uri: str) -> BinaryIO:
    if not is_s3(uri):
        return LOCAL.open(uri)
    client, _, address = _place(folder, uri)
    file = client.open(address.path, "rb", block_size=_SOURCE_BYTES)
    file.name = str(address)  # as any open file has one
    return BufferedReader(file, 1 << 16)


def _find(folder: S3Address | None, uri: str) -> list[str]:
    if not is_s3(uri):
        return LOCAL.find(uri)
    client, reach, address = _place(folder, uri)
    try:
        found = client.glob(address.path) if "*" in address.path else client.find(address.path)
        if not found:  # a pattern finds nothing in a bucket that is not there
            _check_bucket(client, reach, address.bucket)
        return sorted(f"s3://{path}" for path in found if not client.isdir(path))
    except FileNotFoundError:
        raise ValueError(f"{address}: there is no bucket {address.bucket}, correct the name or the endpoint") from None
    except FAILURES as error:
        raise ValueError(
            f"{address}: cannot be listed, {one_line(error)}; check AWS_ENDPOINT_URL_S3 and the credentials"
        ) from error


def _check_bucket(client: Any, reach: Reach, bucket: str) -> None:
    """Raise FileNotFoundError when the store says that there is no such bucket; keys that are good for a part of a
    bucket may not ask. Each bucket is asked after once."""
    if (reach, bucket) in _asked:
        return
    try:
        client.call_s3("head_bucket", Bucket=bucket)
    except FileNotFoundError:
        raise
    except FAILURES:
        pass
    _asked.add((reach, bucket))


def _version(folder: S3Address | None, uri: str) -> str:
    if not is_s3(uri):
        return LOCAL.version(uri)
    client, _, address = _place(folder, uri)
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
