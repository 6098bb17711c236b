"""One driver in a run folder: a living one is left alone, a dead one is followed, at once or when its beat is old."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from dynfusion.edges.s3_storage import open_storage
from dynfusion.training import lease
from dynfusion.training.lease import LEASE, Lease, driving, read_lease
from dynfusion.training.storage import LocalStorage, Storage, exists
from tests.s3 import FaultProxy, make_bucket

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


def leave(storage: Storage, left: Lease) -> None:
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
    leave(storage, replace(ELSEWHERE, beat=time.time() - 700))
    with driving(storage, said.append):
        assert len(said) == 1


@pytest.mark.parametrize("skew", [0, -300, 300])  # seconds that the other machine's clock is off
def test_a_driver_elsewhere_that_is_heard_of_again_is_left_alone(skew: int, tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    leave(storage, replace(ELSEWHERE, beat=time.time() + skew))
    beats = threading.Timer(0.3, lambda: leave(storage, replace(ELSEWHERE, beat=time.time() + skew)))
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


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Breaking(LocalStorage):
    """A store whose library breaks in ways of its own, a few times."""

    left = 0

    def read(self, path: str) -> bytes:
        if self.left:
            self.left -= 1
            raise RuntimeError("Loop is not running")
        return super().read(path)


def test_whatever_a_store_raises_the_lease_is_renewed_once_it_is_back(tmp_path: Path) -> None:
    storage = Breaking(tmp_path)
    with driving(storage, print):
        first = read_lease(storage)
        storage.left = 3
        until(lambda: not storage.left)
        until(lambda: read_lease(storage) != first)


@pytest.fixture
def deaf() -> Iterator[None]:
    """A main thread that hears no interrupt, as one that waits in somebody else's code."""
    before = signal.signal(signal.SIGINT, lambda number, frame: None)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("deaf")
@pytest.mark.parametrize("error", [None, RuntimeError("a worker is gone"), KeyboardInterrupt()])
def test_a_driver_that_hears_no_interrupt_learns_at_its_end_that_it_was_followed(
    error: BaseException | None, tmp_path: Path
) -> None:
    storage, other = LocalStorage(tmp_path), replace(ELSEWHERE, beat=time.time())

    def drive() -> None:
        with driving(storage, print) as hold:
            leave(storage, other)
            until(lambda: hold.lost_to)
            if error is not None:
                raise error

    with pytest.raises(ValueError, match="another driver has taken over, process 12 on node-7"):
        drive()
    assert read_lease(storage) == other


@pytest.mark.usefixtures("deaf")
def test_who_asks_before_its_next_beat_is_told_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_SECONDS", 60.0)
    storage, did = LocalStorage(tmp_path), list[str]()

    def drive() -> None:
        with driving(storage, print) as hold:
            hold.check()
            did.append("trained")
            leave(storage, ELSEWHERE)
            hold.check()
            did.append("left a model")

    with pytest.raises(ValueError, match="another driver has taken over, process 12 on node-7"):
        drive()
    assert did == ["trained"]


class Stalled(LocalStorage):
    """A store where one write of the renewal hangs, and arrives after all."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.hangs, self.goes_on = threading.Event(), threading.Event()

    def write(self, path: str, content: bytes) -> None:
        if threading.current_thread().name == "run-lease" and not self.hangs.is_set():
            self.hangs.set()
            self.goes_on.wait()
        super().write(path, content)


@pytest.mark.usefixtures("deaf")
@pytest.mark.parametrize("follower_wrote_again", [False, True])
def test_of_a_late_write_and_the_driver_that_followed_one_ends(follower_wrote_again: bool, tmp_path: Path) -> None:
    storage, other = Stalled(tmp_path), replace(ELSEWHERE, beat=time.time())

    def drive() -> None:
        with driving(storage, print) as hold:
            storage.hangs.wait()
            leave(storage, other)  # it was taken for dead
            storage.goes_on.set()
            until(lambda: (read_lease(storage) or other) != other)
            if follower_wrote_again:  # having read its own lease just before
                leave(storage, other)
                until(lambda: hold.lost_to)

    if follower_wrote_again:
        with pytest.raises(ValueError, match="another driver has taken over"):
            drive()
    else:  # the follower sees the late write at its next beat, and ends
        drive()
    assert read_lease(storage) == (other if follower_wrote_again else None)


def test_a_driver_that_wrote_slowly_looks_again_a_beat_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "_SETTLE_SECONDS", 0.1)
    monkeypatch.setattr(lease, "BEAT_SECONDS", 1.0)

    class Slow(LocalStorage):
        def write(self, path: str, content: bytes) -> None:
            time.sleep(0.2)
            super().write(path, content)

    other = replace(ELSEWHERE, beat=time.time())
    followed = threading.Timer(0.7, lambda: leave(LocalStorage(tmp_path), other))
    followed.start()
    with pytest.raises(ValueError, match="another driver is at work in it, process 12 on node-7"):
        driving(Slow(tmp_path), print).__enter__()
    followed.join()
    assert read_lease(LocalStorage(tmp_path)) == other


@pytest.mark.usefixtures("deaf")
def test_a_beat_that_a_store_did_not_take_in_time_is_not_written_later(s3: str) -> None:
    make_bucket(s3, "lease")
    away, other = threading.Event(), replace(ELSEWHERE, beat=time.time())

    def fault(method: str, path: str, count: int) -> str | None:
        return "slow down" if away.is_set() and method == "PUT" else None

    direct = open_storage(f"s3://lease/run?endpoint_override={s3}")

    def drive(storage: Storage) -> None:
        with driving(storage, print) as hold:
            away.set()
            started = time.monotonic()
            with pytest.raises(ValueError, match="still failing after"):
                storage.write(LEASE, b"{}")
            assert time.monotonic() - started < 5
            leave(direct, other)
            until(lambda: hold.lost_to)
            away.clear()

    with FaultProxy(s3, fault) as proxy:
        storage = open_storage(f"s3://lease/run?endpoint_override={proxy.endpoint}", deadline_seconds=0.6)
        with pytest.raises(ValueError, match="another driver has taken over, process 12 on node-7"):
            drive(storage)
        assert "slow down" in proxy.done
    assert read_lease(direct) == other
