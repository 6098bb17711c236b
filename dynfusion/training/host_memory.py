"""Freed memory stays with the process, so that a step's tensors do not fault their pages in again every step.

The C library gives large blocks back to the system as they are freed; a step then spends up to a quarter of its time in
page faults (EXPERIMENTS.md). The process keeps its peak instead, which the next step needs anyway. The padding is for
threads other than the first, whose memory comes in heaps of 64 MB: without it an emptied heap goes back at once.
"""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h of glibc
_KEEP_BYTES = 1 << 30
_PAD_BYTES = 1 << 26  # a whole heap; address space, not memory
_OLDER_LIMIT_BYTES = 1 << 25  # glibc before 2.36 allows no larger threshold


def keep_freed_memory() -> bool:
    """Ask the C library of this process to keep what is freed. False where it has no such switch: nothing changes."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    kept = mallopt(_M_TOP_PAD, _PAD_BYTES) and mallopt(_M_TRIM_THRESHOLD, _KEEP_BYTES)
    mapped = mallopt(_M_MMAP_THRESHOLD, _KEEP_BYTES) or mallopt(_M_MMAP_THRESHOLD, _OLDER_LIMIT_BYTES)
    return bool(kept and mapped)
