"""A store that is away, a network between two nodes that is cut, and clocks that jump."""

import os
import platform
import shutil
import struct
import subprocess
import time
from pathlib import Path

import pytest

from dynfusion.edges.datasets import upload
from dynfusion.edges.s3_storage import open_storage
from dynfusion.store.dataset import Dataset
from tests.chaos.ledger import note
from tests.chaos.namespaces import two_namespaces
from tests.chaos.runs import once, require_whole, run_file, train
from tests.clusters import two_node_cluster
from tests.s3 import FaultProxy, make_bucket

pytestmark = pytest.mark.slow

SAME = "the weights of an undisturbed run, each record once"
OUTAGE_SECONDS = 20.0
FATAL_SECONDS = 5.0
"""Of silence: then a node counts as dead."""
FASTER = {
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_failure_threshold": "4",
    "RAY_health_check_timeout_ms": "1000",
    "GLOO_SOCKET_IFNAME": "eth0",
}


def test_a_store_that_is_away_for_a_while_holds_a_run_up_and_changes_nothing(
    dataset: Dataset, undisturbed: bytes, s3: str, tmp_path: Path
) -> None:
    make_bucket(s3, "chaos-outage")
    upload(Path(dataset.uri), f"s3://chaos-outage/set?endpoint_override={s3}")
    until: list[float] = []

    def fault(method: str, path: str, count: int) -> str | None:
        return "reset" if until and time.monotonic() < until[0] else None

    with FaultProxy(s3, fault) as proxy:
        uri, storage = (f"s3://chaos-outage/{name}?endpoint_override={proxy.endpoint}" for name in ("set", "runs"))
        disturb, done = once(150, lambda driver: until.append(time.monotonic() + OUTAGE_SECONDS))
        alone = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        code, output = train(run_file(uri, tmp_path, storage=storage), alone, disturb)
        assert code == 0, output
        assert done
        assert proxy.done
    store = open_storage(f"s3://chaos-outage/runs/run?endpoint_override={s3}")
    for name in ("model/model.safetensors", "history.jsonl"):
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).write_bytes(store.read(name))
    require_whole(tmp_path, undisturbed)
    note(
        f"the store resets every connection for {OUTAGE_SECONDS:.0f} s",
        f"requests are tried again, the run goes on by itself: {SAME}",
        f"so it was, away from step {done[0]} on, {len(proxy.done)} requests refused",
    )


@pytest.mark.parametrize(("seconds", "what"), [(1.0, "for a second"), (15.0, "until the node counts as dead")])
def test_a_network_that_is_cut_between_two_nodes(
    seconds: float, what: str, dataset: Dataset, undisturbed: bytes, tmp_path: Path
) -> None:
    with (
        two_namespaces() as (first, second),
        two_node_cluster(head_cpus=1, second_cpus=1, env=FASTER, places=(first, second)) as cluster,
    ):

        def cut(driver: subprocess.Popen[str]) -> None:
            second.link("down")
            time.sleep(seconds)
            if seconds > FATAL_SECONDS:
                cluster.wait(1)
            second.link("up")
            if seconds > FATAL_SECONDS:
                cluster.add_node(1, place=second)

        disturb, done = once(150, cut)
        code, output = train(run_file(dataset.uri, tmp_path), cluster.environment, disturb, before=first.enter)
    assert code == 0, output
    assert done
    require_whole(tmp_path, undisturbed)
    again = "continuing from" in output
    note(
        f"the network between two nodes is cut {what}",
        f"the run goes on by itself, with another node where this one counts as dead: {SAME}",
        f"so it was, cut at step {done[0]} for {seconds:.0f} s" + ("; all workers began again" if again else ""),
    )


@pytest.fixture
def clock(tmp_path: Path) -> Path:
    """A library that moves the wall clock of whoever loads it."""
    library = tmp_path / "clock.so"
    compiler = shutil.which("cc")
    if compiler is None or platform.system() != "Linux":
        pytest.skip("no C compiler for the library that moves clocks")
    source = Path(__file__).with_name("clock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(source), "-ldl"], check=True)
    return library


def test_clocks_that_jump_change_nothing(dataset: Dataset, undisturbed: bytes, tmp_path: Path, clock: Path) -> None:
    seconds = tmp_path / "seconds"
    seconds.write_bytes(struct.pack("q", 0))
    left = [(100, 2 * 3600), (200, -3600)]

    def disturb(step: int, driver: subprocess.Popen[str]) -> None:
        if left and step >= left[0][0]:
            with seconds.open("r+b") as file:  # in place: every process of the cluster has it mapped
                file.write(struct.pack("q", left.pop(0)[1]))

    moved = {"LD_PRELOAD": str(clock), "CHAOS_CLOCK": str(seconds)}
    with two_node_cluster(head_cpus=1, second_cpus=1, env=moved) as cluster:
        code, output = train(run_file(dataset.uri, tmp_path), cluster.environment, disturb)
    assert code == 0, output
    assert not left
    require_whole(tmp_path, undisturbed)
    note(
        "the clocks of all nodes jump two hours ahead, then three back",
        f"nothing depends on them: {SAME}",
        "so it was, at steps 100 and 200",
    )
