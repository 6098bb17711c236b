"""`dynfusion doctor --cluster` on real clusters: a sound one of two nodes with tokens, and planted faults."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.clusters import TwoNodes, two_node_cluster
from tests.datasets import packed

Findings = dict[str, dict[str, str]]
ALONE = """
import ray, sys
context = ray.init(num_cpus=1, include_dashboard=sys.argv[1] == "dashboard", logging_level="ERROR")
print(context.address_info["gcs_address"], flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def cluster(two_nodes: TwoNodes) -> TwoNodes:
    return two_nodes


def doctor(environment: Mapping[str, str], *options: str) -> tuple[int, Findings]:
    done = subprocess.run(
        [sys.executable, "-m", "dynfusion", "doctor", "--json", *options],
        env=dict(environment),
        capture_output=True,
        text=True,
        timeout=180,
    )
    return done.returncode, {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}


def failed(finding: dict[str, str], found: str, cure: str, state: str = "failed") -> None:
    assert finding["state"] == state, finding
    assert found in finding["found"]
    assert cure in finding["cure"]


def test_a_sound_cluster_is_ok_in_every_respect_and_nothing_stays_on_it(cluster: TwoNodes, tmp_path: Path) -> None:
    data = packed(tmp_path / "data").uri
    storage = tmp_path / "runs"
    storage.mkdir()
    code, found = doctor(cluster.environment, "--data", str(data), "--storage", str(storage))
    told = {name: finding["state"] for name, finding in found.items()}
    machine = {"shared memory", "open files", "disk", "token file"}  # as this machine is
    expected = {
        *("Python", "packages", "GPUs", "cluster", "nodes", "versions", "node ports", "dashboard", "State API"),
        *("authentication", "clocks", "storage", "storage on nodes", "data", "blocks", "data on nodes"),
    }
    assert {name for name, state in told.items() if state == "ok"} - machine == expected, found
    assert code == int("failed" in told.values())
    assert found["cluster"]["found"] == f"{cluster.address}, 2 nodes"
    assert found["storage on nodes"]["found"] == "the same for 2 nodes"
    assert list(storage.iterdir()) == []
    actors = cluster.ask("/api/v0/actors?detail=true")["data"]["result"]["result"]
    assert not [actor for actor in actors if actor["state"] != "DEAD"]


def test_a_wrong_token_is_refused_and_told(cluster: TwoNodes) -> None:
    code, found = doctor({**cluster.environment, "RAY_AUTH_TOKEN": "f" * 32})
    assert code == 1
    failed(found["cluster"], cluster.address, "the cluster's token as RAY_AUTH_TOKEN")
    assert cluster.token not in json.dumps(found)


def test_from_outside_the_dashboard_alone_is_looked_at(cluster: TwoNodes) -> None:
    environment = {name: value for name, value in cluster.environment.items() if name != "RAY_ADDRESS"}
    code, found = doctor(environment, "--cluster", cluster.dashboard)
    failed(found["cluster"], "only its dashboard", f"dynfusion submit doctor --address {cluster.dashboard}", "warning")
    assert found["authentication"]["found"] == "the cluster asks for a token"
    assert found["dashboard"]["state"] == "ok"
    code, found = doctor({**environment, "RAY_AUTH_TOKEN": "f" * 32}, "--cluster", cluster.dashboard)
    assert code == 1
    failed(found["cluster"], "token was refused", "RAY_AUTH_TOKEN_PATH")


@pytest.mark.slow
def test_submitted_it_looks_from_inside(cluster: TwoNodes, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dynfusion", "submit", "doctor", "--json", "--address", cluster.dashboard],
        env=cluster.environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert "submitted doctor-cluster-1" in done.stderr
    findings = json.loads(done.stdout[done.stdout.index("{\n") :])["findings"]
    assert next(finding["found"] for finding in findings if finding["name"] == "nodes") == "2 alive, all answer"


@pytest.mark.slow
def test_gpus_that_ray_counts_and_nobody_has(cluster: TwoNodes) -> None:
    node = cluster.add_node(1, "--num-gpus=2")
    code, found = doctor(cluster.environment)
    assert code == 1
    failed(found["nodes"], "Ray counts 2 GPUs, the driver shows 0", "ray start --address")
    node.process.terminate()
    node.process.wait()
    cluster.wait(2)


@pytest.mark.slow
def test_a_node_that_hangs_is_a_finding_in_time() -> None:
    with two_node_cluster(head_cpus=1, second_cpus=1) as started:
        frozen = [psutil.Process(started.second.raylet_pid), *started.second.processes()]
        for process in frozen:
            process.send_signal(signal.SIGSTOP)
        try:
            code, found = doctor(started.environment)
        finally:
            for process in frozen:
                process.send_signal(signal.SIGCONT)
    assert code == 1
    failed(found["nodes"], "no answer within 25 s, asked what it is", "look at /tmp/ray/session_latest/logs")
    assert found["dashboard"]["state"] == "ok"


@contextmanager
def alone(dashboard: str, **env: str) -> Iterator[dict[str, str]]:
    """A cluster of one node that `ray.init` starts; the environment in which it is reached."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = {**own, "RAY_USAGE_STATS_ENABLED": "0", **env}
    started = subprocess.Popen(
        [sys.executable, "-c", ALONE, dashboard],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with started:
        assert started.stdout is not None
        yield {**environment, "RAY_ADDRESS": started.stdout.readline().strip()}
        started.communicate()


@pytest.mark.slow
def test_a_cluster_without_its_dashboard() -> None:
    with alone("none", RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="e" * 32) as environment:
        code, found = doctor(environment)
    assert code == 1
    failed(found["dashboard"], "without its dashboard", "--include-dashboard=true")
    failed(found["State API"], "", "before `dynfusion tune`")


@pytest.mark.slow
def test_a_cluster_that_lets_everybody_in() -> None:
    with alone("dashboard", RAY_AUTH_MODE="disabled") as environment:
        code, found = doctor(environment)
    if environment["RAY_ADDRESS"].startswith("127."):
        failed(found["authentication"], "this machine alone", "ray get-auth-token --generate", "warning")
    else:
        failed(found["authentication"], "can be reached by other machines", "ray get-auth-token --generate")
        assert code == 1
