"""What `kustomize build` makes of a folder, for as much of kustomize as `cluster/kuberay` uses.

    resources (files and folders) -> components -> patches -> replacements -> namespace

A patch is a document that is merged (null removes, `$patch: delete` removes the whole resource, lists are replaced, as
kustomize does with kinds it has no schema of), or a list of JSON patch operations. Whatever else a kustomization says
is an error, so nothing is passed over in silence; where kustomize itself is installed a test compares the two.
"""

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

CLUSTER_WIDE = {"Namespace"}
KNOWN = {"apiVersion", "kind", "namespace", "resources", "components", "patches", "replacements"}

Document = dict[str, Any]


class _Unique(yaml.SafeLoader):
    """Refuses a key given twice, as the Kubernetes API does; YAML's own loader keeps the last one."""


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key) for key, _ in node.value]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise ValueError(f"{node.start_mark}: {twice[0]} is given twice, allowed is once")
    return loader.construct_mapping(node, deep=True)


_Unique.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def documents(text: str) -> list[Any]:
    """The documents of a YAML text, each with objects of its own. Raises ValueError for a key given twice."""
    return [copy.deepcopy(document) for document in yaml.load_all(text, _Unique) if document is not None]


def build(folder: Path) -> list[Document]:
    """The resources of a kustomization. Raises ValueError for what is missing, unknown, or not as a patch expects."""
    return _apply(folder.resolve(), [])


def _apply(folder: Path, found: list[Document]) -> list[Document]:
    path = folder / "kustomization.yaml"
    (said,) = documents(path.read_text())
    unknown = sorted(said.keys() - KNOWN)
    if unknown:
        raise ValueError(f"{path}: found {unknown[0]}, allowed are {', '.join(sorted(KNOWN))}")
    for name in said.get("resources", []):
        found = found + _resource(folder / name)
    for name in said.get("components", []):
        found = _apply((folder / name).resolve(), found)
    for patch in said.get("patches", []):
        found = _patched(found, patch, path)
    for replacement in said.get("replacements", []):
        _replace(found, replacement, path)
    if "namespace" in said:
        for document in found:
            if document["kind"] not in CLUSTER_WIDE:
                document["metadata"]["namespace"] = said["namespace"]
    names = [(document["kind"], document["metadata"]["name"]) for document in found]
    if len(set(names)) != len(names):
        raise ValueError(f"{path}: found two resources of one kind and name among {names}")
    return found


def _resource(path: Path) -> list[Document]:
    if not path.exists():
        raise ValueError(f"{path}: is named as a resource, and there is no such file or folder")
    return build(path) if path.is_dir() else documents(path.read_text())


def _patched(found: list[Document], patch: Mapping[str, Any], path: Path) -> list[Document]:
    (change,) = documents(patch["patch"])
    target = patch.get("target") or {"kind": change["kind"], "name": change["metadata"]["name"]}
    chosen = [document for document in found if _selected(document, target)]
    if not chosen:
        raise ValueError(f"{path}: a patch is for {dict(target)}, and there is no such resource")
    if not isinstance(change, list) and change.get("$patch") == "delete":
        return [document for document in found if not any(document is one for one in chosen)]
    for document in chosen:
        if isinstance(change, list):
            for operation in change:
                _operate(document, operation, path)
        else:
            identity = {key: document["metadata"][key] for key in ("name", "namespace") if key in document["metadata"]}
            _merge(document, change)
            document["metadata"].update(identity)
    return found


def _selected(document: Document, target: Mapping[str, str]) -> bool:
    here = {"kind": document["kind"], "name": document["metadata"]["name"]}
    unknown = sorted(target.keys() - here.keys())
    if unknown:
        raise ValueError(f"target: found {unknown[0]}, allowed are kind, name")
    return all(here[key] == wanted for key, wanted in target.items())


def _merge(into: dict[str, Any], change: Mapping[str, Any]) -> None:
    for key, value in change.items():
        if value is None:
            into.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = copy.deepcopy(value)


def _operate(document: Document, operation: Mapping[str, Any], path: Path) -> None:
    *parents, last = operation["path"].strip("/").split("/")
    place: Any = document
    for part in parents:
        place = place[int(part) if isinstance(place, list) else part]
    key = int(last) if isinstance(place, list) else last
    if operation["op"] not in ("test", "replace"):
        raise ValueError(f"{path}: found the operation {operation['op']}, allowed are test, replace")
    if operation["op"] == "replace":
        place[key] = copy.deepcopy(operation["value"])
    elif place[key] != operation["value"]:
        raise ValueError(f"{path}: expected {operation['value']} at {operation['path']}, found {place[key]}")


def _replace(found: list[Document], replacement: Mapping[str, Any], path: Path) -> None:
    source = dict(replacement["source"])
    field = source.pop("fieldPath")
    sources = [document for document in found if _selected(document, source)]
    if len(sources) != 1:
        raise ValueError(f"{path}: a replacement takes {field} of {source}, found {len(sources)} such resources")
    value = sources[0][field]
    for target in replacement["targets"]:
        chosen = [document for document in found if _selected(document, target["select"])]
        if not chosen:
            raise ValueError(f"{path}: a replacement is for {target['select']}, and there is no such resource")
        for document, at in _places(chosen, target["fieldPaths"]):
            document[at] = copy.deepcopy(value)


def _places(chosen: list[Document], paths: list[str]) -> Iterator[tuple[dict[str, Any], str]]:
    for document in chosen:
        for path in paths:
            *parents, last = path.split(".")
            place = document
            for part in parents:
                place = place[part]
            yield place, last
