"""What the Kubernetes API would say of a document: the operator's schemas, Kubernetes' own, and two small ones of ours.

Strict, as `kubectl apply --validate=strict` is: a field that the schema does not know is a problem. What the API server
checks by expressions (`x-kubernetes-validations`) is not checked here.
"""

import importlib.util
import json
import os
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

CRD_FOLDERS = "DYNFUSION_KUBERAY_CRDS"
"""Names the folder with the operator's CRDs where they do not lie beside the checkout."""

BESIDE = Path(__file__).parents[3] / "shared" / "data" / "kuberay-crds"
CRD_FILES = {"RayCluster": "ray.io_rayclusters.yaml", "RayJob": "ray.io_rayjobs.yaml"}
DEFINITIONS = "https://kubernetes.io/api/_definitions.json"
META = f"{DEFINITIONS}#/$defs/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
POD = f"{DEFINITIONS}#/$defs/io.k8s.api.core.v1.PodTemplateSpec"
NATIVE = {
    ("v1", "ConfigMap"): "io.k8s.api.core.v1.ConfigMap",
    ("v1", "Namespace"): "io.k8s.api.core.v1.Namespace",
    ("v1", "PersistentVolumeClaim"): "io.k8s.api.core.v1.PersistentVolumeClaim",
    ("v1", "Pod"): "io.k8s.api.core.v1.Pod",
    ("v1", "Secret"): "io.k8s.api.core.v1.Secret",
    ("v1", "ServiceAccount"): "io.k8s.api.core.v1.ServiceAccount",
    ("networking.k8s.io/v1", "NetworkPolicy"): "io.k8s.api.networking.v1.NetworkPolicy",
}

Schema = dict[str, Any]


def _object(required: tuple[str, ...], **properties: Schema) -> Schema:
    return {"type": "object", "additionalProperties": False, "required": list(required), "properties": properties}


_TEXT = {"type": "string", "minLength": 1}
_TEXTS = {"type": "array", "items": _TEXT, "minItems": 1}
_TARGET = _object((), kind=_TEXT, name=_TEXT)
_REPLACEMENT = _object(
    ("source", "targets"),
    source=_object(("kind", "fieldPath"), kind=_TEXT, name=_TEXT, fieldPath=_TEXT),
    targets={
        "type": "array",
        "items": _object(
            ("select", "fieldPaths"),
            select=_TARGET,
            fieldPaths=_TEXTS,
            options=_object((), create={"type": "boolean"}),
        ),
    },
)
OURS = {
    ("kueue.x-k8s.io/v1beta2", "LocalQueue"): _object(
        ("apiVersion", "kind", "metadata", "spec"),
        apiVersion=_TEXT,
        kind=_TEXT,
        metadata={"$ref": META},
        spec=_object(
            ("clusterQueue",),
            clusterQueue=_TEXT,
            stopPolicy={"enum": ["None", "Hold", "HoldAndDrain"]},
            fairSharing=_object((), weight={"type": ["string", "integer"]}),
        ),
    )
}
for _version, _kind in (("v1beta1", "Kustomization"), ("v1alpha1", "Component")):
    OURS[f"kustomize.config.k8s.io/{_version}", _kind] = _object(
        ("apiVersion", "kind"),
        apiVersion=_TEXT,
        kind=_TEXT,
        namespace=_TEXT,
        resources=_TEXTS,
        components=_TEXTS,
        patches={"type": "array", "items": _object(("patch",), patch=_TEXT, target=_TARGET)},
        replacements={"type": "array", "items": _REPLACEMENT},
    )


def crd_folder() -> Path | None:
    """Where the operator's CRDs are; None where they are not."""
    folder = Path(os.environ.get(CRD_FOLDERS, BESIDE))
    return folder if all((folder / name).is_file() for name in CRD_FILES.values()) else None


def native_folder() -> Path | None:
    """Kubernetes' own schemas of the newest release that kubernetes-validate brings; None where it is not installed."""
    found = importlib.util.find_spec("kubernetes_validate")
    if found is None or not found.submodule_search_locations:
        return None
    folders = Path(found.submodule_search_locations[0]).glob("kubernetes-json-schema/v*-local-strict")
    return max(folders, key=lambda path: [int(part) for part in path.name[1:].split("-")[0].split(".")])


