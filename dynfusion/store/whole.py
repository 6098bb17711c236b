"""A folder that appears whole or not at all."""

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(out: Path) -> Iterator[Path]:
    """A sibling folder to fill; it becomes `out` at the end of the `with`, or is removed when that raises.

    Two processes that write the same folder do not disturb each other: the first to finish has it. What a killed
    process of this machine left is removed. Raises ValueError when `out` exists, at the start or at the end.
    """
    _refuse_existing(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(out)
    partial = out.with_name(f".{out.name}.{socket.gethostname()}-{os.getpid()}.partial")
    partial.mkdir()
    try:
        yield partial
        _refuse_existing(out)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _refuse_existing(out: Path) -> None:
    if out.exists():
        raise ValueError(f"{out}: already exists, choose another folder or remove it")


def _remove_abandoned(out: Path) -> None:
    for left in out.parent.glob(f".{out.name}.{socket.gethostname()}-*.partial"):
        process = int(left.name.removesuffix(".partial").rsplit("-", 1)[1])
        if process == os.getpid() or not _alive(process):
            shutil.rmtree(left, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
