"""Scratch folders: those of a killed process go with the next one made, those of another namespace never."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from dynfusion.training import scratch
from dynfusion.training.scratch import new_scratch_folder, scratch_folder

OTHER = """
import sys
from dynfusion.training.scratch import new_scratch_folder
for purpose in ("fetched", "universal", "tracking", "checkpoint"):
    (new_scratch_folder(purpose) / "part").touch()
print("made", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_what_a_killed_process_left_goes_and_what_a_living_one_has_stays(disk: Path) -> None:
    command = [sys.executable, "-c", OTHER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "made\n"
        mine = new_scratch_folder("checkpoint")
        assert len(list(disk.iterdir())) == 5
        other.kill()
        other.wait()
        assert new_scratch_folder("fetched").exists()
    assert len(list(disk.iterdir())) == 2
    assert mine.exists()


def test_what_another_process_namespace_has_stays_though_its_number_is_free_here(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scratch, "machine", lambda: "this boot pid:[1]")
    monkeypatch.setattr(os, "getpid", lambda: 2**22 + 1)  # no process has such a number
    theirs = new_scratch_folder("checkpoint")
    monkeypatch.setattr(scratch, "machine", lambda: "this boot pid:[2]")
    new_scratch_folder("checkpoint")
    assert theirs.exists()
    monkeypatch.setattr(scratch, "machine", lambda: "this boot pid:[1]")
    new_scratch_folder("checkpoint")
    assert not theirs.exists()


def test_a_scratch_folder_is_gone_after_its_with(disk: Path) -> None:
    with scratch_folder("universal") as folder:
        (folder / "part").touch()
    assert not list(disk.iterdir())
