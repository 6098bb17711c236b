"""Sources in a bucket of which a user may see only a part."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dynfusion.edges import s3_files
from dynfusion.edges.s3_address import S3Address
from dynfusion.edges.s3_files import reaching

EMPTY = (
    b'<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name>'
    b"<KeyCount>0</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated></ListBucketResult>"
)


@contextmanager
def bucket_that_answers(status: int) -> Iterator[tuple[str, list[str]]]:
    """A server whose listings are empty, without any file, and that answers HeadBucket so; and how often it did."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self, status: int, body: bytes = b"") -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_HEAD(self) -> None:
            if self.path.strip("/") == "b":
                asked.append(self.path)
                return self.answer(status)
            return self.answer(404)

        def do_GET(self) -> None:
            self.answer(200, EMPTY)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def find(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], list[str]]:
    """What is found of a key of bucket b at an endpoint."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setattr(s3_files, "_asked", set())
    return lambda endpoint, key: reaching(S3Address("b", "mine", endpoint)).find(f"s3://b/mine/{key}")


@pytest.mark.parametrize("status", [403, 400, 200])
def test_nothing_is_found_where_the_bucket_may_not_be_asked_after(
    find: Callable[[str, str], list[str]], status: int
) -> None:
    with bucket_that_answers(status) as (endpoint, asked):
        for key in ("x.ids.npy", "y.ids.npy", "*.npy"):
            assert find(endpoint, key) == []
        assert len(asked) == 1


def test_a_bucket_that_is_not_there_is_named(find: Callable[[str, str], list[str]]) -> None:
    with bucket_that_answers(404) as (endpoint, _):
        for key in ("x.ids.npy", "*.npy"):
            with pytest.raises(ValueError, match=r"s3://b/mine/.*: there is no bucket b, correct"):
                find(endpoint, key)
