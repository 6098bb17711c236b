"""The model that a run leaves."""

import json
from pathlib import Path

from dynfusion.edges.datasets import open_sources
from dynfusion.run_settings import RunSettings
from dynfusion.settings import build
from dynfusion.training.run_folder import Ending, finish, finished
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
