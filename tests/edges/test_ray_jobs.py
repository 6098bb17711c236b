"""`dynfusion submit` against a real two-node cluster with token authentication, each command a process of its own."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from dynfusion.run_settings import RunSettings
from dynfusion.settings import to_toml
from dynfusion.training.config import ClusterSettings, DataSettings
from tests.clusters import TwoNodes, free_ports
from tests.datasets import packed
from tests.training.cases import MASKING, MODEL, TRAIN

JOBS = Path(__file__).parents[2] / "jobs"
MOLECULES = "id,smiles\n" + "".join(f"m{n},{'C' * n}O\n" for n in range(1, 21))
EMBED = ("embed", "--input", "molecules.csv", "--id-column", "id", "--encoder", "morgan", "--workers", "1")
ENDED = {"SUCCEEDED", "FAILED", "STOPPED"}


@pytest.fixture(scope="module")
def cluster(two_nodes: TwoNodes) -> TwoNodes:
    return two_nodes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with the jobs, molecules, and the run file of a training that waits for a huge cluster."""
    made = tmp_path_factory.mktemp("work")
    shutil.copytree(JOBS, made / "jobs", ignore=shutil.ignore_patterns("__pycache__"))
    (made / "molecules.csv").write_text(MOLECULES)
    data = packed(tmp_path_factory.mktemp("data"))
    (made / "run.toml").write_text(
        to_toml(
            RunSettings(
                data=DataSettings(uri=str(data.uri)),
                model=MODEL,
                masking=MASKING,
                train=TRAIN,
                cluster=ClusterSettings(name="waiting", cpus_per_worker=1000, start_deadline_seconds=600),
            )
        )
    )
    return made


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "dynfusion", *words]


def run(
    cluster: TwoNodes, folder: Path, *words: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """A command to its end, with the cluster's address and token, or with `env` alone."""
    environment = cluster.environment if env is None else env
    return subprocess.run(command(*words), cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


class Watched:
    """A command that runs, and what it said so far."""

    def __init__(self, words: Sequence[str], folder: Path, environment: dict[str, str]) -> None:
        self.out, self.err = "", ""
        self.process = subprocess.Popen(
            words, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.readers = [threading.Thread(target=self._read, args=(name,), daemon=True) for name in ("out", "err")]
        for reader in self.readers:
            reader.start()

    def _read(self, name: str) -> None:
        stream = getattr(self.process, f"std{name}")
        for line in stream:
            setattr(self, name, getattr(self, name) + line)
        stream.close()

    def says(self, sentence: str, seconds: float = 60) -> None:
        until(lambda: sentence in self.out + self.err or self.process.poll() is not None, seconds)
        assert sentence in self.out + self.err, (self.out, self.err)

    def code(self) -> int:
        code = self.process.wait(60)
        for reader in self.readers:
            reader.join()
        return code


def until(true: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def status(cluster: TwoNodes, job: str) -> str:
    return cluster.ask(f"/api/jobs/{job}")["status"]


def test_a_job_is_followed_to_its_end_and_its_exit_code_is_the_jobs(
    cluster: TwoNodes, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "morgan vectors"
    words = ("submit", *EMBED, "--out", str(out), "--address", cluster.dashboard)
    first = run(cluster, folder, *words)
    assert first.returncode == 0, first.stderr
    assert (out / "embeddings.npy").exists()
    assert "submitted embed-morgan-vectors-1" in first.stderr
    assert "python jobs/embed.py --input molecules.csv" in first.stderr
    assert "embed molecules.csv with morgan: done" in first.stdout
    assert first.stderr.endswith("embed-morgan-vectors-1: SUCCEEDED, Job finished successfully\n")

    again = run(cluster, folder, *words[:-2], "--encoder", "nope")
    assert again.returncode == 1
    assert "submitted embed-morgan-vectors-2" in again.stderr
    assert "error: " in again.stdout
    assert "Traceback" not in again.stdout
    assert "embed-morgan-vectors-2: FAILED, Job entrypoint command failed with exit code 1" in again.stderr


@pytest.mark.slow
def test_the_same_submission_is_followed_and_sigterm_ends_the_driver_with_143(
    cluster: TwoNodes, folder: Path, tmp_path: Path
) -> None:
    words = command("submit", "train", "run.toml", f"cluster.storage={tmp_path}", "--address", cluster.dashboard)
    first = Watched(words, folder, cluster.environment)
    first.says("submitted train-waiting-1")
    until((tmp_path / "waiting" / "run.json").exists)
    second = Watched(words, folder, cluster.environment)
    second.says("already running: train-waiting-1")
    other = run(cluster, folder, "submit", "train", "run.toml", "cluster.storage=elsewhere")
    assert other.returncode == 1
    assert "job train-waiting-1 is still running another command" in other.stderr

    second.process.send_signal(signal.SIGINT)
    assert second.code() == 130
    assert "no longer following train-waiting-1, which goes on" in second.err
    assert status(cluster, "train-waiting-1") == "RUNNING"

    driver = driver_of(cluster, "jobs/train.py")
    third = Watched([*words, "--stop-on-interrupt"], folder, cluster.environment)
    third.says("Running entrypoint")
    third.process.send_signal(signal.SIGINT)
    assert third.code() == 130
    assert "train-waiting-1: STOPPED" in third.err
    assert first.code() == 3
    assert "train-waiting-1: STOPPED" in first.err
    assert "terminated; the same command continues" in first.out
    assert "Traceback" not in first.out
    assert not psutil.pid_exists(driver)


def driver_of(cluster: TwoNodes, script: str) -> int:
    """Process id of a job's command."""
    for process in cluster.head.processes():
        if script in process.cmdline() and process.name().startswith("python"):
            return process.pid
    raise AssertionError([process.cmdline() for process in cluster.head.processes()])


def test_a_missing_token_a_wrong_one_and_no_server_are_one_sentence_each(cluster: TwoNodes, folder: Path) -> None:
    words = ("submit", *EMBED, "--out", "x", "--address", cluster.dashboard)
    bare = {name: value for name, value in cluster.environment.items() if not name.startswith("RAY_")}
    home = {"HOME": str(folder)}
    advice = "set RAY_AUTH_MODE=token and the cluster's token as RAY_AUTH_TOKEN, in a file that RAY_AUTH_TOKEN_PATH"
    for extra, sentence in (
        ({}, "it wants a token and none was sent"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "wrong"}, "the token was refused"),
    ):
        refused = run(cluster, folder, *words, env={**bare, **home, **extra})
        assert refused.returncode == 4, refused.stderr
        assert refused.stderr.startswith(f"error: Ray at {cluster.dashboard}: {sentence}; {advice}"), refused.stderr
        assert refused.stderr.count("\n") == 1
    nobody = f"http://127.0.0.1:{free_ports(1)[0]}"
    alone = run(cluster, folder, *words[:-1], nobody)
    assert alone.returncode == 4
    assert alone.stderr == f"error: Ray at {nobody}: nothing answers within 10 s; is the address right?\n"


@pytest.mark.slow
def test_the_address_given_beats_the_environments(cluster: TwoNodes, folder: Path, tmp_path: Path) -> None:
    wrong = {**cluster.environment, "RAY_API_SERVER_ADDRESS": "http://127.0.0.1:9", "RAY_ADDRESS": "127.0.0.1:9"}
    words = ("submit", *EMBED, "--out", str(tmp_path / "other"), "--no-wait", "--address", cluster.dashboard)
    sent = run(cluster, folder, *words, env=wrong)
    assert sent.returncode == 0, sent.stderr
    assert sent.stdout == "embed-other-1\n"
    until(lambda: status(cluster, "embed-other-1") in ENDED)
    assert status(cluster, "embed-other-1") == "SUCCEEDED"


FOLLOW = """
import sys
from dynfusion.edges.ray_jobs import connect, follow
client = connect(sys.argv[1])
job = client.submit_job(entrypoint="for n in $(seq 1 40); do echo line $n; sleep 0.1; done")
ending = follow(client, job, lambda text: print(text, end="", flush=True), lambda text: print(text, file=sys.stderr))
print(ending.status.value)
"""


@pytest.mark.slow
def test_a_dropped_connection_loses_and_doubles_no_line(cluster: TwoNodes, folder: Path) -> None:
    with Forwarder(int(cluster.dashboard.rsplit(":", 1)[1])) as road:
        follower = Watched([sys.executable, "-c", FOLLOW, road.address], folder, cluster.environment)
        for line in (8, 20):
            follower.says(f"line {line}\n")
            road.cut()
        assert follower.code() == 0, follower.err
    assert re.findall(r"line \d+", follower.out) == [f"line {n}" for n in range(1, 41)]
    assert follower.out.endswith("SUCCEEDED\n")
    assert "asking for its status" in follower.err


class Forwarder:
    """A port of the loopback address that leads to another one until it is `cut`; new connections pass again."""

    def __init__(self, port: int) -> None:
        self.target = ("127.0.0.1", port)
        self.live: list[socket.socket] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> "Forwarder":
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.cut()
        self.thread.join()

    def cut(self) -> None:
        """Reset all connections."""
        for connection in self.live:
            _reset(connection)
        self.live.clear()

    def _serve(self) -> None:
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            far = socket.create_connection(self.target)
            self.live += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=_pump, args=(source, sink), daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def _reset(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


@pytest.mark.slow
def test_sigterm_ends_a_training_with_its_workers_and_the_same_command_continues(
    folder: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """On a local cluster: the driver, Ray's processes and the workers are gone within the time Kubernetes gives."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    words = command(
        *("train", "run.toml", f"cluster.storage={tmp_path}", "cluster.cpus_per_worker=1", "cluster.workers=2"),
        *("train.epochs=200", "cluster.name=ended", "train.checkpoint_every_steps=5"),
    )
    environment["PYTHONPATH"] = str(JOBS.parent)
    request.addfinalizer(lambda: [watched.process.kill() for watched in (training, again)])
    training = again = Watched(words, folder, environment)
    training.says("step 20/", seconds=180)
    family = psutil.Process(training.process.pid).children(recursive=True)
    started = time.monotonic()
    training.process.terminate()
    assert training.code() == 143
    assert time.monotonic() - started < 10
    assert training.err.endswith("terminated; the same command continues\n"), training.err
    assert "Traceback" not in training.out + training.err
    assert not psutil.wait_procs(family, timeout=10)[1]
    again = Watched(words, folder, environment)
    again.says("continuing from", seconds=180)
    again.process.terminate()
    assert again.code() == 143
