"""What the checks say of observations that this machine cannot make: GPUs, nodes of other versions, clocks apart."""

from dataclasses import replace

import pytest

from dynfusion.preflight.checks import CHECKS, diagnose
from dynfusion.preflight.finding import Finding
from dynfusion.preflight.observations import (
    Cluster,
    Data,
    Gpu,
    Gpus,
    Machine,
    Node,
    Observations,
    Requirement,
    Space,
    Storage,
    TakenPort,
    TokenFile,
)

GIB = 1 << 30
H200 = Gpu(name="NVIDIA H200", memory_bytes=140 * GIB, used_bytes=0, driver="575.57")
HERE = Machine(
    python="3.11.7",
    packages={"ray": "2.60.0", "torch": "2.13.0", "numpy": "2.4.6", "rich": "15.0.0"},
    code="0123456789abcdef",
    torch_cuda="13.0",
    memory_bytes=64 * GIB,
    object_store_bytes=19 * GIB,
    shm_bytes=32 * GIB,
    files_limit=65536,
    spaces=(Space("Ray's sessions", "/tmp/ray", 500 * GIB, 900 * GIB),),
)
NODE = Node(name="b", alive=True, machine=replace(HERE, name="b"), offset_seconds=0.1, error_seconds=0.05)
CLUSTER = Cluster(
    address="10.0.0.1:6379",
    looked_inside=True,
    outside=True,
    nodes=(replace(NODE, name="a", machine=replace(HERE, name="a")), NODE),
    dashboard="http://10.0.0.1:8265",
    authentication="token",
    state_api_asked=True,
)


def found(seen: Observations, name: str) -> Finding:
    """What the check of this name says."""
    return next(finding for finding in diagnose(seen) if finding.name == name)


def with_node(**changes: object) -> Observations:
    """The cluster, its second node changed."""
    return Observations(HERE, cluster=replace(CLUSTER, nodes=(CLUSTER.nodes[0], replace(NODE, **changes))))


def of_machine(**changes: object) -> Observations:
    return Observations(replace(HERE, **changes))


def test_a_sound_cluster_has_no_cures() -> None:
    seen = Observations(HERE, cluster=CLUSTER, requirements=(Requirement("torch", "<2.14,>=2.11", "dynfusion"),))
    findings = diagnose(seen)
    assert {finding.state for finding in findings} == {"ok"}
    assert not any(finding.cure for finding in findings)
    assert len({finding.name for finding in findings}) == len(findings) == 14


def test_every_check_says_nothing_where_nothing_was_seen() -> None:
    assert [finding for check in CHECKS if (finding := check(Observations(Machine()))) is not None] == []


