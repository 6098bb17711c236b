"""Files over HTTP: one that arrives whole and right, or not at all; a broken download goes on where it stopped."""

import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

ANSWER_SECONDS = 30.0
PIECE_BYTES = 1 << 18

Digest = Callable[[bytes], str]


def download(url: str, path: Path, *, sha256: str, digest: Digest) -> None:
    """Write what lies at `url` to `path`; its `digest` must be `sha256`. A `path` that exists is only checked.

    A broken download leaves `path` with ".part" behind it, and the next call asks for the rest alone. Files are held in
    memory once, to be digested.

    Raises ValueError for an address that cannot be reached or gives no such file, a download that breaks off, and a
    content that is another; nothing of that is left.
    """
    partial = path.with_name(f"{path.name}.part")
    if path.exists():
        _check(url, path, sha256, digest)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        _fetch(url, partial)
    except urllib.error.HTTPError as error:
        raise ValueError(f"{url}: the server answers {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise ValueError(f"{url}: not reached or broken off, {reason}; the same command continues") from None
    _check(url, partial, sha256, digest)
    os.replace(partial, path)


def _fetch(url: str, partial: Path) -> None:
    """The rest of the file behind what `partial` holds; all of it where the server does not give parts."""
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=ANSWER_SECONDS)
    except urllib.error.HTTPError as error:
        if have and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # nothing is behind it: it was whole
        raise
    with answer:
        goes_on = answer.status == http.HTTPStatus.PARTIAL_CONTENT
        expected = answer.headers.get("Content-Length")
        got = 0
        with partial.open("ab" if goes_on else "wb") as file:
            while piece := answer.read(PIECE_BYTES):
                file.write(piece)
                got += len(piece)
    if expected is not None and got < int(expected):
        raise http.client.IncompleteRead(b"", int(expected) - got)


def _check(url: str, path: Path, sha256: str, digest: Digest) -> None:
    found = digest(path.read_bytes())
    if found != sha256:
        path.unlink()
        raise ValueError(f"{url}: found SHA-256 {found}, expected {sha256}; it was removed")
