"""Training on two nodes while workers, nodes and drivers are killed: the weights of a run that nobody disturbed."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from dynfusion.fusion.model import ModelSettings
from dynfusion.run_settings import RunSettings
from dynfusion.settings import build, to_toml
from dynfusion.store.dataset import Dataset
from dynfusion.training.checkpoint import problem
from tests.clusters import TwoNodes, two_node_cluster
from tests.datasets import packed
from tests.training.cases import MASKING, MODEL

pytestmark = pytest.mark.slow

TRAIN = {"epochs": 80, "global_batch_rows": 128, "log_every_steps": 5, "checkpoint_every_steps": 40}
STEPS = 400
SLOW_MODEL = MODEL.model_copy(update={"dim": 1024, "decoder_hidden": 2048})
"""Some 0.1 s a step: a node that joins has time to be noticed before the run is over."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[TwoNodes]:
    with two_node_cluster(head_cpus=1, second_cpus=1, env={"RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.5"}) as made:
        yield made


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return packed(tmp_path_factory.mktemp("data"))


def run_file(dataset: Dataset, folder: Path, *, model: ModelSettings = MODEL, **cluster: object) -> Path:
    settings = {
        "data": {"uri": dataset.uri},
        "model": model.model_dump(),
        "masking": MASKING.model_dump(),
        "train": TRAIN,
        "cluster": {"name": "run", "storage": str(folder), "workers": 2, "resize_seconds": 2.0, **cluster},
    }
    path = folder / "run.toml"
    path.write_text(to_toml(build(RunSettings, settings)))
    return path


def train(
    path: Path,
    cluster: TwoNodes,
    disturb: Callable[[int, subprocess.Popen[str]], None],
    heard: Callable[[str], None] = lambda line: None,
) -> tuple[int, str]:
    """(exit code, output) of the command; `disturb` gets every step that it prints, `heard` every line."""
    command = [sys.executable, "-m", "dynfusion", "train", str(path)]
    lines = []
    with subprocess.Popen(
        command, env=cluster.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as driver:
        assert driver.stdout is not None
        for line in driver.stdout:
            lines.append(line)
            heard(line)
            found = re.match(r"step (\d+)/", line)
            if found:
                disturb(int(found.group(1)), driver)
    return driver.returncode, "".join(lines)


def nothing(step: int, driver: subprocess.Popen[str]) -> None:
    """Leave it alone."""


def weights(folder: Path) -> bytes:
    return (folder / "run" / "model" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def undisturbed(dataset: Dataset, cluster: TwoNodes, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("undisturbed")
    code, output = train(run_file(dataset, folder), cluster, nothing)
    assert code == 0, output
    return weights(folder)


def kill_worker(cluster: TwoNodes, driver: subprocess.Popen[str]) -> None:
    nodes = (cluster.head, cluster.second, *cluster.extra)
    workers = [p for node in nodes for p in node.processes() if p.name().startswith("ray::RayTrainWorker")]
    os.kill(random.choice(workers).pid, signal.SIGKILL)


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
    done: list[int] = []

    def disturb(step: int, driver: subprocess.Popen[str]) -> None:
        if step >= moment and not done:
            done.append(step)
            kill(cluster, driver)

    path = run_file(dataset, tmp_path)
    code, output = train(path, cluster, disturb)
    if kill is kill_driver:
        assert code == -signal.SIGKILL
        code, output = train(path, cluster, nothing)
    assert code == 0, output
    assert done
    assert "continuing from" in output
    assert weights(tmp_path) == undisturbed
    print(f"{kill.__name__} at step {done[0]}: weights equal")


def test_a_run_shrinks_and_grows_with_the_cluster_and_keeps_its_batches(
    dataset: Dataset, cluster: TwoNodes, tmp_path: Path
) -> None:
    for name in ("alone", "disturbed"):
        (tmp_path / name).mkdir()
    code, output = train(run_file(dataset, tmp_path / "alone", model=SLOW_MODEL), cluster, nothing)
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

    path = run_file(dataset, tmp_path / "disturbed", model=SLOW_MODEL, workers=[1, 2])
    code, output = train(path, cluster, shrink, grow)
    assert code == 0, output
    assert "with 1 workers, it was 2" in output, output
    assert "with 2 workers, it was 1" in output, output
    expected, found = load(weights(tmp_path / "alone")), load(weights(tmp_path / "disturbed"))
    for name, tensor in expected.items():  # other batches would differ by far more than rounding on other ranks
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-4)


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
    done: list[int] = []

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
            replace_node(cluster)

    path = run_file(dataset, tmp_path)
    code, output = train(path, cluster, disturb, lose)
    assert code == 0, output
    saved = re.search(r"is being taken away: saving step (\d+)", output)
    assert saved, output
    assert f"continuing from {tmp_path}/run/checkpoint-{int(saved.group(1)):08d}-001 at step {saved.group(1)}" in output
    assert weights(tmp_path) == undisturbed
