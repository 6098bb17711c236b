"""A reference behaves alike on a disk and in a bucket, and a run's validation finds it from wherever it runs."""

from dataclasses import replace
from pathlib import Path

import pytest

from dynfusion.edges.absolute_paths import with_absolute_paths
from dynfusion.edges.ray_board import Watch
from dynfusion.edges.ray_train import train_on_ray
from dynfusion.edges.ray_validation import Validator
from dynfusion.edges.references import keep_reference, open_reference
from dynfusion.evaluation.reference import Reference, fit_reference
from dynfusion.evaluation.settings import ImputerSettings
from dynfusion.evaluation.validation import validate
from dynfusion.evaluation.validation_settings import ValidationSettings
from dynfusion.fusion.api import FusionModel
from dynfusion.fusion.losses import LossSettings
from dynfusion.run_settings import RunSettings
from dynfusion.settings import build
from dynfusion.store.dataset import Dataset
from dynfusion.training.assemble import make_objective
from tests.datasets import packed
from tests.s3 import make_bucket
from tests.training.cases import MODEL, TRAIN


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return packed(tmp_path_factory.mktemp("data"), rows=300, holdout=0.1)


@pytest.fixture(scope="module")
def reference(dataset: Dataset) -> Reference:
    return fit_reference(dataset, ImputerSettings(alphas=(0.01,)), ValidationSettings().rows)


@pytest.fixture(params=["disk", "file", "bucket"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param != "bucket":
        return f"{'file://' if request.param == 'file' else ''}{tmp_path}/sweep/reference.json"
    endpoint = request.getfixturevalue("s3")
    bucket = f"references-{abs(hash(request.node.name)) % 10**8}"
    make_bucket(endpoint, bucket)
    return f"s3://{bucket}/sweep/reference.json?endpoint_override={endpoint}"


def test_what_was_kept_is_opened(address: str, dataset: Dataset, reference: Reference) -> None:
    settings = ValidationSettings(reference=address)
    assert open_reference(ValidationSettings(), dataset.manifest) is None
    with pytest.raises(ValueError, match=r"^validation\.reference: there is no .*reference\.json"):
        open_reference(settings, dataset.manifest)
    keep_reference(address, reference)
    assert open_reference(settings, dataset.manifest) == reference
    keep_reference(address, replace(reference, dataset="0" * 32))
    with pytest.raises(ValueError, match=r"it was made on data set 0{32}, allowed is one made on"):
        open_reference(settings, dataset.manifest)


def test_a_run_s_validation_holds_its_checkpoints_against_the_reference(
    dataset: Dataset, reference: Reference, tmp_path: Path
) -> None:
    keep_reference(str(tmp_path / "reference.json"), reference)
    model = FusionModel(make_objective(dataset.manifest.modalities, MODEL, LossSettings(), seed=3).network)
    model.save(tmp_path / "run" / "checkpoint-00000004-001" / "model")
    validation = {"reference": str(tmp_path / "reference.json")}
    settings = build(RunSettings, {"data": {"uri": dataset.uri}, "validation": validation})
    found = Validator(settings.model_dump(mode="json"), str(tmp_path / "run"), None).work_out("checkpoint-00000004-001")
    assert found == validate(model, dataset, {}, settings.validation, reference)
    assert found["over_ridge"] < found["reconstruction"]


def test_a_reference_of_other_data_is_refused_before_a_run_begins(
    dataset: Dataset, reference: Reference, tmp_path: Path
) -> None:
    keep_reference(str(tmp_path / "reference.json"), replace(reference, dataset="0" * 32))
    tree = {
        "data": {"uri": dataset.uri},
        "train": TRAIN.model_dump(),
        "validation": {"reference": str(tmp_path / "reference.json")},
        "cluster": {"name": "run", "storage": str(tmp_path / "runs")},
    }
    with pytest.raises(ValueError, match=r"reference\.json: it was made on data set 0{32}"):
        train_on_ray(build(RunSettings, tree), Watch(lambda _: None, lambda _: None))
    assert not (tmp_path / "runs").exists()


def test_addresses_leave_the_driver_absolute_and_a_file_keeps_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tree = {
        "data": {"uri": ["packed", "packed/manifest-1.json"]},
        "train": {"init": "model"},
        "validation": {"tasks": {"t": "sets/t", "far": "s3://b/t"}, "reference": "sweep/reference.json"},
    }
    found = with_absolute_paths(build(RunSettings, tree))
    assert found.data.uris == (f"{tmp_path}/packed", f"{tmp_path}/packed/manifest-1.json")
    assert found.train.init == f"{tmp_path}/model"
    assert found.validation.tasks == {"t": f"{tmp_path}/sets/t", "far": "s3://b/t"}
    assert found.validation.reference == f"{tmp_path}/sweep/reference.json"
    assert with_absolute_paths(found) == found
