"""The verbs on s3:// addresses give what they give on folders."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest

from dynfusion.edges.datasets import open_dataset, upload, verify
from dynfusion.store import dataset as local
from dynfusion.verbs import inspect as inspecting
from dynfusion.verbs.pack import pack
from dynfusion.verbs.sample import sample
from dynfusion.verbs.verify import verify as verify_verb
from tests.s3 import make_bucket, put, request
from tests.store.sources import packed, write_sources

BUCKET = "data-sets"


@pytest.fixture(scope="module")
def endpoint(s3: str) -> str:
    make_bucket(s3, BUCKET)
    return s3


def at(endpoint: str, name: str) -> str:
    return f"s3://{BUCKET}/{name}?endpoint_override={endpoint}"


def pack_command(folders: dict[str, Path] | dict[str, str], out: str, **changes: Any) -> Any:
    options: dict[str, Any] = {"modalities": [f"{name}={path}" for name, path in folders.items()], "holdout": 0.1}
    return pack(**{**options, **changes}, out=out)


def test_a_pack_on_a_store_is_the_local_one_byte_for_byte_with_the_manifest_last(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    sources = write_sources(tmp_path / "sources", 300)
    there = pack_command(sources, at(endpoint, "packed"))
    here = pack_command(sources, str(tmp_path / "packed"))
    assert there == here
    for file in (*here.files, None):
        name = file.path if file else "manifest.json"
        assert request(endpoint, "GET", f"/{BUCKET}/packed/{name}") == (tmp_path / "packed" / name).read_bytes()
    assert pack_command(sources, at(endpoint, "packed")) == here
    with pytest.raises(ValueError, match="already holds another data set"):
        pack_command(sources, at(endpoint, "packed"), seed=4)
    assert not list(tmp_path.glob("dynfusion-*"))
    capsys.readouterr()
    inspecting.inspect(at(endpoint, "packed"), as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["fingerprint"] == here.fingerprint
    assert sample(at(endpoint, "packed"), rows=3) == sample(str(tmp_path / "packed"), rows=3)
    capsys.readouterr()
    assert verify_verb(at(endpoint, "packed")) == []
    assert f"all {len(here.files)} files are right" in capsys.readouterr().out


def test_sources_are_read_from_a_store(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    sources = write_sources(tmp_path / "sources", 200)
    for folder in sources.values():
        for path in folder.rglob("*"):
            if path.is_file():
                put(endpoint, f"/{BUCKET}/sources/{path.relative_to(tmp_path / 'sources')}", path.read_bytes())
    far = {name: f"s3://{BUCKET}/sources/{path.relative_to(tmp_path / 'sources')}" for name, path in sources.items()}
    assert pack_command(far, str(tmp_path / "far")) == pack_command(sources, str(tmp_path / "near"))


def test_verify_streams_and_names_what_is_wrong(endpoint: str, tmp_path: Path) -> None:
    dataset = packed(tmp_path, 300)
    upload(Path(dataset.uri), at(endpoint, "damaged"))
    shard = dataset.manifest.shards[0]
    content = bytearray((Path(dataset.uri) / shard.path).read_bytes())
    content[dataset.manifest.geometry.first_block + dataset.manifest.geometry.block_bytes + 5] ^= 1
    put(endpoint, f"/{BUCKET}/damaged/{shard.path}", bytes(content))
    request(endpoint, "DELETE", f"/{BUCKET}/damaged/{shard.sidecar.path}")
    assert verify(at(endpoint, "damaged")) == [
        f"s3://{BUCKET}/damaged/{shard.path}: its SHA-256 is not the manifest's "
        f"(1 of {shard.blocks} blocks are wrong, the first is block 1)",
        f"s3://{BUCKET}/damaged/{shard.sidecar.path}: missing",
    ]


def test_an_address_without_a_data_set_is_named(endpoint: str) -> None:
    with pytest.raises(ValueError, match=r"s3://data-sets/nothing.*: no packed dataset here, manifest.json is missing"):
        open_dataset(at(endpoint, "nothing"))
    with pytest.raises(ValueError, match=r"allowed is a local folder or a file:// address, not s3://"):
        local.open_dataset(at(endpoint, "nothing"))
