"""Every manifest is valid as the Kubernetes API reads it, strictly; a wrong field or value anywhere in one is found."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.kustomize import build, documents
from tests.cluster.manifests import APPLIED, JOBS, KUBERAY, QUEUED, built, document, written
from tests.cluster.schemas import CRD_FILES, CRD_FOLDERS, crd_folder, native_folder, pod_problems, problems, refused

NO_CRDS = f"the operator's CRDs are not here: {CRD_FOLDERS} names their folder, or they lie in ../shared/data"
pytestmark = pytest.mark.skipif(native_folder() is None, reason="kubernetes-validate is not installed")
needs_crds = pytest.mark.skipif(crd_folder() is None, reason=NO_CRDS)

WRITTEN = [pytest.param(*place, id=f"{place[0]}:{place[1]}") for place in written()]
RESOURCES = [
    pytest.param(folder, number, id=f"{folder}:{made['kind']}:{made['metadata']['name']}")
    for folder in APPLIED
    for number, made in enumerate(built(folder))
]


def skip_without_its_schema(found: dict[str, Any]) -> None:
    if found["kind"] in CRD_FILES and crd_folder() is None:
        pytest.skip(NO_CRDS)


def mappings(value: Any) -> Iterator[dict[str, Any]]:
    """Every mapping of a document, itself first."""
    if isinstance(value, dict):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from mappings(part)


def leaves(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container of a document with a key or index of it that holds a text, a number or a truth value."""
    for key, part in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(part, dict | list):
            yield from leaves(part)
        else:
            yield value, key


@pytest.mark.parametrize(("file", "number"), WRITTEN)
def test_every_document_of_every_file_is_valid(file: str, number: int) -> None:
    found = document(file, number)
    skip_without_its_schema(found)
    assert problems(found) == []


@pytest.mark.parametrize(("folder", "number"), RESOURCES)
def test_every_resource_is_valid_as_it_reaches_the_cluster(folder: str, number: int) -> None:
    made = built(folder)[number]
    skip_without_its_schema(made)
    assert problems(made) == []


@pytest.mark.parametrize("folder", ["cluster", *JOBS, *QUEUED])
def test_pod_templates_are_valid_by_kubernetes_own_schema(folder: str) -> None:
    (made,) = built(folder)
    assert pod_problems(made) == []
    pods = [found for found in mappings(made) if "containers" in found]
    assert len(pods) == 3
    for pod in pods:
        pod["containers"][0]["imagePullPolicies"] = "Always"
        assert any("imagePullPolicies" in problem for problem in pod_problems(made))
        del pod["containers"][0]["imagePullPolicies"]


@pytest.mark.parametrize(("file", "number"), WRITTEN)
def test_a_wrong_field_in_any_mapping_of_a_file_is_found(file: str, number: int) -> None:
    refuses_wrong_fields(document(file, number))


@pytest.mark.parametrize("folder", [*JOBS, *QUEUED])
def test_a_wrong_field_in_any_mapping_of_a_whole_job_is_found(folder: str) -> None:
    (job,) = documents_of(folder)
    refuses_wrong_fields(job)


def refuses_wrong_fields(found: dict[str, Any]) -> None:
    """Into each mapping, also of labels and limits, goes a field that none of them can have."""
    skip_without_its_schema(found)
    places = list(mappings(found))
    for place in places:
        place["wrongField"] = {"wrong": ["value"]}
        assert refused(found), place
        del place["wrongField"]
    assert problems(found) == []


@pytest.mark.parametrize(("file", "number"), WRITTEN)
def test_a_value_of_another_kind_anywhere_in_a_file_is_found(file: str, number: int) -> None:
    found = document(file, number)
    skip_without_its_schema(found)
    places = list(leaves(found))
    for container, key in places:
        right = container[key]
        container[key] = {"wrong": ["value"]}
        assert refused(found), key
        container[key] = right
    assert problems(found) == []
    assert len(places) > 2


