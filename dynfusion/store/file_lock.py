"""Locks between the processes of a node, by `flock`: the kernel lets go of them when a process dies."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_WITHOUT_LOCKS = (errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS)


def take_lock(path: Path, *, shared: bool = False, wait: bool = True) -> int | None:
    """Lock a file, made when missing, until the descriptor that comes back is closed; None when it is not to be had.

    A lock counts for the descriptor, so threads of one process exclude each other too.

    Raises ValueError on a file system without such locks.
    """
    kind = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, kind)
            if os.fstat(descriptor).st_nlink:
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError as error:
            os.close(descriptor)
            if error.errno not in _WITHOUT_LOCKS:
                raise
            raise ValueError(
                f"{path.parent}: this file system has no locks between processes (flock: {error.strerror}), choose a "
                "folder on another or have it mounted with locks"
            ) from None
        os.close(descriptor)  # whoever had it removed the file: lock the new one


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Nobody else is inside a block with the same path."""
    descriptor = take_lock(path)
    assert descriptor is not None
    try:
        yield
    finally:
        os.close(descriptor)


@contextmanager
def alone(path: Path, otherwise: str) -> Iterator[None]:
    """The same without waiting; the lock's file is gone afterwards.

    Raises ValueError(otherwise) at once when somebody is inside.
    """
    descriptor = take_lock(path, wait=False)
    if descriptor is None:
        raise ValueError(otherwise)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)
