"""Folders on this machine's disk for as long as a process needs them; those of killed processes are removed.

<temporary folder>/dynfusion-<purpose>-<machine>-<pid>-<random>

A process number counts in one process namespace of one boot only, so the name says which, and others' are left alone.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from dynfusion.training.lease import machine


def new_scratch_folder(purpose: str) -> Path:
    """An empty folder; who asks for it removes it. `purpose` is a word without `-`."""
    here = hashlib.sha256(machine().encode()).hexdigest()[:12]
    for left in Path(tempfile.gettempdir()).glob(f"dynfusion-*-{here}-*-*"):
        if not psutil.pid_exists(int(left.name.split("-")[-2])):
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"dynfusion-{purpose}-{here}-{os.getpid()}-"))


@contextmanager
def scratch_folder(purpose: str) -> Iterator[Path]:
    """The same for the time of the `with`."""
    folder = new_scratch_folder(purpose)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
