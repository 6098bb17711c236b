"""`cluster/local.sh`: what it starts, what it ends, and what it leaves alone."""

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

SCRIPT = Path(__file__).parents[2] / "cluster" / "local.sh"
BOOT = Path("/proc/sys/kernel/random/boot_id")

pytestmark = pytest.mark.skipif(not BOOT.exists(), reason="local.sh is for Linux: /proc is not here")


def local(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.run(
        ["bash", str(SCRIPT), *words],
        env={**environment, "PATH": path, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )


@pytest.fixture
def state() -> Iterator[Path]:
    """The name of a folder that is not there, short enough for Ray's sockets."""
    folder = Path(tempfile.gettempdir()) / f"local-{secrets.token_hex(4)}"
    yield folder
    local("down", "--state", str(folder))


class Tree:
    """A process with two children in a session of its own, as a node is one."""

    def __init__(self) -> None:
        self.first = subprocess.Popen(["bash", "-c", "sleep 300 & sleep 301 & wait"], start_new_session=True)
        until(lambda: len(psutil.Process(self.first.pid).children()) == 2)
        self.all = [psutil.Process(self.first.pid), *psutil.Process(self.first.pid).children()]

    @property
    def start_ticks(self) -> int:
        return int(Path(f"/proc/{self.first.pid}/stat").read_text().rpartition(")")[2].split()[19])

    def running(self) -> int:
        self.first.poll()  # what has ended is ours to bury
        return sum(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in self.all)


@pytest.fixture
def plant() -> Iterator[Callable[[], Tree]]:
    planted: list[Tree] = []

    def make() -> Tree:
        planted.append(Tree())
        return planted[-1]

    yield make
    for tree in planted:
        for process in tree.all:
            if process.is_running():
                process.kill()
        tree.first.wait()


def until(true: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def note(state: Path, *lines: str, boot: str | None = None) -> None:
    """The folder as `up` leaves it, with these processes."""
    state.mkdir()
    (state / "boot").write_text(boot or BOOT.read_text())
    (state / "processes").write_text("".join(f"{line}\n" for line in lines))


def test_down_ends_the_noted_processes_with_their_children_and_no_others(
    state: Path, plant: Callable[[], Tree]
) -> None:
    ours, other = plant(), plant()
    note(state, f"head {ours.first.pid} {ours.start_ticks}")
    done = local("down", "--state", str(state))
    assert done.returncode == 0, done.stderr
    assert (ours.running(), other.running()) == (0, 3)
    assert not state.exists()


def test_down_finds_the_children_of_a_first_process_that_was_killed(state: Path, plant: Callable[[], Tree]) -> None:
    ours = plant()
    note(state, f"head {ours.first.pid} {ours.start_ticks}", "second 1 0")
    ours.first.kill()
    ours.first.wait()
    assert ours.running() == 2
    done = local("down", "--state", str(state))
    assert done.returncode == 0, done.stderr
    assert ours.running() == 0


@pytest.mark.parametrize("boot", [None, "another boot\n"])
def test_down_leaves_alone_a_process_that_has_the_number_of_an_ended_one(
    boot: str | None, state: Path, plant: Callable[[], Tree]
) -> None:
    other = plant()
    start = other.start_ticks - 1 if boot is None else other.start_ticks
    note(state, f"head {other.first.pid} {start}", boot=boot)
    assert local("down", "--state", str(state)).returncode == 0
    assert other.running() == 3
    assert not state.exists()


def test_a_folder_with_other_files_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="local-") as folder:
        kept = Path(folder) / "thesis.txt"
        kept.write_text("years of work")
        for action in ("up", "down"):
            local(action, "--state", folder)
            assert kept.read_text() == "years of work"
        assert "holds other files" in local("up", "--state", folder).stderr


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        ((), 2, "found '', allowed are up, down and status"),
        (("upp",), 2, "found 'upp', allowed are up, down and status"),
        (("up", "--cpu", "2"), 2, "found option --cpu, allowed are --state"),
        (("up", "--cpus"), 2, "--cpus: a value is required"),
        (("up", "--state", "/tmp/" + "x" * 40), 1, "--state: found 45 characters, allowed are 32"),
        (("status", "--state", "/tmp/not-there"), 3, "there is no cluster in /tmp/not-there"),
        (("down", "--state", "/tmp/not-there"), 0, "there is no cluster in /tmp/not-there"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(words: tuple[str, ...], code: int, sentence: str) -> None:
    done = local(*words)
    assert (done.returncode, done.stdout) == (code, "")
    assert sentence in done.stderr


def members(state: Path) -> list[psutil.Process]:
    """The processes of the cluster's sessions."""
    heads = [int(line.split()[1]) for line in (state / "processes").read_text().splitlines()]
    return [process for process in psutil.process_iter() if session(process.pid) in heads]


def session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


DRIVER = """
import ray

ray.init(logging_level="ERROR")
print(sum(node["Alive"] for node in ray.nodes()), ray.cluster_resources()["CPU"])
"""


@pytest.mark.slow
def test_two_clusters_stand_side_by_side_and_a_damaged_one_is_ended_without_the_other(state: Path) -> None:
    beside = state.with_name(state.name + "b")
    try:
        started = [local("up", "--state", str(folder), "--cpus", "1") for folder in (state, beside)]
        assert [done.returncode for done in started] == [0, 0], [done.stderr[-2000:] for done in started]
        driver = ["bash", "-c", f'eval "$1" && exec {sys.executable} -c "$2"', "-", started[0].stdout, DRIVER]
        assert subprocess.run(driver, capture_output=True, text=True, check=True).stdout.split() == ["2", "1.0"]
        assert local("up", "--state", str(state)).stdout == started[0].stdout
        assert (state / "token").stat().st_mode & 0o077 == 0
        (dashboard,) = re.findall(r"RAY_API_SERVER_ADDRESS=http://127.0.0.1:(\d+)", started[0].stdout)
        assert set().union(*(listening(p, int(dashboard)) for p in members(state))) == {"127.0.0.1"}

        ours = members(state)
        second = int((state / "processes").read_text().splitlines()[1].split()[1])
        os.kill(second, signal.SIGKILL)
        (raylet,) = [p for p in ours if p.name() == "raylet" and session(p.pid) not in (second, None)]
        raylet.kill()
        assert local("status", "--state", str(state)).returncode == 1
        assert "has lost a node" in local("up", "--state", str(state)).stderr
        assert local("down", "--state", str(state)).returncode == 0
        until(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in ours), 10)
        assert not state.exists()
        status = local("status", "--state", str(beside))
        assert status.returncode == 0, status.stdout + status.stderr
        assert "nodes alive: 2" in status.stdout
    finally:
        local("down", "--state", str(beside))


def listening(process: psutil.Process, port: int) -> set[str]:
    """The addresses on which a process takes connections to this port."""
    try:
        taken = [c for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]
        return {connection.laddr.ip for connection in taken if connection.laddr.port == port}
    except psutil.Error:
        return set()


@pytest.mark.slow
def test_a_port_that_is_taken_ends_the_start_and_leaves_nothing(state: Path) -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = local("up", "--state", str(state), "--port", str(taken.getsockname()[1]))
    assert done.returncode == 1
    assert done.stdout == ""
    assert not state.exists()