def documents_of(folder: str) -> list[dict[str, Any]]:
    """Built anew, to be changed."""
    return build(KUBERAY / folder)


@needs_crds
def test_what_the_operator_completes_may_be_left_out_and_what_it_needs_may_not() -> None:
    (cluster,) = documents_of("cluster")
    for group in cluster["spec"]["workerGroupSpecs"]:
        del group["minReplicas"], group["maxReplicas"], group["replicas"]
    assert problems(cluster) == []
    del cluster["spec"]["workerGroupSpecs"][0]["template"]
    assert any("'template' is a required property" in problem for problem in problems(cluster))


@needs_crds
@pytest.mark.parametrize(("value", "valid"), [("4", True), (4, True), ("4Gi", True), ("four", False), (4.5, False)])
def test_a_quantity_is_a_number_or_a_text_of_one(value: object, valid: bool) -> None:
    (cluster,) = documents_of("cluster")
    head = cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    head["resources"]["limits"]["memory"] = value
    found = [problem for problem in problems(cluster) if "limits" in problem and "template.spec" in problem]
    assert (not found) == valid


@needs_crds
@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("authOptions.mode", "tokens"),
        ("autoscalerOptions.version", "v3"),
        ("autoscalerOptions.upscalingMode", "Fast"),
        ("headGroupSpec.rayStartParams.num-cpus", 0),
        ("headGroupSpec.template.spec.containers", "none"),
    ],
)
def test_a_value_that_is_not_allowed_is_found(path: str, value: object) -> None:
    (cluster,) = documents_of("cluster")
    *parents, last = path.split(".")
    place = cluster["spec"]
    for part in parents:
        place = place[part]
    place[last] = value
    assert problems(cluster) != []


def test_a_kind_without_a_schema_is_an_error_and_not_valid() -> None:
    with pytest.raises(LookupError, match="no schema of this kind"):
        problems({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}})


KUSTOMIZE = next(
    ([*words] for words in (("kustomize", "build"), ("kubectl", "kustomize")) if shutil.which(words[0])), None
)


@pytest.mark.skipif(KUSTOMIZE is None, reason="neither kustomize nor kubectl is installed")
@pytest.mark.parametrize("folder", APPLIED)
def test_kustomize_itself_builds_the_same(folder: str) -> None:
    assert KUSTOMIZE is not None
    done = subprocess.run([*KUSTOMIZE, str(KUBERAY / folder)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr

    def by_name(made: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
        return {(found["kind"], found["metadata"]["name"]): found for found in made}

    assert by_name(documents(done.stdout)) == by_name(built(folder))


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("resources: [job.yaml, none.yaml]", "none.yaml: is named as a resource, and there is no such file"),
        ("resources: [job.yaml]\nnamePrefix: a-", "found namePrefix, allowed are"),
        ("resources: [job.yaml, job.yaml]", "found two resources of one kind and name"),
        (
            "resources: [job.yaml]\npatches: [{target: {kind: RayCluster}, patch: '{a: 1}'}]",
            "a patch is for {'kind': 'RayCluster'}, and there is no such resource",
        ),
        (
            "resources: [job.yaml]\n"
            "patches: [{target: {kind: RayJob}, patch: '[{op: test, path: /spec/a, value: 2}]'}]",
            "expected 2 at /spec/a, found 1",
        ),
        (
            "resources: [job.yaml]\nreplacements: [{source: {kind: RayCluster, fieldPath: spec}, targets: []}]",
            "found 0 such resources",
        ),
        ("resources: [job.yaml]\nresources: [job.yaml]", "resources is given twice, allowed is once"),
    ],
)
def test_a_kustomization_that_does_not_resolve_is_an_error(tmp_path: Path, said: str, sentence: str) -> None:
    (tmp_path / "job.yaml").write_text("{kind: RayJob, metadata: {name: j}, spec: {a: 1}}")
    (tmp_path / "kustomization.yaml").write_text(said)
    with pytest.raises(ValueError, match=sentence.replace("{", r"\{").replace("}", r"\}")):
        build(tmp_path)
