"""The manifests of `cluster/kuberay`: as they lie there, and as kustomize puts them together."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from tests.cluster.kustomize import build, documents

ROOT = Path(__file__).parents[2]
KUBERAY = ROOT / "cluster" / "kuberay"
FILES = sorted(KUBERAY.rglob("*.yaml"))
JOBS = ("pack", "pack-task", "train", "tune", "evaluate")
QUEUED = tuple(f"overlays/kueue/{job}" for job in JOBS)
APPLIED = ("base", "cluster", *JOBS, "reports", "overlays/kueue", *QUEUED)
"""Every folder that a person applies."""


def written() -> list[tuple[str, int]]:
    """Every document of every file, by the file's path below `KUBERAY` and its place in it."""
    return [
        (str(path.relative_to(KUBERAY)), number) for path in FILES for number in range(len(documents(path.read_text())))
    ]


def document(file: str, number: int = 0) -> dict[str, Any]:
    """One of them."""
    return documents((KUBERAY / file).read_text())[number]


@cache
def _built(folder: str) -> list[dict[str, Any]]:
    return build(KUBERAY / folder)


def built(folder: str) -> list[dict[str, Any]]:
    """What a folder is as it reaches the cluster; not to be changed."""
    return _built(folder)


def one(folder: str, kind: str, name: str | None = None) -> dict[str, Any]:
    """The only resource of a kind, or of a kind and name, in a folder."""
    (found,) = (made for made in built(folder) if made["kind"] == kind and name in (None, made["metadata"]["name"]))
    return found


def settings() -> dict[str, str]:
    """The variables that the jobs' commands are made of."""
    return one("base", "ConfigMap")["data"]


def clusters() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every Ray cluster's specification, by the folder it comes from."""
    for folder in APPLIED:
        for made in built(folder):
            if made["kind"] in ("RayCluster", "RayJob"):
                yield folder, made["spec"].get("rayClusterSpec", made["spec"])


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every pod's specification, by where it comes from."""
    for folder, cluster in clusters():
        yield f"{folder}: head", cluster["headGroupSpec"]["template"]["spec"]
        for group in cluster["workerGroupSpecs"]:
            yield f"{folder}: {group['groupName']}", group["template"]["spec"]
    yield "reports", one("reports", "Pod")["spec"]


def volumes(pod: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """A pod's volumes by the path that its container sees them at; each is mounted once."""
    (container,) = pod["containers"]
    by_name = {volume["name"]: volume for volume in pod["volumes"]}
    mounted = {mount["mountPath"]: by_name.pop(mount["name"]) for mount in container["volumeMounts"]}
    assert not by_name, f"volumes that nothing mounts: {sorted(by_name)}"
    return mounted
