"""Workers, nodes, the head and the driver are killed, by hand and by the kernel: the weights of an undisturbed run."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load

from dynfusion.store.dataset import Dataset
from dynfusion.training.checkpoint import problem
from tests.chaos.ledger import note
from tests.chaos.runs import STEPS, once, require_whole, run_file, train, weights
from tests.clusters import TwoNodes, two_node_cluster
from tests.training.cases import MODEL

pytestmark = pytest.mark.slow

SLOW_MODEL = MODEL.model_copy(update={"dim": 1024, "decoder_hidden": 2048})
"""Some 0.1 s a step: a node that joins has time to be noticed before the run is over."""
GRACE_SECONDS = 30.0
"""What Kubernetes grants by default between SIGTERM and SIGKILL."""
SAME = "the weights of an undisturbed run, each record once"


def workers_of(cluster: TwoNodes) -> list[psutil.Process]:
    nodes = (cluster.head, cluster.second, *cluster.extra)
    return [p for node in nodes for p in node.processes() if p.name().startswith("ray::RayTrainWorker")]


def kill_worker(cluster: TwoNodes, driver: subprocess.Popen[str]) -> None:
    os.kill(random.choice(workers_of(cluster)).pid, signal.SIGKILL)


def kill_node(cluster: TwoNodes, driver: subprocess.Popen[str]) -> None:
    replace_node(cluster)


def replace_node(cluster: TwoNodes) -> None:
    """Kill the second node and bring another one, as an autoscaler does."""
    os.kill((cluster.extra or [cluster.second])[-1].raylet_pid, signal.SIGKILL)
    cluster.wait(1)
    cluster.add_node(1)


def kill_driver(cluster: TwoNodes, driver: subprocess.Popen[str]) -> None:
    driver.kill()


@pytest.mark.parametrize("attempt", [1, 2, 3])
@pytest.mark.parametrize("kill", [kill_worker, kill_node, kill_driver])
def test_what_is_killed_changes_nothing_in_the_weights(
    kill: Callable[[TwoNodes, subprocess.Popen[str]], None],
    attempt: int,
    dataset: Dataset,
    cluster: TwoNodes,
    undisturbed: bytes,
    tmp_path: Path,
) -> None:
    moment = random.Random(f"{kill.__name__} {attempt}").randrange(45, STEPS - 100)
    disturb, done = once(moment, lambda driver: kill(cluster, driver))
    path = run_file(dataset.uri, tmp_path)
    code, output = train(path, cluster.environment, disturb)
    if kill is kill_driver:
        assert code == -signal.SIGKILL
        code, output = train(path, cluster.environment)
    assert code == 0, output
    assert done
    assert "continuing from" in output
    require_whole(tmp_path, undisturbed)
    who = {kill_worker: "a worker", kill_node: "a node (its raylet)", kill_driver: "the driver"}[kill]
    how = "the same command continues" if kill is kill_driver else "the run goes on by itself"
    note(f"{who} is killed", f"{how}: {SAME}", f"so it was, killed at step {done[0]}")


def test_the_head_is_killed_and_another_cluster_continues(
    dataset: Dataset, cluster: TwoNodes, undisturbed: bytes, tmp_path: Path
) -> None:
    path = run_file(dataset.uri, tmp_path)
    with two_node_cluster(head_cpus=1, second_cpus=1, env={"RAY_gcs_rpc_server_reconnect_timeout_s": "5"}) as lost:

        def kill_head(driver: subprocess.Popen[str]) -> None:
            for process in lost.head.processes():
                process.kill()

        disturb, done = once(150, kill_head)
        started = time.monotonic()
        code, output = train(path, lost.environment, disturb)
        seconds = time.monotonic() - started
    assert done
    assert code not in (0, None), output
    code, output = train(path, cluster.environment)
    assert code == 0, output
    assert f"continuing from {tmp_path}/run/checkpoint-" in output
    require_whole(tmp_path, undisturbed)
    note(
        "the head is killed, and with it the cluster",
        f"the command ends in error by itself; on another cluster it continues: {SAME}",
        f"so it was, killed at step {done[0]}; the command ended {seconds:.0f} s after its start",
    )


def test_sigterm_ends_a_run_within_the_grace_period_and_it_continues(
    dataset: Dataset, cluster: TwoNodes, undisturbed: bytes, tmp_path: Path
) -> None:
    told: list[float] = []

    def terminate(driver: subprocess.Popen[str]) -> None:
        told.append(time.monotonic())
        driver.terminate()

    disturb, done = once(150, terminate)
    path = run_file(dataset.uri, tmp_path)
    code, output = train(path, cluster.environment, disturb)
    seconds = time.monotonic() - told[0]
    assert code == 143, output
    assert seconds < GRACE_SECONDS
    assert not workers_of(cluster)
    code, output = train(path, cluster.environment)
    assert code == 0, output
    require_whole(tmp_path, undisturbed)
    note(
        "SIGTERM to the driver, as a preempted pod or `scancel` gets",
        f"it ends within {GRACE_SECONDS:.0f} s, with code 143 and no worker left; the same command continues: {SAME}",
        f"told at step {done[0]}, it ended {seconds:.0f} s later; continued, {SAME}",
    )


@contextmanager
def memory_group(megabytes: int) -> Iterator[Path]:
    """A control group of the kernel's whose processes may use so much more memory, then one of them is killed."""
    group = Path(f"/sys/fs/cgroup/memory/chaos-{os.getpid()}")
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(megabytes << 20))
    except OSError as error:
        pytest.skip(f"no memory control group (version 1) can be made here: {error}")
    try:
        yield group
    finally:
        group.rmdir()


