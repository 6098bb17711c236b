"""The model that a run leaves."""

import json
from pathlib import Path
from typing import Any

import pytest

from dynfusion.edges.datasets import open_sources
from dynfusion.run_settings import RunSettings, identity, reidentified
from dynfusion.settings import build
from dynfusion.training.run_folder import Ending, Identity, claim, finish, finished
from dynfusion.training.storage import LocalStorage
from tests.datasets import packed
from tests.training.cases import TRAIN, run


def test_a_model_does_not_say_where_its_run_was_watched(tmp_path: Path) -> None:
    dataset = packed(tmp_path / "data")
    _, history = run(dataset, tmp_path)
    tracking = {"mlflow": "http://tracking.internal:5000", "wandb": "a-project"}
    settings = build(RunSettings, {"data": {"uri": dataset.uri}, "train": TRAIN.model_dump(), "tracking": tracking})
    checkpoint = sorted(tmp_path.glob("checkpoint-*"))[-1]
    storage = LocalStorage(tmp_path / "run")
    ending = Ending(15, "every epoch is done", history)
    finish(storage, checkpoint, ending, settings.model_dump(mode="json"), open_sources(settings.data))
    text = (tmp_path / "run" / "model" / "training.json").read_text()
    assert "tracking.internal" not in text
    assert "a-project" not in text
    assert json.loads(text)["settings"]["train"] == TRAIN.model_dump()
    assert finished(storage, TRAIN.epochs)


def test_a_model_folder_that_a_driver_left_half_written_does_not_count_as_finished(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    storage.write("model/training.json", b'{"settings": {"train": {"epo')
    assert not finished(storage, 1)


def test_files_are_moved_into_place_and_leave_nothing_beside_them(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "training.json").write_text("{}")
    LocalStorage(tmp_path / "run").put(tmp_path / "made", "model", last="training.json")
    assert [file.name for file in (tmp_path / "run" / "model").iterdir()] == ["training.json"]


def test_a_folder_in_which_nothing_was_saved_takes_other_settings_and_says_so(tmp_path: Path) -> None:
    storage, said = LocalStorage(tmp_path), list[str]()
    claim(storage, {"train": {"epochs": 3}}, Identity("a", "b", "c"), said.append)
    storage.write("history.jsonl", b"")
    storage.write("checkpoint_manager_snapshot.json", b'{"checkpoint_results": []}')
    claim(storage, {"train": {"epochs": 3}}, Identity("a", "b", "c"), said.append)
    assert said == []
    other = {"train": {"epochs": 2}}
    claim(storage, other, Identity("x", "y", "z"), said.append)
    assert [line.rpartition("; ")[2] for line in said] == ["begun afresh"]
    assert json.loads(storage.read("run.json"))["settings"] == other


@pytest.mark.parametrize(
    "left", ["checkpoint-00000001-001/torn", "model/training.json", "checkpoint_manager_snapshot.json"]
)
def test_a_folder_that_holds_or_held_anything_stays_its_runs(left: str, tmp_path: Path) -> None:
    storage, said = LocalStorage(tmp_path), list[str]()
    claim(storage, {"train": {"epochs": 3}}, Identity("a", "b", "c"), said.append)
    storage.write(left, b'{"checkpoint_dir_name": "checkpoint-00000001-001"}')
    with pytest.raises(ValueError, match=r"train\.epochs was 3 and is now 2"):
        claim(storage, {"train": {"epochs": 2}}, Identity("x", "y", "c"), said.append)
    assert said == []


def recorded_by_an_earlier_version(storage: LocalStorage, tree: dict[str, Any]) -> None:
    """Its fingerprints are those of its own tree of settings."""
    record = {"identity": {"run": "a1", "run_but_epochs": "b1", "data": "c1"}, "settings": tree}
    storage.write("run.json", json.dumps(record).encode())
    storage.write("model/config.json", b"{}")


def claimed(storage: LocalStorage, settings: RunSettings) -> None:
    mine = identity(settings, "c1")
    claim(storage, settings.model_dump(mode="json"), mine, print, lambda tree: reidentified(tree, "c1"))


def test_a_run_of_an_earlier_version_that_knew_fewer_settings_is_the_same_run(tmp_path: Path) -> None:
    storage, settings = LocalStorage(tmp_path), build(RunSettings, {"data": {"uri": "data"}})
    tree = settings.model_dump(mode="json")
    del tree["train"]["checkpoint_every_steps"], tree["loss"]["visible_weight"]
    recorded_by_an_earlier_version(storage, tree)
    claimed(storage, settings)
    other = build(RunSettings, settings.model_dump(mode="json"), {"loss": {"visible_weight": 0.123}})
    with pytest.raises(ValueError, match=r"loss\.visible_weight was None and is now 0\.123"):
        claimed(storage, other)


def test_a_run_of_an_earlier_version_with_a_setting_that_is_gone_is_refused_by_its_name(tmp_path: Path) -> None:
    storage, settings = LocalStorage(tmp_path), build(RunSettings, {"data": {"uri": "data"}})
    tree = settings.model_dump(mode="json")
    tree["train"]["sorcery"] = 0.5
    recorded_by_an_earlier_version(storage, tree)
    with pytest.raises(ValueError, match=r"train\.sorcery was 0\.5 and is now None"):
        claimed(storage, settings)
