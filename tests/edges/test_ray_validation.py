"""Validation on real Ray: it stops a run, a killed worker changes nothing, the best checkpoint becomes the model."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import ray

from dynfusion.edges.ray_board import Watch
from dynfusion.edges.ray_train import train_on_ray
from dynfusion.evaluation.validation import ValidationSettings, validate
from dynfusion.fusion.api import FusionModel
from dynfusion.run_settings import RunSettings
from dynfusion.store.dataset import Dataset
from dynfusion.training.checkpoint import read_history
from dynfusion.training.checks import validated
from tests.datasets import packed
from tests.edges.test_ray_train import settings, silent, training_worker, weights
from tests.training.cases import untimed

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return packed(tmp_path_factory.mktemp("data"), rows=900, holdout=0.2)


def stopping(dataset: Dataset, storage: Path) -> RunSettings:
    """Checks at steps 2, 4, ...; none after the first is an improvement, so that step 8 is the first that may stop.

    The two workers hold every CPU of the cluster.
    """
    base = settings(dataset, storage, cpus_per_worker=ray.cluster_resources()["CPU"] / 2)
    validation = ValidationSettings(patience=2, min_improvement=10.0, keep_best_by="loss", export="best")
    train = base.train.model_copy(update={"checkpoint_every_steps": 2, "keep_checkpoints": 1})
    return base.model_copy(update={"validation": validation, "train": train})


def training(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "model" / "training.json").read_text())


@pytest.fixture(scope="module")
def stopped(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    said: list[str] = []
    storage = tmp_path_factory.mktemp("stopped")
    return Path(train_on_ray(stopping(dataset, storage), Watch(silent, said.append))), said


def test_a_run_stops_when_its_score_no_longer_rises_though_workers_hold_every_cpu(
    dataset: Dataset, stopped: tuple[Path, list[str]]
) -> None:
    folder, said = stopped
    record = training(folder)
    # Step 8 knows the scores of 2, 4 and 6: one to beat and two that did not.
    assert record["ended"]["step"] == 8
    assert record["ended"]["why"].startswith("2 checks have not raised the validation score above")
    assert [check["step"] for check in record["validation"]] == [2, 4, 6, 8]
    assert [entry["step"] for entry in record["history"]] == [2, 4, 6, 8]
    assert [text.split()[1] for text in said if "validation score 0." in text and "reconstruction" in text] == list("2468")
    assert any(text.startswith("stopping early at step 8: 2 checks have not raised") for text in said)
    last = folder / "checkpoint-00000008-001"
    found = validate(FusionModel.load(last / "model"), dataset, {}, ValidationSettings())
    assert record["validation"][-1]["validation"] == found
    assert [check["step"] for check in validated(read_history(last))] == [2, 4, 6]
