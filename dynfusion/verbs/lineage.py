"""Which manifests a folder has and which extends which, as lines for a person."""

from collections.abc import Mapping
from typing import Any

from dynfusion.edges.folder_manifests import FolderManifests
from dynfusion.store.manifest import Manifest

Manifests = Mapping[str, Manifest | None]


def base_of(own: str, manifests: Manifests) -> str | None:
    """The name of the manifest that this one adds to; None when it adds to none, its fingerprint when that is gone."""
    manifest = manifests[own]
    if manifest is None or manifest.extends is None:
        return None
    names = (name for name, other in manifests.items() if other and other.fingerprint == manifest.extends)
    return next(names, manifest.extends)


def entries(manifests: Manifests) -> list[dict[str, Any]]:
    """Name, training rows and base of every manifest; rows are None where it cannot be read."""
    return [
        {"name": name, "rows": manifest.rows if manifest else None, "extends": base_of(name, manifests)}
        for name, manifest in manifests.items()
    ]


def others_text(beside: FolderManifests) -> str:
    """The other manifests of the folder in one line, empty when there are none."""
    if beside.unknown is not None:
        return f"not known, {beside.unknown}"
    return ", ".join(_text(entry) for entry in entries(beside.manifests) if entry["name"] != beside.own)


def extension_lines(beside: FolderManifests) -> list[str]:
    """What a new extension adds to, and a warning that names those whose additions it lacks."""
    own, manifests = beside.own, beside.manifests
    known, base = {own}, base_of(own, manifests)
    lines = [f"it extends {base}"]
    while base is not None and base in manifests and base not in known:
        known.add(base)
        base = base_of(base, manifests)
    lacking = [_text(entry) for entry in entries(manifests) if entry["name"] not in known]
    if lacking:
        lines.append(
            f"warning: the folder has other extensions, what they added is not in {own}: {', '.join(lacking)}; to add "
            "to one of them, --extend its manifest"
        )
    if beside.unknown is not None:
        lines.append(f"whether the folder has other extensions is not known, {beside.unknown}")
    return lines


def _text(entry: Mapping[str, Any]) -> str:
    rows = "not readable" if entry["rows"] is None else f"{entry['rows']} training rows"
    return f"{entry['name']} ({rows}{', extends ' + entry['extends'] if entry['extends'] else ''})"