def problems(document: Mapping[str, Any]) -> list[str]:
    """One sentence for each thing that the API would refuse, none where the document is valid.

    Raises LookupError for a kind nothing is known of, and where its schema is not on this machine.
    """
    return [sentence for validator, value in _checks(document) for sentence in _errors(validator, value)]


def refused(document: Mapping[str, Any]) -> bool:
    """Whether there is any problem, or nothing is known of the kind; stops at the first."""
    try:
        return not all(validator.is_valid(value) for validator, value in _checks(document))
    except LookupError:
        return True


def _checks(document: Mapping[str, Any]) -> Iterator[tuple[Draft202012Validator, Any]]:
    version, kind = (str(document.get(name)) for name in ("apiVersion", "kind"))
    if version == "ray.io/v1" and kind in CRD_FILES:
        yield _custom(kind), with_defaults(_crd(kind), document)
        yield _native(META), document.get("metadata", {})
        yield from ((_native(POD), template) for template in pod_templates(document))
    elif (version, kind) in OURS:
        yield _validator(json.dumps(OURS[version, kind])), document
    elif (version, kind) in NATIVE:
        yield _native(f"{DEFINITIONS}#/$defs/{NATIVE[version, kind]}"), document
    else:
        known = sorted([*NATIVE, *OURS, *(("ray.io/v1", kind) for kind in CRD_FILES)])
        raise LookupError(f"{version} {kind}: no schema of this kind, known are {known}")


def pod_problems(document: Mapping[str, Any]) -> list[str]:
    """The same for the pods of a Ray cluster or job alone, by Kubernetes' own schema; needs no CRD."""
    return [problem for template in pod_templates(document) for problem in _errors(_native(POD), template)]


def pod_templates(document: Mapping[str, Any]) -> list[Any]:
    """Those of a Ray cluster or job: the head's, then each worker group's."""
    spec = document["spec"].get("rayClusterSpec", document["spec"])
    groups = [spec["headGroupSpec"], *spec.get("workerGroupSpecs", [])] if "headGroupSpec" in spec else []
    return [group["template"] for group in groups if "template" in group]


def closed(schema: Any) -> Any:
    """A CRD's schema as JSON schema: fields it does not name are refused, a number or text may be either."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(part) for key, part in schema.items() if key not in ("default", "format", "properties")}
    if "properties" in schema:
        made["properties"] = {name: closed(part) for name, part in schema["properties"].items()}
    if schema.get("x-kubernetes-int-or-string") is True:
        made["type"] = ["integer", "string"]
    elif "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    return made


def with_defaults(schema: Mapping[str, Any], value: Any) -> Any:
    """The value as the API server completes it before it validates."""
    if isinstance(value, Mapping):
        known = schema.get("properties", {})
        missing = {name: part["default"] for name, part in known.items() if "default" in part and name not in value}
        return {name: with_defaults(known.get(name, {}), part) for name, part in {**value, **missing}.items()}
    if isinstance(value, list):
        return [with_defaults(schema.get("items", {}), part) for part in value]
    return value


@cache
def _crd(kind: str) -> Schema:
    folder = crd_folder()
    if folder is None:
        raise LookupError(f"{kind}: the operator's CRDs are not here, {CRD_FOLDERS} names their folder")
    definition = yaml.load((folder / CRD_FILES[kind]).read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    (stored,) = (version for version in definition["spec"]["versions"] if version["storage"])
    return stored["schema"]["openAPIV3Schema"]


@cache
def _custom(kind: str) -> Draft202012Validator:
    return Draft202012Validator(closed(_crd(kind)))


@cache
def _registry() -> Registry:
    folder = native_folder()
    if folder is None:
        raise LookupError("Kubernetes' schemas are not here, `pip install kubernetes-validate` brings them")
    return Resource.from_contents(json.loads((folder / "_definitions.json").read_text())) @ Registry()


@cache
def _validator(schema: str) -> Draft202012Validator:
    return Draft202012Validator(json.loads(schema), registry=_registry())


def _native(reference: str) -> Draft202012Validator:
    return _validator(json.dumps({"$ref": reference}))


def _errors(validator: Draft202012Validator, value: Any) -> list[str]:
    return [
        f"{'.'.join(map(str, error.path)) or 'document'}: {error.message}" for error in validator.iter_errors(value)
    ]
