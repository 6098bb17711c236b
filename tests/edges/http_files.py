"""An HTTP server of a folder on the loopback address that knows byte ranges and can break off."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread


class FileServer(ThreadingHTTPServer):
    """`asked` is the path and the Range header of each request; `break_after` bytes an answer stops."""

    folder: Path
    asked: list[tuple[str, str | None]]
    break_after: int | None = None
    ranges: bool = True

    @property
    def address(self) -> str:
        """Of the folder."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: FileServer

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append((self.path, wanted))
        path = self.server.folder / self.path.lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        content, first = path.read_bytes(), 0
        if wanted and self.server.ranges:
            first = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if first >= len(content):
                self.send_error(416)
                return
        self.send_response(206 if wanted and self.server.ranges else 200)
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        self.wfile.write(content[first:][: self.server.break_after])

    def log_message(self, *_: object) -> None:
        """Nothing on the tests' output."""


@contextmanager
def file_server(folder: Path) -> Iterator[FileServer]:
    """A running server of the files below `folder`."""
    server = FileServer(("127.0.0.1", 0), _Handler)
    server.folder, server.asked = folder, []
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