def test_the_kernel_kills_a_worker_that_runs_out_of_memory(
    dataset: Dataset, cluster: TwoNodes, undisturbed: bytes, tmp_path: Path
) -> None:
    with memory_group(1) as group:

        def starve(driver: subprocess.Popen[str]) -> None:
            victim = random.choice(workers_of(cluster))
            (group / "cgroup.procs").write_text(str(victim.pid))

        disturb, done = once(130, starve)
        path = run_file(dataset.uri, tmp_path)
        code, output = train(path, cluster.environment, disturb)
        killed = int((group / "memory.failcnt").read_text())
    assert code == 0, output
    assert done
    assert killed > 0
    assert "continuing from" in output
    require_whole(tmp_path, undisturbed)
    note(
        "the kernel kills a worker for its memory",
        f"the run goes on by itself: {SAME}",
        f"so it was, starved from step {done[0]} on",
    )


def test_a_run_shrinks_and_grows_with_the_cluster_and_keeps_its_batches(
    dataset: Dataset, cluster: TwoNodes, tmp_path: Path
) -> None:
    for name in ("alone", "disturbed"):
        (tmp_path / name).mkdir()
    code, output = train(run_file(dataset.uri, tmp_path / "alone", model=SLOW_MODEL), cluster.environment)
    assert code == 0, output
    killed: list[int] = []

    def shrink(step: int, driver: subprocess.Popen[str]) -> None:
        if step >= 60 and not killed:
            killed.append(step)
            os.kill((cluster.extra or [cluster.second])[-1].raylet_pid, signal.SIGKILL)
            cluster.wait(1)

    def grow(line: str) -> None:
        if "with 1 workers, it was 2" in line:
            cluster.add_node(1)

    path = run_file(dataset.uri, tmp_path / "disturbed", model=SLOW_MODEL, workers=[1, 2])
    code, output = train(path, cluster.environment, shrink, grow)
    assert code == 0, output
    assert "with 1 workers, it was 2" in output, output
    assert "with 2 workers, it was 1" in output, output
    expected, found = load(weights(tmp_path / "alone")), load(weights(tmp_path / "disturbed"))
    for name, tensor in expected.items():  # other batches would differ by far more than rounding on other ranks
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-4)
    note(
        "a node is lost for good, another one comes later",
        "with `workers = [1, 2]` the run goes on with one worker, then with two: the weights to rounding",
        f"so it was, lost at step {killed[0]}",
    )


def drain_second_node(cluster: TwoNodes) -> None:
    """What a cloud's notice of preemption becomes: the node is gone in some seconds."""
    nodes = cluster.ask("/nodes?view=summary")["data"]["summary"]
    (node,) = [n for n in nodes if n["raylet"].get("state") == "ALIVE" and not n["raylet"].get("isHeadNode")]
    drain = ["drain-node", "--address", cluster.address, "--node-id", node["raylet"]["nodeId"]]
    reason = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
    command = [sys.executable, "-m", "ray.scripts.scripts", *drain, *reason, "--deadline-remaining-seconds", "60"]
    subprocess.run(command, env=cluster.environment, check=True, capture_output=True)


def test_a_node_that_is_taken_away_with_notice_makes_the_run_save_first(
    dataset: Dataset, cluster: TwoNodes, undisturbed: bytes, tmp_path: Path
) -> None:
    done, whole = list[int](), list[bool]()

    def disturb(step: int, driver: subprocess.Popen[str]) -> None:
        if step >= 60 and not done:
            done.append(step)
            drain_second_node(cluster)

    def lose(line: str) -> None:
        if found := re.search(r"is being taken away: saving step (\d+)", line):
            saving = tmp_path / "run" / f"checkpoint-{int(found.group(1)):08d}-001"
            until = time.monotonic() + 60
            while problem(saving) is not None and time.monotonic() < until:  # the notice said 60 seconds
                time.sleep(0.2)
            whole.append(problem(saving) is None)
            replace_node(cluster)

    path = run_file(dataset.uri, tmp_path)
    code, output = train(path, cluster.environment, disturb, lose)
    assert code == 0, output
    saved = re.search(r"is being taken away: saving step (\d+)", output)
    assert saved, output
    assert whole == [True]
    again = [int(step) for step in re.findall(r"continuing from \S+ at step (\d+)", output)]
    assert again
    assert again[0] >= int(saved.group(1))  # a fast machine is at its next checkpoint before the node is gone
    require_whole(tmp_path, undisturbed)
    note(
        "a node is taken away with notice",
        f"all ranks save first, and the run goes on from there or a later checkpoint: {SAME}",
        f"so it was: told at step {done[0]}, saved at step {saved.group(1)}, continued from step {again[0]}",
    )
