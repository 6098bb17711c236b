"""dynfusion is upgraded between the two halves of a run."""

import json
import os
import shutil
from pathlib import Path

import pytest

from dynfusion.store.dataset import Dataset
from tests.chaos.ledger import note
from tests.chaos.runs import once, require_whole, run_file, train
from tests.clusters import ROOT

pytestmark = pytest.mark.slow

LATER = "9.9.9"


def later_version(folder: Path) -> Path:
    """A copy of the package that has another version and knows one setting more."""
    shutil.copytree(ROOT / "dynfusion", folder / "dynfusion", ignore=shutil.ignore_patterns("__pycache__"))
    config = folder / "dynfusion" / "training" / "config.py"
    head = "class TrainSettings(Settings):\n"
    before = config.read_text()
    assert before.count(head) == 1
    docstring, rest = before.split(head)[1].split("\n", 1)
    config.write_text(before.split(head)[0] + head + docstring + "\n\n    from_later_on: float = 0.0" + "\n" + rest)
    metadata = folder / f"dynfusion-{LATER}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: dynfusion\nVersion: {LATER}\n")
    return folder


def test_a_later_version_with_more_settings_continues_a_run(
    dataset: Dataset, undisturbed: bytes, tmp_path: Path
) -> None:
    path = run_file(dataset.uri, tmp_path)
    alone = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    disturb, done = once(150, lambda driver: driver.kill())
    code, output = train(path, alone, disturb)
    assert done
    assert code != 0, output
    later = later_version(tmp_path / "later")
    code, output = train(path, alone | {"PYTHONPATH": str(later)}, before=("env", "--chdir", str(later)))
    assert code == 0, output
    assert f"continuing from {tmp_path}/run/checkpoint-" in output
    require_whole(tmp_path, undisturbed)
    training = json.loads((tmp_path / "run" / "model" / "training.json").read_text())
    assert training["versions"]["dynfusion"] == LATER
    assert training["settings"]["train"]["from_later_on"] == 0.0
    note(
        "dynfusion is upgraded between two halves of a run, to a version with one setting more",
        "the same command continues: the weights of an undisturbed run, each record once",
        f"so it was, killed at step {done[0]}; the model says that {LATER} finished it",
    )