@pytest.mark.parametrize(
    ("seen", "name", "state", "told", "cure"),
    [
        (of_machine(python="3.10.4"), "Python", "failed", "3.10.4", "Python 3.11"),
        (of_machine(shm_bytes=64 << 20), "shared memory", "warning", "/dev/shm has 64.0 MiB", "--shm-size=21g"),
        (of_machine(shm_bytes=64 << 20, gpus=(H200, H200)), "shared memory", "failed", "64.0 MiB", "--shm-size"),
        (of_machine(files_limit=4096), "open files", "warning", "4096", "ulimit -n 65536"),
        (of_machine(gpu_problem="nvidia-smi fails: no driver"), "GPUs", "failed", "no driver", "NVIDIA driver"),
        (of_machine(gpus=(H200,), torch_cuda=None), "torch build", "failed", "build for CPUs", "CUDA build"),
        (
            of_machine(gpus=(H200,), driver_cuda="12.8"),
            "torch build",
            "failed",
            "CUDA 12.8",
            "update the NVIDIA driver",
        ),
        (of_machine(gpus=(replace(H200, used_bytes=100 * GIB),)), "GPUs", "warning", "100.0 GiB", "nvidia-smi"),
        (of_machine(unanswered="no answer within 9 s"), "this machine", "failed", "no answer", "dmesg"),
        (
            of_machine(spaces=(Space("Ray's sessions", "/tmp/ray", 40 * GIB, 1000 * GIB),)),
            "disk",
            "failed",
            "40.0 GiB free",
            "RAY_TMPDIR",
        ),
        (
            of_machine(spaces=(Space("scratch files", "/scratch", 4 * GIB, 50 * GIB),)),
            "disk",
            "warning",
            "/scratch",
            "TMPDIR",
        ),
        (
            of_machine(spaces=(Space("cache of shards", "/sys/x", 0, 0),)),
            "disk",
            "failed",
            "no disk can hold /sys/x (cache of shards)",
            "a folder that can be made",
        ),
        (
            of_machine(taken_ports=(TakenPort(8265, "dashboard", True),)),
            "ports",
            "warning",
            "8265 (dashboard) is in use by a Ray cluster",
            "RAY_ADDRESS=",
        ),
        (
            Observations(replace(HERE, gpus=(H200, H200)), gpus=Gpus(count=2, problem="rank 1: no route")),
            "NCCL",
            "failed",
            "rank 1: no route",
            "NCCL_DEBUG=INFO",
        ),
        (
            Observations(HERE, cluster=replace(CLUSTER, gpus=Gpus(count=8, busy=True))),
            "NCCL",
            "warning",
            "all 8 GPUs",
            "when some are free",
        ),
        (
            Observations(HERE, cluster=replace(CLUSTER, authentication="disabled")),
            "authentication",
            "failed",
            "can be reached by other machines",
            "ray get-auth-token --generate",
        ),
        (
            Observations(HERE, cluster=replace(CLUSTER, authentication="disabled", outside=False)),
            "authentication",
            "warning",
            "this machine alone",
            "RAY_AUTH_MODE=token",
        ),
        (
            Observations(HERE, cluster=replace(CLUSTER, unanswered="no answer within 40 s, while it was joined")),
            "cluster",
            "failed",
            "while it was joined",
            "the cluster's token as RAY_AUTH_TOKEN",
        ),
        (
            Observations(HERE, cluster=replace(CLUSTER, unanswered="no answer within 40 s, while it was connected to")),
            "cluster",
            "failed",
            "while it was connected to",
            "a node or the head hangs",
        ),
        (
            Observations(HERE, cluster=replace(CLUSTER, problem="Ray at http://h:8265: the token was refused")),
            "cluster",
            "failed",
            "the token was refused",
            "RAY_AUTH_TOKEN wins over every file: unset it",
        ),
        (
            Observations(HERE, cluster=replace(CLUSTER, problem="the token file cannot be opened or is empty")),
            "cluster",
            "failed",
            "cannot be opened",
            "unset it and RAY_ADDRESS",
        ),
        (
            Observations(HERE, cluster=replace(CLUSTER, problem="port 6379 of h: Connection refused")),
            "cluster",
            "failed",
            "Connection refused",
            "unset RAY_ADDRESS",
        ),
        (with_node(offset_seconds=-700.0), "clocks", "failed", "b differs from this machine by 700 s", "NTP"),
        (with_node(offset_seconds=5.0), "clocks", "warning", "5 s", "NTP"),
        (with_node(problem="no answer within 25 s, asked what it is"), "nodes", "failed", "b: no answer", "drain it"),
        (with_node(gpus=2.0), "nodes", "failed", "Ray counts 2 GPUs, the driver shows 0", "session_latest"),
        (
            with_node(unreachable={"GCS": "port 6379 of 10.0.0.1: Connection refused"}),
            "node ports",
            "failed",
            "b -> GCS",
            "security group",
        ),
        (
            with_node(machine=replace(HERE, name="b", packages={**HERE.packages, "torch": "2.12.1"})),
            "versions",
            "failed",
            "b: torch 2.12.1, here 2.13.0",
            "one image",
        ),
        (
            with_node(machine=replace(HERE, name="b", packages={**HERE.packages, "rich": "14.0.0"})),
            "versions",
            "warning",
            "b: rich 14.0.0, here 15.0.0",
            "constraints.txt",
        ),
        (
            with_node(machine=replace(HERE, name="b", code=None)),
            "versions",
            "failed",
            "b: dynfusion's code is not there",
            "one image",
        ),
        (
            with_node(machine=replace(HERE, name="b", python="3.11.9")),
            "versions",
            "failed",
            "b: Python 3.11.9, here 3.11.7",
            "one image",
        ),
        (
            with_node(machine=replace(HERE, name="b", files_limit=256)),
            "open files",
            "failed",
            "b: a process may open 256 files",
            "ulimit -n",
        ),
    ],
)
def test_a_fault_is_named_with_its_cure(seen: Observations, name: str, state: str, told: str, cure: str) -> None:
    finding = found(seen, name)
    assert finding.state == state
    assert told in finding.found
    assert cure in finding.cure


