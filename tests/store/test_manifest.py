"""A manifest comes from whoever gives a dataset away: what it may name is checked before anything is done with it."""

import json
from pathlib import Path
from typing import Any

import pytest

from dynfusion.store.dataset import open_dataset
from dynfusion.store.manifest import FileSpec
from dynfusion.store.origin import CacheSettings, Remote
from dynfusion.store.pack_inputs import PackInputs
from tests.store.sources import packed

WRONG = [
    "/etc/x",
    "../x",
    "a/b",
    "a\\b",
    "..",
    ".",
    ".bashrc",
    "a..b",
    "a.",
    "",
    "train.arrow\n",
    "a b",
    "ä.arrow",
    "a\0",
]


class Folder:
    """An origin whose manifest is another than the folder's."""

    def __init__(self, folder: Path, manifest: bytes) -> None:
        self._folder, self._manifest = folder, manifest
        self.asked: list[str] = []

    def read(self, path: str) -> bytes:
        self.asked.append(path)
        return self._manifest if path == "manifest.json" else (self._folder / path).read_bytes()

    def read_range(self, path: str, start: int, stop: int) -> bytes:
        return self.read(path)[start:stop]


@pytest.mark.parametrize("path", WRONG)
def test_a_file_is_a_plain_name_beside_the_manifest(path: str) -> None:
    with pytest.raises(ValueError, match=r"allowed is the name of a file beside the manifest"):
        FileSpec(path=path, rows=1, bytes=1, sha256="0" * 64)


@pytest.mark.parametrize("place", ["blocks", "dropped", "shard", "sidecar"])
def test_a_manifest_that_names_a_file_elsewhere_is_refused_near_and_far(tmp_path: Path, place: str) -> None:
    folder = tmp_path / "packed"
    here = packed(tmp_path, 200)
    content = json.loads((folder / "manifest.json").read_text())
    shard = content["shards"][0]
    entry: dict[str, Any] = {**content, "shard": shard, "sidecar": shard["sidecar"]}[place]
    assert here.manifest.dropped is not None
    entry["path"] = str(tmp_path / "home" / ".bashrc")
    text = json.dumps(content)
    origin = Folder(folder, text.encode())
    with pytest.raises(
        ValueError, match=r"s3://any/set, manifest.json: not a valid manifest, .*path: found '/.*bashrc'"
    ):
        open_dataset("s3://any/set", Remote(origin, CacheSettings(cache_dir=str(tmp_path / "cache"))))
    assert origin.asked == ["manifest.json"]
    (folder / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=r"packed/manifest.json: not a valid manifest, .*path: found '/.*bashrc'"):
        open_dataset(folder)


@pytest.mark.parametrize("name", ["morgan\n", "a/b", "", "a b"])
def test_a_modality_is_a_plain_name(name: str) -> None:
    with pytest.raises(ValueError, match="a name is made of letters, digits and any of"):
        PackInputs({name: "somewhere"})
