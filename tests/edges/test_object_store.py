"""One file on a real S3 server, read by both libraries."""

import socket

import pytest

from dynfusion.edges.object_store import Library, ObjectStore
from dynfusion.edges.s3_address import S3Address
from dynfusion.edges.s3_clients import clients
from tests.s3 import FaultProxy, make_bucket, put

BUCKET = "files"
CONTENT = bytes(range(100))


@pytest.fixture(scope="module")
def endpoint(s3: str) -> str:
    make_bucket(s3, BUCKET)
    put(s3, f"/{BUCKET}/file", CONTENT)
    return s3


@pytest.mark.parametrize("carrier", ["pyarrow", "s3fs"])
@pytest.mark.parametrize(("start", "stop"), [(90, 101), (100, 110), (200, 300)])
def test_a_range_behind_the_end_is_one_sentence_at_once(endpoint: str, carrier: Library, start: int, stop: int) -> None:
    """With 300 s to try again in, it is asked for once at most."""
    with FaultProxy(endpoint, lambda method, path, count: None) as proxy:
        store = ObjectStore(S3Address(BUCKET, "", proxy.endpoint), carrier)
        assert store.read_range("file", 90, 100) == CONTENT[90:]
        proxy.seen.clear()
        with pytest.raises(ValueError, match=rf"^s3://files/file: found 100 bytes, at least {stop} are expected"):
            store.read_range("file", start, stop)
        assert proxy.seen.count(("GET", f"/{BUCKET}/file")) <= 1


@pytest.mark.parametrize("carrier", ["pyarrow", "s3fs"])
def test_a_file_that_was_replaced_by_a_longer_one_is_read(endpoint: str, carrier: Library) -> None:
    store = ObjectStore(S3Address(BUCKET, "", endpoint), carrier)
    put(endpoint, f"/{BUCKET}/grows", CONTENT[:10])
    assert store.read_range("grows", 0, 10) == CONTENT[:10]
    put(endpoint, f"/{BUCKET}/grows", CONTENT)
    assert store.read_range("grows", 50, 100) == CONTENT[50:]
    assert store.size("grows") == 100


def test_a_missing_bucket_is_named_at_once(endpoint: str) -> None:
    store = ObjectStore(S3Address("nowhere", "folder", endpoint))
    for ask in (lambda: store.read("x"), lambda: store.find(""), lambda: store.write_bytes("x", b"1")):
        with pytest.raises(ValueError, match=r"^s3://nowhere/folder.*: there is no bucket nowhere"):
            ask()


def test_a_store_that_only_ever_denied_or_was_busy_has_answered() -> None:
    """A connection that fails later is worth the whole deadline."""
    store = ObjectStore(S3Address(BUCKET, "", "http://127.0.0.1:9"), deadline_seconds=0.5)
    for said in ("AWS Error SLOW_DOWN", "AWS Error ACCESS_DENIED"):
        clients.reached.clear()
        failures = [OSError(said)]

        def ask(failures: list[OSError] = failures) -> int:
            raise failures.pop() if failures else OSError("Could not connect to the endpoint URL")

        with pytest.raises(ValueError, match="still failing after"):
            store._retrying(ask, store.address)


def test_an_endpoint_where_nobody_listens_is_named_with_its_setting(endpoint: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{unused.getsockname()[1]}"
    for carrier in ("pyarrow", "s3fs"):
        store = ObjectStore(S3Address(BUCKET, "", nobody), carrier, deadline_seconds=0.2)
        with pytest.raises(ValueError, match=rf"s3://files/file: {nobody} does not answer, check endpoint_override"):
            store.read_range("file", 0, 1)
