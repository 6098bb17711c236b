"""One driver in a run folder: a living one is left alone, a dead one is followed, at once or when its beat is old."""

import json
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from dynfusion.training import lease
from dynfusion.training.lease import LEASE, Lease, driving, read_lease
from dynfusion.training.storage import LocalStorage, exists

ELSEWHERE = Lease("f" * 32, "node-7", "another boot", 12, 1.0, 0.0)

DRIVER = """
import sys, time
from dynfusion.training.lease import driving
from dynfusion.training.storage import LocalStorage
with driving(LocalStorage(sys.argv[1]), print):
    print("drives", flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"BEAT": 0.1, "STALE": 1.0, "_SETTLE": 0.3, "_LOOK": 0.05}.items():
        monkeypatch.setattr(lease, f"{name}_SECONDS", seconds)


def leave(storage: LocalStorage, left: Lease) -> None:
    storage.write(LEASE, json.dumps(asdict(left)).encode())


def test_the_lease_is_renewed_and_gone_afterwards_so_the_same_command_starts_again(tmp_path: Path) -> None:
    storage, said = LocalStorage(tmp_path), list[str]()
    for _ in range(2):
        with driving(storage, said.append):
            first = read_lease(storage)
            time.sleep(0.3)
            now = read_lease(storage)
            assert first is not None
            assert now is not None
            assert now.beat > first.beat
        assert not exists(storage, LEASE)
    assert said == []


def test_a_second_driver_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    with driving(storage, print):
        with pytest.raises(ValueError, match=r"another driver is at work in it, process \d+ on .*, last heard of at"):
            driving(storage, print).__enter__()
        time.sleep(0.2)
    assert not exists(storage, LEASE)


def test_a_killed_driver_of_this_machine_is_followed_at_once(tmp_path: Path) -> None:
    storage, said = LocalStorage(tmp_path), list[str]()
    command = [sys.executable, "-c", DRIVER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "drives\n"
        with pytest.raises(ValueError, match=f"process {driver.pid} on "):
            driving(storage, said.append).__enter__()
        driver.kill()
    assert exists(storage, LEASE)
    with driving(storage, said.append):
        assert said == []


def test_a_driver_lost_with_its_machine_is_waited_out_aloud(tmp_path: Path) -> None:
    storage, said = LocalStorage(tmp_path), list[str]()
    leave(storage, replace(ELSEWHERE, beat=time.time()))
    started = time.monotonic()
    with driving(storage, said.append):
        assert 0.8 < time.monotonic() - started < 5
    assert len(said) == 1
    assert "its driver was process 12 on node-7, last heard of at " in said[0]
    leave(storage, replace(ELSEWHERE, beat=time.time() - 2))
    with driving(storage, said.append):
        assert len(said) == 1


def test_a_driver_elsewhere_that_is_heard_of_again_is_left_alone(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    leave(storage, replace(ELSEWHERE, beat=time.time()))
    beats = threading.Timer(0.3, lambda: leave(storage, replace(ELSEWHERE, beat=time.time())))
    beats.start()
    with pytest.raises(ValueError, match="another driver is at work in it, process 12 on node-7"):
        driving(storage, print).__enter__()
    beats.join()


def test_of_two_that_start_at_once_one_drives(tmp_path: Path) -> None:
    storage, drove, refused, ready = LocalStorage(tmp_path), list[int](), list[str](), threading.Barrier(2)

    def start(number: int) -> None:
        ready.wait()
        try:
            with driving(storage, print):
                drove.append(number)
                time.sleep(0.3)
        except ValueError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=start, args=(number,)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(drove) == len(refused) == 1


@pytest.mark.parametrize("background", [False, True])  # a shell lets what it puts there ignore SIGINT
def test_a_driver_that_was_taken_for_dead_ends_when_it_wakes(background: bool, tmp_path: Path) -> None:
    storage, other = LocalStorage(tmp_path), replace(ELSEWHERE, beat=time.time())
    heard = {signal.SIGINT: signal.SIG_IGN if background else signal.default_int_handler}
    heard |= {signal.SIGTERM: signal.default_int_handler}  # as the command line sets it
    before = {number: signal.signal(number, handler) for number, handler in heard.items()}

    def sleep_on() -> None:
        with driving(storage, print):
            leave(storage, other)
            time.sleep(5)

    try:
        with pytest.raises(ValueError, match="another driver has taken over, process 12 on node-7"):
            sleep_on()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert read_lease(storage) == other
