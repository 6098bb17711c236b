"""Large memory that is written once or over and over: zeroed, in huge pages where the system grants them."""

import contextlib
import mmap

import numpy as np
from jaxtyping import UInt8

_HUGE_PAGE_BYTES = 2 << 20


def zeroed_pages(size: int) -> UInt8[np.ndarray, " bytes"]:
    """`size` writable bytes of zeros that begin on a huge page's border; they live as long as a view of them.

    Rows scattered over gigabytes miss the address cache at nearly every row when pages are small.
    """
    memory = mmap.mmap(-1, size + _HUGE_PAGE_BYTES)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel built without huge pages
            memory.madvise(mmap.MADV_HUGEPAGE)
    whole = np.frombuffer(memory, np.uint8)
    start = -whole.ctypes.data % _HUGE_PAGE_BYTES
    return whole[start : start + size]