def test_only_the_machines_that_are_worst_are_named() -> None:
    short = replace(HERE, name="b", files_limit=2048)
    assert found(with_node(machine=short), "open files").found == "b: a process may open 2048 files, Ray wants 8192"
    both = replace(CLUSTER, nodes=(replace(NODE, machine=short), replace(NODE, name="c", machine=short)))
    assert found(Observations(HERE, cluster=both), "open files").found.endswith("Ray wants 8192, on each of 2 nodes")


def test_a_requirement_that_is_not_met_on_a_node_is_named_with_what_to_install() -> None:
    wanted = (Requirement("torch", "<2.14,>=2.11", "dynfusion"), Requirement("aiohttp_cors", "", "ray[default]"))
    here = replace(HERE, packages={**HERE.packages, "aiohttp_cors": "0.8.1"})
    old = replace(HERE, name="b", packages={**here.packages, "torch": "2.9.0"})
    seen = Observations(here, requirements=wanted, cluster=replace(CLUSTER, nodes=(replace(NODE, machine=old),)))
    finding = found(seen, "packages")
    assert finding.found == "b: torch is 2.9.0, dynfusion needs <2.14,>=2.11"
    assert finding.cure == "python -m pip install 'torch<2.14,>=2.11'"
    missing = found(Observations(HERE, requirements=wanted), "packages")
    assert missing.found == "aiohttp_cors is not installed, ray[default] needs it"


@pytest.mark.parametrize(
    ("changes", "of_cluster", "state"),
    [
        ({"mode": 0o600}, True, "ok"),
        ({"mode": 0o644, "reachable": False}, True, "ok"),
        ({"mode": 0o644}, True, "failed"),
        ({"mode": 0o644}, False, "warning"),
        ({"mode": 0o640, "needed": True}, False, "failed"),
        ({"mode": 0o600, "owned": False}, True, "failed"),
        ({"there": False, "named": True}, False, "failed"),
    ],
)
def test_a_token_counts_as_open_where_others_can_come_to_it(
    changes: dict[str, object], of_cluster: bool, state: str
) -> None:
    token = replace(TokenFile("/home/me/.ray/auth_token", there=True, named=False, reachable=True), **changes)
    seen = Observations(replace(HERE, token=token), cluster=CLUSTER if of_cluster else None)
    assert found(seen, "token file").state == state


def test_nodes_with_other_data_or_another_disk_are_named() -> None:
    data, storage = Data(uri="/data", fingerprint="aa", rows=9, files=3), Storage(uri="/runs", problems={"write": None})
    node = replace(NODE, data=replace(data, fingerprint="bb"), storage=storage, sees_marker=False)
    seen = Observations(HERE, cluster=replace(CLUSTER, nodes=(node,)), data=data, storage=storage)
    assert found(seen, "data on nodes").found == "b: fingerprint bb, here aa"
    apart = found(seen, "storage on nodes")
    assert (apart.state, apart.found) == ("failed", "b: another folder than this machine's /runs")
    assert "s3:// address" in apart.cure
    right = replace(node, data=data, sees_marker=True)
    seen = replace(seen, cluster=replace(CLUSTER, nodes=(right,)))
    assert {found(seen, name).state for name in ("data on nodes", "storage on nodes")} == {"ok"}
