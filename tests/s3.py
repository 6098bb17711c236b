"""A real S3 server in a process of its own, and a proxy in front of it that does what networks and stores do."""

import http.client
import re
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

FAULTS = ("slow down", "reset", "truncated", "stall", "wrong byte", "expired")

_DROPPED = {"connection", "transfer-encoding", "content-length", "date", "server"}


@contextmanager
def s3_server() -> Iterator[str]:
    """moto's server on a free port of the loopback address; yields its endpoint and ends the process by its id."""
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        found = next(filter(None, (re.search(r"http://127\.0\.0\.1:\d+", line) for line in process.stderr)))
        drain = threading.Thread(target=process.stderr.read, daemon=True)
        drain.start()
        yield found.group()
    finally:
        process.terminate()
        process.wait()
        drain.join()
        process.stderr.close()


def make_bucket(endpoint: str, bucket: str) -> None:
    """A new bucket; moto asks for no signature."""
    request(endpoint, "PUT", f"/{bucket}")


def put(endpoint: str, path: str, content: bytes) -> None:
    """Store an object under `/bucket/key`."""
    request(endpoint, "PUT", path, content)


def request(endpoint: str, method: str, path: str, body: bytes = b"") -> bytes:
    """One plain request; its answer must be a success."""
    connection = http.client.HTTPConnection(urlsplit(endpoint).netloc)
    connection.request(method, path, body, {"Authorization": "AWS4-HMAC-SHA256 Credential=test/x/us-east-1/s3/x"})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    assert answer.status < 300, (answer.status, content)
    return content


class FaultProxy:
    """Forwards to `target`. `fault(method, path, count)` names what goes wrong with the `count`-th such request, from
    0, or is None; every request is noted in `seen`, every fault in `done`.
    """

    def __init__(self, target: str, fault: Callable[[str, str, int], str | None]) -> None:
        self.fault = fault
        self.seen: list[tuple[str, str]] = []
        self.done: list[str] = []
        self.faulted = threading.Event()
        self.closing = threading.Event()
        self.target = urlsplit(target).netloc
        self._lock = threading.Lock()
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> "FaultProxy":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def judge(self, method: str, path: str) -> str | None:
        with self._lock:
            count = self.seen.count((method, path))
            self.seen.append((method, path))
            fault = self.fault(method, path, count)
            if fault:
                self.done.append(fault)
                self.faulted.set()
            return fault


class _Server(ThreadingHTTPServer):
    request_queue_size = 128


class _Handler(BaseHTTPRequestHandler):
    owner: FaultProxy
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._forward()

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815, the base class calls them so

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError:
            self.close_connection = True

    def _forward(self) -> None:
        body = self._body()
        fault = self.owner.judge(self.command, self.path.split("?")[0])
        if fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
        elif fault == "slow down":
            self._refuse(503, "SlowDown", "Please reduce your request rate.")
        elif fault == "expired":
            self._refuse(400, "ExpiredToken", "The provided token has expired.")
        elif fault == "denied":
            self._refuse(403, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist.")
        else:
            self._answer(body, fault)

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        del self.headers["Transfer-Encoding"]
        self.headers["Content-Length"] = str(len(body))
        return body

    def _answer(self, body: bytes, fault: str | None) -> None:
        connection = http.client.HTTPConnection(self.owner.target)
        connection.request(self.command, self.path, body, dict(self.headers.items()))
        answer = connection.getresponse()
        content = bytearray(answer.read())
        connection.close()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in _DROPPED:
                self.send_header(name, value)
        length = answer.getheader("Content-Length", "0") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length)
        self.end_headers()
        if fault == "wrong byte" and content:
            content[len(content) // 2] ^= 0x10
        if fault in ("truncated", "stall"):
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            if fault == "stall":
                self.owner.closing.wait()
            self.close_connection = True
            return
        self.wfile.write(content)

    def _refuse(self, status: int, code: str, message: str) -> None:
        content = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
