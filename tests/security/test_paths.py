"""Names that come from a file never lead out of its folder, on a disk and in a bucket."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dynfusion.edges.datasets import open_dataset, upload
from dynfusion.edges.job_package import pack_folder
from dynfusion.edges.s3_storage import open_storage
from dynfusion.evaluation.hiding.patterns import Pattern
from dynfusion.evaluation.protocol.groups import CellGroup
from dynfusion.fusion.api import FusionModel
from dynfusion.run_settings import RunSettings
from dynfusion.settings import build
from dynfusion.store.extend import extend
from dynfusion.store.manifest import read_manifest
from dynfusion.store.pack_inputs import PackInputs
from dynfusion.training.checkpoint import complete, problem, torn
from dynfusion.training.storage import LocalStorage
from dynfusion.tuning.records import read_finals, read_trials
from dynfusion.verbs.labelled_table import parse_tasks
from tests.fuzz.examples import Examples, make_examples
from tests.fuzz.memory import MemoryStorage
from tests.fuzz.parsers_store import fingerprinted
from tests.s3 import FaultProxy, make_bucket, put
from tests.store.sources import vectors, write_folder

HOSTILE = (
    *("/etc/passwd", "../up", "a/../../up", "..", ".", "a/b", "a\\..\\b", "C:\\x", "\\\\host\\x", "a\0b", "x\n", " x"),
    *("\u2024\u2024/up", "~/x", "file:///x", "s3://bucket/x", "%2e%2e/up", ""),
)


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    return make_examples(tmp_path_factory.mktemp("examples"))


PLACES: dict[str, Callable[[Any], Any]] = {
    "shard": lambda tree: tree["shards"][1],
    "sidecar": lambda tree: tree["shards"][0]["sidecar"],
    "holdout": lambda tree: tree["holdout_shards"][0],
    "dropped": lambda tree: tree["dropped"],
    "blocks": lambda tree: tree["blocks"],
}


def hostile_manifest(examples: Examples, place: str, path: str) -> bytes:
    """With the fingerprint that belongs to it, as whoever gives a hostile data set away would write it."""
    tree = json.loads(examples.packed["manifest.json"])
    PLACES[place](tree)["path"] = path
    return json.dumps(fingerprinted(tree)).encode()


@pytest.mark.parametrize("place", PLACES)
def test_a_manifest_on_a_disk_names_no_file_elsewhere(examples: Examples, tmp_path: Path, place: str) -> None:
    for path in HOSTILE:
        (tmp_path / "manifest.json").write_bytes(hostile_manifest(examples, place, path))
        with pytest.raises(ValueError, match="allowed is the name of a file beside the manifest"):
            read_manifest(tmp_path)


@pytest.mark.parametrize("place", PLACES)
def test_a_manifest_in_a_bucket_names_no_file_elsewhere(examples: Examples, s3: str, place: str) -> None:
    bucket = f"paths-{place}"
    make_bucket(s3, bucket)
    put(s3, f"/{bucket}/secret", b"of another user")
    with FaultProxy(s3, lambda method, path, count: None) as proxy:
        for number, path in enumerate(("../secret", "/secret", "a/b", "a\\b", "x\0")):
            put(s3, f"/{bucket}/set{number}/manifest.json", hostile_manifest(examples, place, path))
            with pytest.raises(ValueError, match="allowed is the name of a file beside the manifest"):
                open_dataset(f"s3://{bucket}/set{number}?endpoint_override={proxy.endpoint}")
        assert {path.rpartition("/")[2] for _, path in proxy.seen} == {"manifest.json"}


@pytest.mark.parametrize("place", PLACES)
def test_a_listed_file_that_is_a_link_out_of_the_folder_is_refused(
    examples: Examples, tmp_path: Path, place: str
) -> None:
    folder = copied(examples.packed, tmp_path / "set")
    name = PLACES[place](json.loads(examples.packed["manifest.json"]))["path"]
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=f"{name}: a link to .*elsewhere, allowed are files of the folder itself"):
        read_manifest(folder)
    with pytest.raises(ValueError, match=f"{name}: a link to .*elsewhere, allowed are files of the folder itself"):
        extend(PackInputs({"a": examples.folder / "a"}), folder)


def test_links_within_a_folder_and_to_the_whole_of_it_are_followed(examples: Examples, tmp_path: Path) -> None:
    folder = copied(examples.packed, tmp_path / "set")
    (folder / "blocks.bin").rename(folder / "table")
    (folder / "blocks.bin").symlink_to("table")
    (tmp_path / "link").symlink_to(folder)
    read = open_dataset(tmp_path / "link").read("train")
    assert len(read.row_ids) == examples.dataset.manifest.rows


@pytest.mark.parametrize("name", [".manifest-1.json.partial", "inputs-1.json"])
def test_extending_a_data_set_writes_through_no_link_in_it(examples: Examples, tmp_path: Path, name: str) -> None:
    folder, victim = copied(examples.packed, tmp_path / "set"), tmp_path / "victim"
    victim.write_text("mine")
    (folder / name).symlink_to(victim)
    more = write_folder(tmp_path / "more", vectors(20, 3, seed=1), [f"n{number}" for number in range(20)])
    extend(PackInputs({"a": more}), folder)
    assert victim.read_text() == "mine"
    assert not (folder / name).is_symlink()


def test_a_checkpoints_list_reaches_no_file_elsewhere(examples: Examples, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (list_name,) = (name for name in examples.checkpoint if name.startswith("files-"))
    for number, path in enumerate((*HOSTILE, "../secret", str(tmp_path / "secret"))):
        name = f"checkpoint-{number:08d}-001"
        folder = copied(examples.checkpoint, tmp_path / name)
        listed = json.loads(examples.checkpoint[list_name]) | {path: {"bytes": 1, "sha256": "0" * 64}}
        (folder / list_name).write_text(json.dumps(listed))
        for found in (problem(folder), torn(LocalStorage(tmp_path), name)):
            assert found is not None
            assert found.endswith("is missing")


def test_a_link_out_of_a_checkpoint_is_no_part_of_it(examples: Examples, tmp_path: Path) -> None:
    folder = copied(examples.checkpoint, tmp_path / "checkpoint")
    (folder / "state.json").rename(tmp_path / "state.json")
    (folder / "state.json").symlink_to(tmp_path / "state.json")
    assert problem(folder) == "state.json is missing"


@pytest.mark.parametrize("name", ["files-x-of-y.json", "files-00000-of-99999999999.json", "files-00000-of-00000.json"])
def test_a_list_of_another_name_counts_as_none(examples: Examples, tmp_path: Path, name: str) -> None:
    folder = copied(examples.checkpoint, tmp_path / "checkpoint")
    next(folder.glob("files-*")).rename(folder / name)
    assert problem(folder) is not None
    assert not complete(folder)


@pytest.mark.parametrize("key", ["../../escaped", "/escaped", "a/../../escaped", "a//escaped", "a\\b", "."])
def test_keys_of_a_bucket_are_no_paths_out_of_a_folder(s3: str, tmp_path: Path, key: str) -> None:
    bucket = f"keys-{abs(hash(key)) % 10**8}"
    make_bucket(s3, bucket)
    storage = open_storage(f"s3://{bucket}/run?endpoint_override={s3}")
    storage.write("model/config.json", b"{}")
    put(s3, f"/{bucket}/run/model/", b"")  # what a console leaves for a folder
    with storage.local("model") as folder:
        assert [path.name for path in folder.iterdir()] == ["config.json"]
    storage.store.write_bytes(f"model/{key}", b"escaped")
    with pytest.raises(ValueError, match="allowed are paths without empty parts"), storage.local("model"):
        pass
    assert not list(tmp_path.rglob("*escaped*"))
    assert "model" in storage.names(), "a stray key does not keep a run from being continued"


@pytest.mark.parametrize("path", [path for path in HOSTILE if path not in ("a/b",)])
def test_a_sweeps_records_name_no_folder_elsewhere(examples: Examples, path: str) -> None:
    """The checkpoints of a trial that is over are removed, below the folder that its record names."""
    name, content = next((n, c) for n, c in examples.sweep.items() if n.startswith("trials/"))
    trial = json.loads(content)
    with pytest.raises(ValueError, match=rf"{name}: run: found"):
        read_trials(MemoryStorage({name: json.dumps({**trial, "run": path}).encode()}))
    with pytest.raises(ValueError, match=rf"{name}: id: found"):
        read_trials(MemoryStorage({name: json.dumps({**trial, "id": path}).encode()}))
    finals = json.loads(examples.sweep["finals.json"])
    for change in ({"label": path}, {"seeds": [{"seed": 1, "objectives": {}, "test": None, "run": path}]}):
        entries = [{**finals["entries"][0], **change}]
        with pytest.raises(ValueError, match=r"finals.json: entries.0"):
            read_finals(MemoryStorage({"finals.json": json.dumps({**finals, "entries": entries}).encode()}))


@pytest.mark.parametrize("path", HOSTILE)
def test_a_runs_name_and_a_models_modality_are_plain(examples: Examples, tmp_path: Path, path: str) -> None:
    with pytest.raises(ValueError, match=r"setting cluster\.name"):
        build(RunSettings, {"data": {"uri": "x"}, "cluster": {"name": path}})
    if path in (".", ".."):
        return
    config = json.loads(examples.model["config.json"])
    (tmp_path / "config.json").write_text(json.dumps({**config, "modalities": {path: 3, "b": 4}}))
    (tmp_path / "model.safetensors").write_bytes(examples.model["model.safetensors"])
    with pytest.raises(ValueError, match="allowed are a name of letters, digits"):
        FusionModel.load(tmp_path)


@pytest.mark.parametrize("path", [path for path in HOSTILE if path])
def test_a_cell_of_an_evaluation_is_a_file_of_its_folder(path: str) -> None:
    pattern = Pattern("subset", ("a",))
    group = CellGroup(path, path, path, path, path, path, 0, "transferred", pattern, False, (pattern,), "k")
    assert Path(group.name).name == group.name
    assert "\0" not in group.name


@pytest.mark.parametrize("name", ["../up", "/etc/x", "a\\b", "..", "a\0"])
def test_a_tasks_name_is_no_path(name: str) -> None:
    with pytest.raises(ValueError, match="tasks: found the name"):
        parse_tasks(f"{name}=packed/x")


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_link_out_of_the_working_folder_does_not_travel(tmp_path: Path, kind: str) -> None:
    (tmp_path / "home" / ".aws").mkdir(parents=True)
    for name in ("credentials", "config"):
        (tmp_path / "home" / ".aws" / name).write_text("aws_secret_access_key = x")
    work = tmp_path / "work"
    work.mkdir()
    (work / "train.toml").write_text("")
    (work / "inside.toml").symlink_to("train.toml")
    assert pack_folder(work, tmp_path / "first.zip").names == {"train.toml", "inside.toml"}
    target = tmp_path / "home" / ".aws"
    (work / "notes").symlink_to(target if kind == "folder" else target / "credentials")
    with pytest.raises(ValueError, match=r"notes.* lies behind a link to .*\.aws"):
        pack_folder(work, tmp_path / "out.zip")
    (work / ".rayignore").write_text("notes\n")
    assert pack_folder(work, tmp_path / "last.zip").names == {"train.toml", "inside.toml", ".rayignore"}


def test_an_honest_data_set_in_a_bucket_opens(examples: Examples, s3: str) -> None:
    make_bucket(s3, "paths-honest")
    address = f"s3://paths-honest/set?endpoint_override={s3}"
    upload(examples.folder / "packed", address)
    dataset = open_dataset(address)
    assert len(dataset.read("train").row_ids) == examples.dataset.manifest.rows
    assert dataset.table("train").num_rows == examples.dataset.manifest.rows
    assert dataset.table("dropped").num_rows == examples.dataset.manifest.dropped_rows


def copied(files: dict[str, bytes], folder: Path) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder
