"""Locks where there are none."""

import errno
import fcntl
from pathlib import Path

import pytest

from dynfusion.store.file_lock import alone, take_lock


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.ENOLCK])
def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def flock(descriptor: int, kind: int) -> None:
        raise OSError(number, "not here")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(ValueError, match=rf"^{tmp_path}: this file system has no locks between processes"):
        take_lock(tmp_path / "lock")
    with pytest.raises(ValueError, match="this file system has no locks"), alone(tmp_path / "lock", "taken"):
        raise AssertionError("nobody is inside")


def test_other_failures_stay_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(descriptor: int, kind: int) -> None:
        raise OSError(errno.EIO, "broken disk")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="broken disk"):
        take_lock(tmp_path / "lock")
