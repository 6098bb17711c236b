"""What a run's folder, a checkpoint or a model says, taken or refused in one sentence; each was a crash before."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from dynfusion.fusion.api import FusionModel
from dynfusion.training.checkpoint import (
    checkpoint_names,
    latest,
    next_attempt,
    problem,
    read_history,
    read_state,
    step_of,
)
from dynfusion.training.lease import LEASE, read_lease
from dynfusion.training.run_folder import Identity, claim, finished
from dynfusion.training.storage import LocalStorage
from dynfusion.verbs.evaluated_models import read_training
from tests.fuzz.examples import Examples, make_examples
from tests.fuzz.memory import MemoryStorage


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    return make_examples(tmp_path_factory.mktemp("examples"))


def copied(files: dict[str, bytes], folder: Path) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"[]", "is no list of files with bytes and sha256"),
        (b'{"state.json": 1}', "is no list of files with bytes and sha256"),
        (b'{"state.json": {"bytes": "1", "sha256": "0"}}', "is no list of files with bytes and sha256"),
        (b'{"state.json": {"bytes": 1}}', "is no list of files with bytes and sha256"),
        (b"[" * 100_000, "is truncated"),
        (b'{"a": {"bytes": 1, "sha256": "0"}, "a": {"bytes": 2, "sha256": "0"}}', "is truncated"),
    ],
)
def test_a_list_of_files_of_another_kind_makes_a_checkpoint_torn(
    examples: Examples, tmp_path: Path, content: bytes, sentence: str
) -> None:
    folder = copied(examples.checkpoint, tmp_path / "checkpoint-00000008-001")
    assert problem(folder) is None
    (folder / "files-00000-of-00001.json").write_bytes(content)
    assert problem(folder) == f"files-00000-of-00001.json {sentence}"


def test_folders_that_no_run_names_so_are_no_checkpoints(examples: Examples, tmp_path: Path) -> None:
    """A copy that somebody made by hand ended every later start."""
    copied(examples.checkpoint, tmp_path / "checkpoint-00000008-001")
    for name in ("checkpoint-old", "checkpoint-00000008-001.bak", "checkpoint-8-1", "checkpoint-00000009-00x"):
        (tmp_path / name).mkdir()
    assert [step_of(name) for name in ("checkpoint-00000008-001", "checkpoint-00000008-001.json")] == [8, 8]
    assert {step_of(name) for name in ("notes.json", "checkpoint-x.json", "checkpoint-8-1", "")} == {-1}
    storage = LocalStorage(tmp_path)
    assert checkpoint_names(storage) == ["checkpoint-00000008-001"]
    assert next_attempt(storage) == 2
    with latest(storage, print) as found:
        assert found is not None
        assert found[0] == "checkpoint-00000008-001"


@pytest.mark.parametrize("content", [b"[]", b"{}", b'{"used": "x"}', b'{"used": -1}', b'{"used": 1e3}', b'{"used": 1'])
def test_a_record_of_attempts_of_another_kind_is_named(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"memory/attempts.json: (found|not readable as JSON)"):
        next_attempt(MemoryStorage({"attempts.json": content}))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda state: {**state, "step": -1}, "step: Input should be greater"),
        (lambda state: {**state, "world_size": "2"}, "world_size: Input should be a valid integer"),
        (lambda state: {**state, "generator": [256]}, r"generator\.0: Input should be less"),
        (lambda state: {**state, "a\nb": 1}, r"a\\nb: Unexpected"),
        (lambda state: [state], "not a state of this version"),
    ],
)
def test_a_state_of_another_kind_is_named(
    examples: Examples, tmp_path: Path, change: Callable[[Any], Any], sentence: str
) -> None:
    folder = copied(examples.checkpoint, tmp_path)
    state = json.loads(examples.checkpoint["state.json"])
    (folder / "state.json").write_text(json.dumps(change(state)))
    with pytest.raises(ValueError, match=rf"state.json: not a state of this version, .*{sentence}|{sentence}"):
        read_state(folder)


@pytest.mark.parametrize("line", [b"[]", b"1", b'{"loss": 1.0}', b'{"step": "4"}', b"{", b"\xff"])
def test_a_line_of_history_of_another_kind_is_named(examples: Examples, tmp_path: Path, line: bytes) -> None:
    folder = copied(examples.checkpoint, tmp_path)
    assert len(read_history(folder)) == 2
    (folder / "history.jsonl").write_bytes(examples.checkpoint["history.jsonl"] + line + b"\n")
    with pytest.raises(ValueError, match=r"history.jsonl, line 3: "):
        read_history(folder)


@pytest.mark.parametrize(
    "content",
    [
        *(b"[]", b"{}", b'{"identity": {}, "settings": {}}', b'{"identity": 1, "settings": 1}', b"{"),
        b'{"identity": {"run": "a", "run_but_epochs": "b", "data": "c"}, "settings": {"train": {"epochs": "3"}}}',
        b'{"identity": {"run": "a\\n", "run_but_epochs": "b", "data": "c"}, "settings": {"train": {"epochs": 3}}}',
    ],
)
def test_a_run_folder_of_another_kind_is_named(content: bytes) -> None:
    storage, settings = MemoryStorage({"run.json": content}), {"train": {"epochs": 3}}
    with pytest.raises(ValueError, match=r"memory/run.json: not (a run of this version|readable as JSON)"):
        claim(storage, settings, Identity("a", "b", "c"), print)


@pytest.mark.parametrize(
    "training", [b"[]", b'{"settings": []}', b'{"settings": {"train": {"epochs": "9"}}}', b"[" * 9999]
)
def test_a_training_record_of_another_kind_is_no_finished_run(training: bytes) -> None:
    assert not finished(MemoryStorage({"model/training.json": training}), 1)


CONFIGS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "no modalities": (lambda config: {**config, "modalities": {}}, "found no modalities or no settings"),
    "a list of them": (lambda config: {**config, "modalities": ["a"]}, "found no modalities or no settings"),
    "no settings": (lambda config: {**config, "settings": None}, "found no modalities or no settings"),
    "no width": (lambda config: {**config, "modalities": {"a": 0}}, "modality 'a' of width 0, allowed"),
    "true": (lambda config: {**config, "modalities": {"a": True}}, "modality 'a' of width True, allowed"),
    "more than memory": (lambda config: {**config, "modalities": {"a": 1 << 40, "b": 4}}, "does not fit config.json"),
    "more than numbers": (lambda config: {**config, "modalities": {"a": 1 << 70, "b": 4}}, "no such network"),
    "another modality": (lambda config: {**config, "modalities": {"a": 3, "b": 4, "c": 5}}, "is not there, needed is"),
    "an unknown setting": (
        lambda config: {**config, "settings": {**config["settings"], "widht": 3}},
        "config.json: setting widht: unknown name",
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_models_settings_that_do_not_belong_to_its_weights(examples: Examples, tmp_path: Path, name: str) -> None:
    change, sentence = CONFIGS[name]
    folder = copied(examples.model, tmp_path)
    (folder / "config.json").write_text(json.dumps(change(json.loads(examples.model["config.json"]))))
    with pytest.raises(ValueError, match=sentence) as caught:
        FusionModel.load(folder)
    assert type(caught.value) is ValueError


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda tensor: tensor[None], r"towers\.0\.mean is of shape \(1, 3\), needed is of shape \(3,\)"),
        (lambda tensor: tensor.to(torch.int64), r"towers\.0\.mean holds torch\.int64, allowed are floating"),
        (lambda tensor: None, r"towers\.0\.mean is not there, needed is of shape \(3,\)"),
    ],
)
def test_weights_that_do_not_belong_to_a_model(
    examples: Examples, tmp_path: Path, change: Callable[[Any], Any], sentence: str
) -> None:
    folder, tensors = copied(examples.model, tmp_path), load(examples.model["model.safetensors"])
    changed = change(tensors.pop("towers.0.mean"))
    (folder / "model.safetensors").write_bytes(save(tensors | ({} if changed is None else {"towers.0.mean": changed})))
    with pytest.raises(ValueError, match=sentence):
        FusionModel.load(folder)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"[]", "found list, allowed is an object"),
        (b'{"data": 1}', "data: found int, allowed is an object"),
        (b'{"settings": {"train": []}}', r"settings.train: found list, allowed is an object"),
        (b'{"settings": {"train": {"seed": []}}}', r"settings.train.seed: found \[\], allowed is a whole number"),
        (b'{"data": {"uri": [1]}}', r"data.uri: found \(1,\), allowed are addresses"),
        (b"{", "not readable as JSON"),
    ],
)
def test_what_a_model_says_of_its_training_is_checked(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "training.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"training.json.*{sentence}"):
        read_training(tmp_path)


@pytest.mark.parametrize(
    "change",
    [{"pid": "1"}, {"pid": 0}, {"pid": 10**30}, {"beat": None}, {"born": "x"}, {"more": 1}, {"pid": 1.5}]
    + [{"beat": beat} for beat in (float("nan"), float("inf"), 1e300, -1.0)]
    + [{"host": "\x1b[2J"}, {"host": 1}],
)
def test_a_lease_that_is_not_to_be_understood_is_nobodys(change: dict[str, Any]) -> None:
    lease = {"owner": "a", "host": "b", "machine": "c", "pid": 1, "born": 1.0, "beat": 2.0}
    assert read_lease(MemoryStorage({LEASE: json.dumps(lease).encode()})) is not None
    assert read_lease(MemoryStorage({LEASE: json.dumps({**lease, **change}).encode()})) is None
