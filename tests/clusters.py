"""A Ray cluster of separate nodes on this machine, started and ended as an operator does it: `ray start` by process.

Each node has its own raylet, agents and object store. They share one address of the machine, so Ray's local ranks
treat them as one host. Nothing leaks into this process: the cluster has a token and folders of its own.
"""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
START_SECONDS = 90.0
END_SECONDS = 20.0


@dataclass(frozen=True)
class Place:
    """Where a node runs: its address, and what goes before a command to run it there."""

    address: str = "127.0.0.1"
    enter: tuple[str, ...] = ()


HERE = Place()


@dataclass(frozen=True)
class Node:
    """One node: `process` is its `ray start --block`, which ends the node's other processes when it is ended."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def raylet_pid(self) -> int:
        """What to `kill -9` to lose the node without notice: its workers die with it."""
        return self.pid_of("raylet")

    def pid_of(self, name: str) -> int:
        """The process of this node with this name, such as raylet or gcs_server."""
        for process in self.processes():
            if process.name() == name:
                return process.pid
        raise LookupError(f"{name} is not running; {self.log}: {self.log.read_text(errors='replace')[-2000:]}")

    def processes(self) -> list[psutil.Process]:
        """Everything that this node started and that still runs."""
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []


@dataclass
class TwoNodes:
    """A running cluster. `environment` is what a client or driver on this machine needs to reach it, whole."""

    address: str
    dashboard: str
    token: str
    environment: dict[str, str]
    folder: Path
    head: Node
    second: Node
    extra: list[Node] = field(default_factory=list)

    def add_node(self, num_cpus: int, *options: str, place: Place = HERE) -> Node:
        """One more node, such as a replacement of a lost one; returns once the cluster counts it."""
        alive = self.alive()
        log = self.folder / f"node-{2 + len(self.extra)}.log"
        joining = ("--address", self.address, *_node(num_cpus, place), *options)
        self.extra.append(_start(self.environment, log, *joining, place=place))
        self.wait(alive + 1)
        return self.extra[-1]

    def alive(self) -> int:
        """How many nodes the cluster counts as alive."""
        nodes = self.ask("/nodes?view=summary")["data"]["summary"]
        return sum(node["raylet"].get("state") == "ALIVE" for node in nodes)

    def wait(self, nodes: int, seconds: float = START_SECONDS) -> None:
        """Return once exactly this many nodes are alive. Raises TimeoutError."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                if self.alive() == nodes:
                    return
            except (OSError, KeyError, ValueError):
                if self.head.process.poll() is not None:
                    break
            time.sleep(0.1)
        logs = [f"{node.log}: {node.log.read_text(errors='replace')[-2000:]}" for node in (self.head, self.second)]
        raise TimeoutError("\n".join([f"{nodes} nodes are not there after {seconds:.0f} s", *dict.fromkeys(logs)]))

    def ask(self, path: str) -> dict:
        """An answer of the dashboard."""
        request = urllib.request.Request(self.dashboard + path, headers={"Authorization": f"Bearer {self.token}"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)


@contextmanager
def two_node_cluster(
    *,
    head_cpus: int = 2,
    second_cpus: int = 2,
    env: Mapping[str, str] | None = None,
    head_options: tuple[str, ...] = (),
    second_options: tuple[str, ...] = (),
    places: tuple[Place, Place] = (HERE, HERE),
) -> Iterator[TwoNodes]:
    """A head and a second node with the dashboard and token authentication, on free ports of the loopback address.

    `places` puts them elsewhere; a driver then has to run where the head does.
    `env` is added to the nodes' environment and thereby to that of every worker; `RAY_*` names of this process are not
    passed on. The nodes are ended by their process ids, whatever happened to them in between.
    """
    folder = Path(tempfile.mkdtemp(prefix="rc-"))  # short: Ray puts Unix sockets under it, at most 107 characters
    port, dashboard_port, client_port = free_ports(3)
    token = secrets.token_hex(16)
    host = places[0].address
    address, dashboard = f"{host}:{port}", f"http://{host}:{dashboard_port}"
    # Where other clusters run on this machine, workers would not find the State API by themselves.
    environment = _environment(token, {"RAY_API_SERVER_ADDRESS": dashboard, **(env or {})})
    head = (
        *("--head", f"--port={port}", f"--dashboard-host={host}", f"--dashboard-port={dashboard_port}"),
        *("--include-dashboard=true", f"--temp-dir={folder / 'ray'}", f"--ray-client-server-port={client_port}"),
    )
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        leading = (*head, *_node(head_cpus, places[0]), *head_options)
        first = _start(environment, folder / "node-0.log", *leading, place=places[0])
        stack.callback(_end, first)
        client = {**environment, "RAY_ADDRESS": address}
        cluster = TwoNodes(address, dashboard, token, client, folder, first, first)
        cluster.wait(1)
        joining = ("--address", address, *_node(second_cpus, places[1]), *second_options)
        cluster.second = _start(environment, folder / "node-1.log", *joining, place=places[1])
        stack.callback(lambda: _end(first, cluster.second, *cluster.extra))
        cluster.wait(2)
        yield cluster


def free_ports(count: int) -> list[int]:
    """Different ports of the loopback address that nobody listens on now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(closing(socket.socket())) for _ in range(count)]
        for opened in sockets:
            opened.bind(("127.0.0.1", 0))
        return [opened.getsockname()[1] for opened in sockets]


def _environment(token: str, env: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without its own Ray settings, with the package of this checkout importable."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    paths = [str(ROOT), *filter(None, own.get("PYTHONPATH", "").split(os.pathsep))]
    return {
        **own,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), own.get("PATH", os.defpath)]),
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_USAGE_STATS_ENABLED": "0",
        **env,
    }


def _node(num_cpus: int, place: Place) -> tuple[str, ...]:
    agent, metrics = free_ports(2)
    return (
        *("--block", f"--node-ip-address={place.address}", f"--num-cpus={num_cpus}", "--num-gpus=0"),
        *("--object-store-memory=200000000", "--min-worker-port=0", "--max-worker-port=0"),
        *(f"--dashboard-agent-listen-port={agent}", f"--metrics-export-port={metrics}", "--disable-usage-stats"),
    )


def _start(environment: Mapping[str, str], log: Path, *options: str, place: Place) -> Node:
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*place.enter, sys.executable, "-m", "ray.scripts.scripts", "start", *options],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C of the test run ends the test, and the test ends the cluster
        )
    return Node(process, log)


def _end(*nodes: Node) -> None:
    """End nodes by the ids of the processes that they started, gently and then surely."""
    started = [process for node in nodes for process in node.processes()]
    for node in nodes:
        node.process.terminate()
    for node in nodes:
        try:
            node.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            node.process.kill()
            node.process.wait()
    _, alive = psutil.wait_procs(started, timeout=3)
    for process in alive:
        process.kill()
    psutil.wait_procs(alive, timeout=3)
