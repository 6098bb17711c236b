"""All shards of a dataset side by side in one range of addresses, so that any rows are one gather.

    reserved addresses   |  shard 0   |pad|  shard 1   |pad|  ...   (a page is read when it is touched)

`mmap.mmap` cannot place a file at a chosen address, which is the whole point, so this file calls the C function.
"""

import ctypes
import mmap
import os
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np

_PROT_NONE = 0
_MAP_FIXED = 0x10  # the same number on Linux and macOS; the mmap module does not export it
_MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0)
_FAILED = ctypes.c_void_p(-1).value
_MOST_BYTES = 1 << 46
"""More than any machine has addresses for; a larger number would be cut on its way to the C function."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


class MappedFiles:
    """Files mapped read-only one after another, each starting on a page.

    `content` is one uint8 array over all of them; `starts[i]` is file i's first byte in it. Bytes between files, and
    of files that are not placed yet, must not be touched. The arrays are valid while this object lives.
    """

    content: np.ndarray
    starts: np.ndarray

    def __init__(self, sizes: Sequence[int]) -> None:
        """Reserve addresses for files of these sizes. Raises ValueError where no machine has so many."""
        pages = [-(-size // mmap.PAGESIZE) * mmap.PAGESIZE for size in sizes]
        total = sum(pages)
        if total > _MOST_BYTES:
            raise ValueError(f"shards: found {total} bytes in all, allowed are {_MOST_BYTES}")
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
        address = _map(None, total, _PROT_NONE, flags, -1)
        self._finalizer = weakref.finalize(self, _libc.munmap, address, total)
        self.starts = np.concatenate([[0], np.cumsum(pages, dtype=np.int64)[:-1]])
        self._address, self._sizes = address, tuple(sizes)
        self.content = np.ctypeslib.as_array((ctypes.c_uint8 * total).from_address(address))

    def place(self, number: int, path: Path) -> None:
        """Map file `number`. Raises ValueError when it cannot be opened or has another size than was said."""
        _place(path, self._sizes[number], self._address + int(self.starts[number]))


def _place(path: Path, size: int, address: int) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise ValueError(f"shard {path}: cannot be opened, {error.strerror}") from error
    try:
        found = os.fstat(descriptor).st_size
        if found != size:
            raise ValueError(f"shard {path}: found {found} bytes, the manifest says {size}, it is truncated or wrong")
        _map(address, size, mmap.PROT_READ, mmap.MAP_PRIVATE | _MAP_FIXED, descriptor)
    finally:
        os.close(descriptor)


def _map(address: int | None, size: int, protection: int, flags: int, descriptor: int) -> int:
    result = _libc.mmap(address, size, protection, flags, descriptor, 0)
    if result == _FAILED:
        number = ctypes.get_errno()
        raise OSError(number, f"cannot map {size} bytes of addresses: {os.strerror(number)}")
    return int(result)
