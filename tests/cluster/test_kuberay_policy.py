"""What the manifests promise beside being valid: who may do what, who reaches whom, what is bounded."""

import json
import re
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from dynfusion.edges.job_package import check_open
from tests.cluster.kustomize import build, documents
from tests.cluster.manifests import (
    APPLIED,
    FILES,
    JOBS,
    KUBERAY,
    QUEUED,
    ROOT,
    built,
    clusters,
    one,
    pods,
    settings,
    volumes,
)

UNITS = {"": 1, "m": 1e-3, "Mi": 2**20, "Gi": 2**30}
CLUSTERS = [pytest.param(cluster, id=folder) for folder, cluster in clusters()]
PODS = [pytest.param(pod, id=where) for where, pod in pods()]


def amount(quantity: str) -> float:
    """Of Kubernetes, as a number."""
    number, unit = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", quantity).groups()  # type: ignore[union-attr]
    return float(number) * UNITS[unit]


def test_every_folder_that_is_applied_is_tested_and_every_file_is_in_one() -> None:
    folders = {str(path.parent.relative_to(KUBERAY)) for path in FILES if path.name == "kustomization.yaml"}
    components = {"components/like-cluster", "components/keep-work", "overlays/kueue/queued"}
    assert folders == {*APPLIED, *components}
    named = set()
    for path in FILES:
        if path.name == "kustomization.yaml":
            (said,) = documents(path.read_text())
            named |= {(path.parent / name).resolve() for name in said.get("resources", [])}
    assert {path for path in FILES if path.name != "kustomization.yaml"} <= named


