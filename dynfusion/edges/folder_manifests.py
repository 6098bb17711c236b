"""The manifests that lie in a dataset's folder: it and its extensions, as far as they can be known."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from dynfusion.edges.object_store import locate
from dynfusion.edges.s3_address import is_s3
from dynfusion.store.manifest import Manifest, local_folder, parse_manifest, split_address

_MANIFEST = re.compile(r"manifest(-\d+)?\.json")
_PATIENCE_SECONDS = 30.0

_Folder = tuple[Callable[[str], bytes], Callable[[], list[str]], str]


@dataclass(frozen=True)
class FolderManifests:
    """The name of a dataset's own manifest, and every manifest of its folder by name, oldest first, None where it
    cannot be read; `unknown` says why the folder cannot be listed, only the own one is known then."""

    own: str
    manifests: dict[str, Manifest | None]
    unknown: str | None = None


def manifests_beside(uri: str | Path, manifest: Manifest) -> FolderManifests:
    """What lies beside the manifest that was read from this address. What cannot be had is no error."""
    read, listed, own = _far(str(uri)) if is_s3(uri) else _near(uri)
    unknown, names = None, [own]
    try:
        names += [name for name in listed() if _MANIFEST.fullmatch(name)]
    except (OSError, ValueError) as error:
        unknown = str(error)
    found: dict[str, Manifest | None] = {}
    for name in sorted(set(names), key=lambda name: (len(name), name)):
        found[name] = manifest if name == own else _readable(read, name)
    return FolderManifests(own, found, unknown)


def _far(uri: str) -> _Folder:
    store, own = locate(uri)
    store = replace(store, deadline_seconds=_PATIENCE_SECONDS)
    return store.read, store.names, own


def _near(uri: str | Path) -> _Folder:
    folder = local_folder(uri)
    return (
        lambda name: (folder / name).read_bytes(),
        lambda: [path.name for path in folder.iterdir()],
        split_address(uri)[1],
    )


def _readable(read: Callable[[str], bytes], name: str) -> Manifest | None:
    try:
        return parse_manifest(read(name), name)
    except (OSError, ValueError):
        return None
