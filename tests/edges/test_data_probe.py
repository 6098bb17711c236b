"""A packed data set that is damaged is told, near and far; a sound one is read in samples."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from dynfusion.edges.data_probe import probe
from dynfusion.edges.datasets import upload
from tests.datasets import packed
from tests.s3 import make_bucket, put, request


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(packed(tmp_path_factory.mktemp("sound"), rows=700, holdout=0.1).uri)


@pytest.fixture
def copy(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "packed"))


def facts(uri: str | Path, sample: int = 64) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for fact in probe(str(uri), sample):
        found |= fact
    return found


def damage(file: Path, at: int = -2000) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


def test_a_sound_data_set(sound: Path) -> None:
    found = facts(sound)
    assert (found["rows"] > 600, found["wrong_files"], found["wrong_blocks"]) == (True, [], [])
    assert found["blocks_read"] == found["blocks"] > 8
    assert facts(sound, sample=3)["blocks_read"] == 3
    assert "problem" not in found


def test_a_damaged_block_is_named(copy: Path) -> None:
    shard = next(copy.glob("train-*.arrow"))
    damage(shard, at=5000)
    found = facts(copy)
    assert found["wrong_files"] == []
    assert found["wrong_blocks"] == [f"{shard.name}: the checksum of block 2 is wrong"]


def test_a_shard_that_is_missing_and_one_that_is_cut_are_named_and_the_others_read(copy: Path) -> None:
    missing, cut = next(copy.glob("train-*.arrow")), next(copy.glob("holdout-*.arrow"))
    missing.unlink()
    cut.write_bytes(cut.read_bytes()[:-7])
    first, second = sorted(facts(copy)["wrong_files"], reverse=True)
    assert first == f"{missing.name}: the manifest lists it but it is not in {copy}"
    assert second.startswith(f"{cut.name}: found ")


def test_a_damaged_block_table_and_a_changed_manifest_are_told(copy: Path) -> None:
    damage(copy / "blocks.bin", at=-1)
    assert facts(copy)["wrong_files"] == ["blocks.bin: its SHA-256 is not the manifest's"]
    manifest = copy / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"pack_seed": 0', '"pack_seed": 1'))
    assert "does not match its fingerprint" in facts(copy)["problem"]
    manifest.unlink()
    assert "manifest.json is missing" in facts(copy)["problem"]


def test_the_same_is_seen_in_a_bucket(sound: Path, s3: str) -> None:
    make_bucket(s3, "doctored")
    uri = f"s3://doctored/packed?endpoint_override={s3}"
    upload(sound, uri)
    near, far = facts(sound), facts(uri)
    assert far | {"doing": ""} == near | {"doing": ""}
    shard = next(sound.glob("train-*.arrow"))
    content = bytearray(shard.read_bytes())
    content[5000] ^= 1
    put(s3, f"/doctored/packed/{shard.name}", bytes(content))
    assert facts(uri)["wrong_blocks"] == [f"{shard.name}: the checksum of block 2 is wrong"]
    request(s3, "DELETE", f"/doctored/packed/{shard.name}")
    assert facts(uri)["wrong_files"][0].startswith(
        f"{shard.name}: the manifest lists it but it is not in s3://doctored"
    )
    request(s3, "DELETE", "/doctored/packed/manifest.json")
    assert "no packed dataset here" in facts(uri)["problem"]