@pytest.mark.parametrize("pod", PODS)
def test_a_pod_has_no_rights_on_its_node(pod: dict[str, Any]) -> None:
    security = pod["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] >= 1000
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC", "hostUsers"} & pod.keys()
    assert all({"emptyDir", "persistentVolumeClaim"} & volume.keys() for volume in pod["volumes"])
    for container in pod["containers"]:
        unprivileged(container["securityContext"])


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_the_autoscaler_has_no_rights_on_its_node_either(cluster: dict[str, Any]) -> None:
    assert cluster["enableInTreeAutoscaling"] == ("autoscalerOptions" in cluster)
    if cluster["enableInTreeAutoscaling"]:
        unprivileged(cluster["autoscalerOptions"]["securityContext"])
        assert cluster["autoscalerOptions"]["resources"]["limits"].keys() >= {"cpu", "memory"}


def unprivileged(security: dict[str, Any]) -> None:
    assert security == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


@pytest.mark.parametrize("pod", PODS)
def test_every_container_asks_for_what_it_needs_and_has_limits(pod: dict[str, Any]) -> None:
    for container in pod["containers"]:
        requests, limits = container["resources"]["requests"], container["resources"]["limits"]
        assert requests.keys() == limits.keys() >= {"cpu", "memory"}
        assert all(0 < amount(requests[name]) <= amount(limits[name]) for name in limits)


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_volumes_fit_into_what_the_pod_may_use(cluster: dict[str, Any]) -> None:
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        limits = pod["containers"][0]["resources"]["limits"]
        mounted = volumes(pod)
        shared = amount(mounted["/dev/shm"]["emptyDir"]["sizeLimit"])
        assert mounted["/dev/shm"]["emptyDir"]["medium"] == "Memory"
        assert int(group["rayStartParams"]["object-store-memory"]) < shared <= amount(limits["memory"]) / 2
        disks = [volume["emptyDir"] for volume in mounted.values() if "emptyDir" in volume]
        on_disk = sum(amount(disk["sizeLimit"]) for disk in disks if "medium" not in disk)
        assert on_disk < amount(limits["ephemeral-storage"])


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_the_head_stays_and_does_no_work_and_workers_are_spot_nodes_that_come_when_asked_for(
    cluster: dict[str, Any],
) -> None:
    head, groups = cluster["headGroupSpec"], {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert head["template"]["spec"]["nodeSelector"] == {"karpenter.sh/capacity-type": "on-demand"}
    assert groups.keys() == {"gpu", "cpu"}
    for name, group in groups.items():
        pod = group["template"]["spec"]
        assert pod["nodeSelector"] == {"karpenter.sh/capacity-type": "spot"}
        tolerated = {toleration["key"] for toleration in pod["tolerations"]}
        assert tolerated == {"karpenter.sh/capacity-type"} | ({"nvidia.com/gpu"} if name == "gpu" else set())
        assert ("nvidia.com/gpu" in pod["containers"][0]["resources"]["limits"]) == (name == "gpu")
        assert pod["terminationGracePeriodSeconds"] < 120
        assert 0 == group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        assert settings()["DYNFUSION_CACHE"] in volumes(pod)


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_a_cluster_wants_a_token_and_is_not_reached_from_outside(cluster: dict[str, Any]) -> None:
    assert cluster["authOptions"] == {"mode": "token"}
    head = cluster["headGroupSpec"]
    assert head["serviceType"] == "ClusterIP"
    assert not {"enableIngress", "ingressOptions", "headService"} & head.keys()


def test_nothing_opens_a_way_in_from_outside() -> None:
    kinds = {made["kind"] for folder in APPLIED for made in built(folder)}
    expected = {"Namespace", "ServiceAccount", "NetworkPolicy", "ConfigMap", "PersistentVolumeClaim"}
    assert kinds == expected | {"RayCluster", "RayJob", "Pod", "LocalQueue"}
    assert one("base", "Namespace")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_only_ray_pods_and_the_operator_reach_a_ray_pod() -> None:
    everything = one("base", "NetworkPolicy", "nothing-in")["spec"]
    assert everything == {"podSelector": {}, "policyTypes": ["Ingress"]}
    policy = one("base", "NetworkPolicy", "ray")["spec"]
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    own, operator = policy["ingress"]
    assert own == {"from": [{"podSelector": policy["podSelector"]}]}
    assert operator["ports"] == [{"port": 8265, "protocol": "TCP"}]
    assert [source.keys() for source in operator["from"]] == [{"namespaceSelector", "podSelector"}]
    for _, cluster in clusters():
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            labels = group["template"]["metadata"]["labels"]
            assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    (outside,) = (rule for rule in policy["egress"] if "ipBlock" in rule["to"][0])
    assert outside["to"][0]["ipBlock"]["except"] == ["169.254.169.254/32"]


def test_head_and_workers_have_accounts_of_their_own_with_the_same_role() -> None:
    accounts = {made["metadata"]["name"]: made for made in built("base") if made["kind"] == "ServiceAccount"}
    assert len({json.dumps(account["metadata"]["annotations"]) for account in accounts.values()}) == 1
    for _, cluster in clusters():
        assert cluster["headGroupSpec"]["template"]["spec"]["serviceAccountName"] == "dynfusion-head"
        for group in cluster["workerGroupSpecs"]:
            pod = group["template"]["spec"]
            assert (pod["serviceAccountName"], pod["automountServiceAccountToken"]) == ("dynfusion-worker", False)
    assert accounts.keys() == {"dynfusion-head", "dynfusion-worker"}


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_every_ray_container_takes_the_settings_and_an_optional_secret(cluster: dict[str, Any]) -> None:
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        (container,) = group["template"]["spec"]["containers"]
        assert container["envFrom"] == [
            {"configMapRef": {"name": one("base", "ConfigMap")["metadata"]["name"]}},
            {"secretRef": {"name": "dynfusion-s3", "optional": True}},
        ]
        assert "env" not in container


def open_secrets(spec: dict[str, Any]) -> Iterator[str]:
    """Why a job would show a secret to everybody who reaches the dashboard."""
    runtime = yaml.safe_load(spec.get("runtimeEnvYAML", "{}"))
    variables = {str(name): str(value) for name, value in runtime.get("env_vars", {}).items()}
    try:
        check_open(variables, [spec["entrypoint"], json.dumps(runtime), json.dumps(spec.get("metadata", {}))])
    except ValueError as error:
        yield str(error)


def test_no_secret_is_in_a_command_a_runtime_environment_or_the_settings() -> None:
    for folder in (*JOBS, *QUEUED):
        assert list(open_secrets(one(folder, "RayJob")["spec"])) == []
    check_open(settings(), [])
    assert not any(made["kind"] == "Secret" for path in FILES for made in documents(path.read_text()))


@pytest.mark.parametrize(
    "planted",
    [
        {"runtimeEnvYAML": "env_vars: {AWS_SECRET_ACCESS_KEY: x}"},
        {"runtimeEnvYAML": "env_vars:\n  WANDB_API_KEY: x"},
        {"runtimeEnvYAML": "pip: ['https://user:word@example.com/a.whl']"},
        {"metadata": {"by": "AKIAABCDEFGHIJKLMNOP"}},
    ],
)
def test_a_secret_that_is_planted_is_found(planted: dict[str, Any]) -> None:
    (job,) = build(KUBERAY / "train")
    job["spec"].update(planted)
    assert len(list(open_secrets(job["spec"]))) == 1


def test_versions_are_those_that_were_tested_together() -> None:
    pinned = dict(re.findall(r"^([A-Za-z0-9_.-]+)==(.+)$", (ROOT / "constraints.txt").read_text(), re.M))
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert {cluster["rayVersion"] for _, cluster in clusters()} == {pinned["ray"]}
    images = {container["image"] for _, pod in pods() for container in pod["containers"]}
    assert images == {f"registry.example.com/dynfusion:{version}-gpu"}
