"""The model that a run leaves."""

import json
from pathlib import Path

import pytest

from dynfusion.edges.datasets import open_sources
from dynfusion.run_settings import RunSettings
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
