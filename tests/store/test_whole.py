"""A folder appears whole or not at all, whoever else writes it."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from dynfusion.store.whole import written_whole


def test_the_folder_appears_at_the_end_and_nothing_else_stays(tmp_path: Path) -> None:
    with written_whole(tmp_path / "out") as partial:
        (partial / "file").write_text("x")
        assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    with pytest.raises(ValueError, match="out: already exists"), written_whole(tmp_path / "out"):
        pass


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with written_whole(tmp_path / "out") as partial:
            (partial / "file").write_text("x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_is_removed_but_not_what_a_living_one_fills(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as living:
        folders = {pid: tmp_path / f".out.{socket.gethostname()}-{pid}.partial" for pid in (dead.pid, living.pid)}
        for folder in folders.values():
            folder.mkdir()
        with written_whole(tmp_path / "out"):
            assert not folders[dead.pid].exists()
            assert folders[living.pid].exists()
        living.kill()


def test_the_first_of_two_writers_has_the_folder(tmp_path: Path) -> None:
    def write_second() -> None:
        with written_whole(tmp_path / "out") as partial:
            (partial / "file").write_text("second")
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "file").write_text("first")

    with pytest.raises(ValueError, match="already exists"):
        write_second()
    assert (tmp_path / "out" / "file").read_text() == "first"
