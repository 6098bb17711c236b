"""The verbs on s3:// addresses give what they give on folders."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dynfusion.edges.datasets import extend_in_store, open_dataset, pack_to_store, upload, verify
from dynfusion.store import dataset as local
from dynfusion.store.extend import extend
from dynfusion.store.files import LOCAL, Files
from dynfusion.store.manifest import Manifest
from dynfusion.store.pack import pack as pack_here
from dynfusion.store.pack_inputs import PackInputs, PackSettings, describe_inputs, see_inputs
from dynfusion.verbs import inspect as inspecting
from dynfusion.verbs.pack import pack
from dynfusion.verbs.sample import sample
from dynfusion.verbs.verify import verify as verify_verb
from tests.s3 import FaultProxy, make_bucket, put, request
from tests.store.sources import DIMS, packed, vectors, write_folder, write_sources

BUCKET = "data-sets"


@pytest.fixture(scope="module")
def endpoint(s3: str) -> str:
    make_bucket(s3, BUCKET)
    return s3


def at(endpoint: str, name: str) -> str:
    return f"s3://{BUCKET}/{name}?endpoint_override={endpoint}"


def pack_command(folders: dict[str, Path] | dict[str, str], out: str | None, **changes: Any) -> Any:
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


def test_a_taken_address_is_seen_before_anything_is_packed(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    inputs, place = PackInputs(write_sources(tmp_path / "sources", 100)), at(endpoint, "taken")
    record = describe_inputs(inputs, PackSettings(), see_inputs(inputs, LOCAL))

    def never(folder: Path) -> Manifest:
        raise AssertionError("nothing is packed")

    first = pack_to_store(lambda folder: pack_here(inputs, out=folder), place, record)
    assert pack_to_store(never, place, record) == first
    for other in (None, describe_inputs(inputs, PackSettings(seed=1), see_inputs(inputs, LOCAL))):
        with pytest.raises(ValueError, match=r"taken.*: already holds another data set"):
            pack_to_store(never, place, other)
    assert not list(tmp_path.glob("dynfusion-*"))


def test_a_pack_whose_address_is_taken_meanwhile_stays_in_a_folder_of_the_user_s_own(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    inputs, place = PackInputs(write_sources(tmp_path / "sources", 100)), at(endpoint, "late")
    theirs = pack_here(inputs, out=tmp_path / "theirs", settings=PackSettings(seed=1))

    def overtaken(folder: Path) -> Manifest:
        with pytest.raises(ValueError, match=r"late.*: another process is packing to it"):
            pack_to_store(lambda other: theirs, place)
        upload(tmp_path / "theirs", place)
        return pack_here(inputs, out=folder)

    with pytest.raises(ValueError, match=r"already holds another data set.*; what was packed stays in /") as raised:
        pack_to_store(overtaken, place)
    kept = Path(str(raised.value).rpartition(" ")[2])
    assert verify(kept) == []
    assert (kept.parent.stat().st_mode & 0o777, kept.parent.parent) == (0o700, tmp_path)
    assert f"-{os.getuid()}-" in kept.parent.name
    assert open_dataset(place).manifest == theirs


def test_a_folder_that_others_can_enter_is_not_packed_in(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()

    def swap(folder: Path) -> Manifest:
        raise KeyError(folder.parent.name)

    with pytest.raises(KeyError) as raised:
        pack_to_store(swap, at(endpoint, "guarded"))
    (tmp_path / str(raised.value.args[0])).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="another user can write here, set TMPDIR to a folder of your own"):
        pack_to_store(swap, at(endpoint, "guarded"))


def halves(folder: Path, rows: int) -> list[dict[str, Path]]:
    """Sources of the first half of some molecules, and of the others."""
    made = []
    for number, part in enumerate((slice(0, rows // 2), slice(rows // 2, rows))):
        ids = [f"m{row:05d}" for row in range(rows)][part]
        made.append(
            {
                name: write_folder(folder / f"{name}-{number}", vectors(rows, dim, seed=dim)[part], ids)
                for name, dim in DIMS.items()
            }
        )
    return made


def test_an_extension_on_a_store_is_the_local_one_byte_for_byte_with_the_manifest_last(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    old, new = halves(tmp_path / "sources", 600)
    more = {"more": write_folder(tmp_path / "more", vectors(300, 3, seed=9), [f"m{row:05d}" for row in range(300)])}
    place, here = at(endpoint, "grown"), tmp_path / "grown"
    first = pack_command(old, place, block_rows=16, shard_bytes=4_000)
    assert pack_command(old, str(here), block_rows=16, shard_bytes=4_000) == first
    pack_command(new, None, extend=str(here), shard_bytes=4_000)
    pack_command(more, None, extend=f"{here}/manifest-1.json")

    def deny_manifests(method: str, path: str, count: int) -> str | None:
        return "denied" if method == "PUT" and path.endswith("manifest-1.json") else None

    with FaultProxy(endpoint, deny_manifests) as proxy:
        far = at(proxy.endpoint, "grown")
        with pytest.raises(ValueError, match=r"grown/manifest-1.json: access is denied"):
            pack_command(new, None, extend=far, shard_bytes=4_000)
        assert open_dataset(place).manifest == first
        assert verify(place) == []
        proxy.fault, proxy.seen[:] = (lambda method, path, count: None), []
        second = pack_command(new, None, extend=far, shard_bytes=4_000)
        puts = [path.rpartition("/")[2] for method, path in proxy.seen if method == "PUT"]
        kept = {file.path for file in first.files}
        assert set(puts[:-1]) == {file.path for file in second.files if file.path not in kept} | {"inputs-1.json"}
        assert puts[-1] == "manifest-1.json"
        assert len(set(second.shards) & set(first.shards)) == len(first.shards) - 1 > 2
        proxy.seen.clear()
        assert pack_command(new, None, extend=far, shard_bytes=4_000) == second
        assert not [path for method, path in proxy.seen if method == "PUT"]
    third = pack_command(more, None, extend=f"s3://{BUCKET}/grown/manifest-1.json?endpoint_override={endpoint}")
    assert third.extends == second.fingerprint
    assert third.names == (*second.names, "more")
    for path in here.iterdir():
        if not path.name.startswith("inputs"):
            assert request(endpoint, "GET", f"/{BUCKET}/grown/{path.name}") == path.read_bytes()
    for manifest in ("manifest.json", "manifest-1.json", "manifest-2.json"):
        assert verify(f"s3://{BUCKET}/grown/{manifest}?endpoint_override={endpoint}") == []
    assert not list(tmp_path.glob("dynfusion-*"))


def test_an_extension_whose_number_another_takes_meanwhile_is_not_uploaded(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    old, new = halves(tmp_path / "sources", 200)
    place = at(endpoint, "raced")
    pack_command(old, place)
    other = {"odd": write_folder(tmp_path / "other", vectors(9, 5, seed=1, absent=0), [f"x{row}" for row in range(9)])}

    def run_both(base: str, folder: Path, files: Files) -> str:
        address = extend(PackInputs(new), base, out=folder, files=files)
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "second machine"))
        pack_command(other, None, extend=place)
        return address

    (tmp_path / "second machine").mkdir()
    with pytest.raises(ValueError, match=r"raced.*: another extension has become its manifest-1.json meanwhile"):
        extend_in_store(run_both, place)
    address = f"s3://{BUCKET}/raced/manifest-1.json?endpoint_override={endpoint}"
    assert verify(address) == []
    assert "x0" in open_dataset(address).table("train")["id"].to_pylist()


def test_sources_are_read_from_a_store(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    sources = write_sources(tmp_path / "sources", 200)
    for folder in sources.values():
        for path in folder.rglob("*"):
            if path.is_file():
                put(endpoint, f"/{BUCKET}/sources/{path.relative_to(tmp_path / 'sources')}", path.read_bytes())
    far = {name: f"s3://{BUCKET}/sources/{path.relative_to(tmp_path / 'sources')}" for name, path in sources.items()}
    assert pack_command(far, str(tmp_path / "far")) == pack_command(sources, str(tmp_path / "near"))


def test_a_parquet_file_and_a_folder_on_a_store_are_packed_as_here(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    folder = write_folder(tmp_path / "npy", vectors(80, 4, seed=1), [f"m{row}" for row in range(80)])
    features = {f"f{m}": [float(row % 7 + m) for row in range(80)] for m in range(3)}
    pq.write_table(
        pa.table({"id": [f"m{row}" for row in range(80)], **features}), tmp_path / "x.parquet", row_group_size=30
    )
    for path in (*folder.iterdir(), tmp_path / "x.parquet"):
        put(endpoint, f"/{BUCKET}/mixed/{path.relative_to(tmp_path)}", path.read_bytes())
    far = {"a": f"s3://{BUCKET}/mixed/npy", "b": f"s3://{BUCKET}/mixed/x.parquet"}
    there = pack_command(far, str(tmp_path / "far"))
    assert there == pack_command({"a": folder, "b": tmp_path / "x.parquet"}, str(tmp_path / "near"))
    assert there.modalities[1].features == ("f0", "f1", "f2")
    for nowhere in ("s3://nowhere/x", "s3://nowhere/*.parquet"):
        with pytest.raises(ValueError, match=r"s3://nowhere/.*: there is no bucket nowhere"):
            pack_command({"a": nowhere}, str(tmp_path / "out"))
    with pytest.raises(ValueError, match=r"s3://nowhere/packed/manifest.json: there is no bucket nowhere"):
        pack_command(far, f"s3://nowhere/packed?endpoint_override={endpoint}")


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


@pytest.mark.parametrize("change", [-5, 5])
def test_verify_names_a_file_of_another_size_without_reading_it(endpoint: str, tmp_path: Path, change: int) -> None:
    dataset = packed(tmp_path, 300)
    folder, shard = Path(dataset.uri), dataset.manifest.shards[0]
    upload(folder, at(endpoint, f"resized{change}"))
    content = (folder / shard.path).read_bytes()
    put(
        endpoint, f"/{BUCKET}/resized{change}/{shard.path}", content[:change] if change < 0 else content + bytes(change)
    )
    with FaultProxy(endpoint, lambda method, path, count: None) as proxy:
        assert verify(at(proxy.endpoint, f"resized{change}")) == [
            f"s3://{BUCKET}/resized{change}/{shard.path}: found {shard.bytes + change} bytes, "
            f"the manifest says {shard.bytes}"
        ]
        assert not [path for method, path in proxy.seen if method == "GET" and path.endswith(shard.path)]


def test_an_address_without_a_data_set_is_named(endpoint: str) -> None:
    with pytest.raises(ValueError, match=r"s3://data-sets/nothing.*: no packed dataset here, manifest.json is missing"):
        open_dataset(at(endpoint, "nothing"))
    with pytest.raises(ValueError, match=r"allowed is a local folder or a file:// address, not s3://"):
        local.open_dataset(at(endpoint, "nothing"))
