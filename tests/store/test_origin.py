"""Small files of a far dataset, brought by several processes into one folder."""

import hashlib
import multiprocessing
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from dynfusion.store.manifest import FileSpec
from dynfusion.store.origin import fetch_file, fetch_files

CONTENT = bytes(range(256)) * 20_000
FILE = FileSpec(path="blocks.bin", rows=1, bytes=len(CONTENT), sha256=hashlib.sha256(CONTENT).hexdigest())
PROCESSES, TIMES = 4, 12


class Noting:
    """An origin that leaves a file for each time it was asked."""

    def __init__(self, notes: Path) -> None:
        self._notes = notes

    def read(self, path: str) -> bytes:
        (self._notes / os.urandom(8).hex()).touch()
        return CONTENT

    def read_range(self, path: str, start: int, stop: int) -> bytes:
        raise NotImplementedError


def fetch_often(folder: Path, notes: Path, together: Barrier) -> None:
    with ThreadPoolExecutor(2) as pool:
        for turn in range(TIMES):
            together.wait(60)
            (folder / str(turn)).mkdir(exist_ok=True)
            fetch_files(Noting(notes), [FILE, FILE], folder / str(turn), pool)
            assert (folder / str(turn) / FILE.path).read_bytes() == CONTENT


def test_processes_that_bring_a_file_at_once_all_find_it_whole_and_it_is_fetched_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    together, folder, notes = context.Barrier(PROCESSES), tmp_path / "cache", tmp_path / "notes"
    folder.mkdir()
    notes.mkdir()
    workers = [context.Process(target=fetch_often, args=(folder, notes, together)) for _ in range(PROCESSES)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * PROCESSES
    assert len(list(notes.iterdir())) == TIMES
    assert not list(folder.rglob("*.partial"))


def test_what_a_killed_process_left_goes_and_another_machine_s_stays(tmp_path: Path) -> None:
    dead, far = (tmp_path / f".blocks.bin.{host}-1.partial" for host in (socket.gethostname(), "another"))
    dead.touch()
    far.touch()
    fetch_file(Noting(tmp_path), FILE, tmp_path / "blocks.bin")
    assert (tmp_path / "blocks.bin").read_bytes() == CONTENT
    assert far.exists()
    assert not dead.exists()


def test_a_file_that_stays_wrong_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    wrong = FILE.model_copy(update={"sha256": "0" * 64})
    with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match="SHA-256 is not the manifest's"):
        fetch_files(Noting(tmp_path / "notes"), [wrong], tmp_path, pool)
    assert {path.name for path in tmp_path.iterdir()} == {"notes", "blocks.bin.lock"}
