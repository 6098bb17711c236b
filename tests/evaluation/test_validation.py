"""Validation against plain loops over single molecules; test rows change nothing; the same floats every time."""

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from dynfusion.evaluation.held_out import chosen_rows
from dynfusion.evaluation.tasks.task import TaskData
from dynfusion.evaluation.validation import (
    check_task,
    checkpoints_between_checks,
    score_test,
    validate,
    validation_line,
)
from dynfusion.evaluation.validation_settings import METRICS, ValidationSettings
from dynfusion.fusion.api import FusionModel
from dynfusion.fusion.losses import LossSettings
from dynfusion.store.dataset import Dataset
from dynfusion.training.assemble import make_objective
from tests.datasets import DIMS, packed
from tests.training.cases import MODEL

NAMES = tuple(DIMS)
SETTINGS = ValidationSettings()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return packed(tmp_path_factory.mktemp("data"), rows=200, holdout=0.15)


@pytest.fixture(scope="module")
def model(dataset: Dataset) -> FusionModel:
    return FusionModel(make_objective(dataset.manifest.modalities, MODEL, LossSettings(), seed=3).network)


@pytest.fixture(scope="module")
def task(dataset: Dataset) -> TaskData:
    """Labels that the modalities say something about; every fifth row is a test row, every fourth a valid one."""
    rows = dataset.read("train", slice(0, 120))
    values = {name: rows.values[name].astype(np.float32) for name in NAMES}
    noise = np.random.default_rng(1).normal(size=120)
    signal = sum(np.where(rows.present[:, i], values[name][:, 0], 0) for i, name in enumerate(NAMES)) + noise
    number = np.arange(120)
    return TaskData(
        name="toxic",
        ids=number.astype(str),
        smiles=np.full(120, ""),
        modalities=NAMES,
        values=values,
        present=rows.present,
        labels=(signal > 0).astype(float)[:, None],
        label_names=("toxic",),
        kind="binary",
        split=np.where(number % 5 == 0, "test", np.where(number % 4 == 0, "valid", "train")),
    )


def shown_alone(model: FusionModel, values: dict, present: np.ndarray, row: int, names: tuple[str, ...]) -> dict | None:
    """Arguments for one molecule that shows these modalities as far as it has them."""
    there = [name for name in names if present[row, NAMES.index(name)]]
    return {name: values[name][row : row + 1].astype(np.float32) for name in there} or None


def test_reconstruction_and_retrieval_agree_with_loops_over_single_molecules(
    dataset: Dataset, model: FusionModel
) -> None:
    rows = dataset.read("holdout")
    assert 20 < len(rows.row_ids) < 40
    statistics = model.statistics()
    everything = [
        model.encode(shown_alone(model, rows.values, rows.present, row, NAMES))[0] for row in range(len(rows.row_ids))
    ]
    skills, recalls = [], []
    for names in [chosen for size in (1, 2) for chosen in combinations(NAMES, size)]:
        error, rival, hits = {}, {}, []
        for row in range(len(rows.row_ids)):
            shown = shown_alone(model, rows.values, rows.present, row, names)
            missing = [n for i, n in enumerate(NAMES) if n not in names and rows.present[row, i]]
            if shown is None or not missing:
                continue
            rebuilt = model.reconstruct(shown)
            for name in missing:
                mean, std = statistics[name]
                truth = np.clip((rows.values[name][row].astype(np.float64) - mean) / std, -8, 8)
                guess = np.clip((rebuilt[name][0] - mean) / std, -8, 8)
                error[name] = error.get(name, 0) + ((truth - guess) ** 2).sum()
                rival[name] = rival.get(name, 0) + (truth**2).sum()
            z = model.encode(shown)[0]
            cosines = [z @ other / np.linalg.norm(z) / np.linalg.norm(other) for other in everything]
            hits.append(int(np.argmax(cosines)) == row)
        skills += [1 - error[name] / rival[name] for name in error]
        recalls.append(np.mean(hits))
    assert len(skills) == 9
    found = validate(model, dataset, {}, SETTINGS)
    assert set(found) == {"score", "reconstruction", "retrieval"}
    assert found["reconstruction"] == pytest.approx(np.mean(skills), abs=1e-5)
    assert found["retrieval"] == pytest.approx(np.mean(recalls), abs=1e-9)
    assert found["score"] == pytest.approx((found["reconstruction"] + found["retrieval"]) / 2)


def test_the_probe_agrees_with_scikit_learn_on_valid_rows(dataset: Dataset, model: FusionModel, task: TaskData) -> None:
    def embedded(rows: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
        return np.concatenate([model.encode(shown_alone(model, task.values, task.present, r, names)) for r in rows])

    train, valid = task.rows("train"), task.rows("valid")
    scaler = StandardScaler().fit(embedded(train, NAMES))
    head = LogisticRegression(C=1e-2, tol=1e-8, max_iter=5000)
    head.fit(scaler.transform(embedded(train, NAMES)), task.labels[train, 0])
    areas = []
    for names in [NAMES, *combinations(NAMES, 2)]:
        scores = np.full(len(valid), task.labels[train, 0].mean())
        usable = task.present[valid][:, [NAMES.index(name) for name in names]].any(axis=1)
        scores[usable] = head.predict_proba(scaler.transform(embedded(valid[usable], names)))[:, 1]
        areas.append(roc_auc_score(task.labels[valid, 0], scores))
    found = validate(model, dataset, {"toxic": task}, SETTINGS)
    assert found["probe"] == pytest.approx(np.mean(areas), abs=2e-3)
    assert found["score"] == pytest.approx(np.mean([found[n] for n in ("reconstruction", "retrieval", "probe")]))


def test_test_rows_are_never_looked_at(dataset: Dataset, model: FusionModel, task: TaskData) -> None:
    test = task.split == "test"
    broken = {name: np.where(test[:, None], np.float32("nan"), values) for name, values in task.values.items()}
    labels = np.where(test[:, None], 1 - task.labels, task.labels)
    garbled = replace(task, values=broken, labels=labels, present=task.present | test[:, None])
    assert validate(model, dataset, {"toxic": garbled}, SETTINGS) == validate(model, dataset, {"toxic": task}, SETTINGS)


def moved(task: TaskData, **parts: str) -> TaskData:
    """The same molecules in other parts of the split."""
    return replace(task, split=np.array([parts.get(part, part) for part in task.split]))


def test_a_probe_is_the_mean_over_its_patterns(dataset: Dataset, model: FusionModel, task: TaskData) -> None:
    """One pattern shows everything, each of three others hides one modality."""
    swapped = moved(task, valid="test", test="valid")
    one, other, both = (
        validate(model, dataset, tasks, SETTINGS) for tasks in ({"a": task}, {"b": swapped}, {"a": task, "b": swapped})
    )
    for found in (one, other, both):
        assert found["probe"] == pytest.approx((found["probe_all"] + 3 * found["probe_one_absent"]) / 4, abs=1e-12)
        assert found["probe_all"] != found["probe_one_absent"]
    for name in ("probe", "probe_all", "probe_one_absent"):
        assert both[name] == pytest.approx((one[name] + other[name]) / 2, abs=1e-12)


def test_a_test_score_is_the_probe_of_the_test_rows(dataset: Dataset, model: FusionModel, task: TaskData) -> None:
    found = score_test(model, {"toxic": task, "again": moved(task, test="valid", valid="test")})
    swapped = validate(model, dataset, {"toxic": moved(task, test="valid", valid="test")}, SETTINGS)
    assert found["toxic"] == swapped["probe"]
    assert found["again"] == validate(model, dataset, {"toxic": task}, SETTINGS)["probe"]
    assert found["toxic"] != found["again"]


def test_a_test_score_reads_test_labels_and_no_valid_row(model: FusionModel, task: TaskData) -> None:
    found = score_test(model, {"toxic": task})["toxic"]
    for part, expected in (("valid", found), ("test", 1 - found)):
        here = (task.split == part)[:, None]
        turned = replace(task, labels=np.where(here, 1 - task.labels, task.labels))
        assert score_test(model, {"toxic": turned})["toxic"] == pytest.approx(expected, abs=1e-12)
    valid = (task.split == "valid")[:, None]
    broken = {name: np.where(valid, np.float32("nan"), values) for name, values in task.values.items()}
    garbled = replace(task, values=broken, present=task.present | valid)
    assert score_test(model, {"toxic": garbled}) == {"toxic": found}


def test_a_task_whose_test_rows_have_one_class_has_no_test_score(model: FusionModel, task: TaskData) -> None:
    test = (task.split == "test")[:, None]
    assert score_test(model, {"toxic": replace(task, labels=np.where(test, 1.0, task.labels))}) == {}
    assert score_test(model, {"toxic": moved(task, test="valid")}) == {}


def test_training_rows_of_the_pack_are_never_looked_at(
    dataset: Dataset, model: FusionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, parts = Dataset.read, []
    monkeypatch.setattr(Dataset, "read", lambda self, part, rows=None: (parts.append(part), read(self, part, rows))[1])
    validate(model, dataset, {}, SETTINGS)
    assert set(parts) == {"holdout"}


def test_the_same_checkpoint_gives_the_same_floats_on_any_number_of_threads(
    dataset: Dataset, model: FusionModel, task: TaskData, tmp_path: Path
) -> None:
    before = torch.get_num_threads()
    again = FusionModel.load(model.save(tmp_path))
    found = []
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        found.append(validate(again, dataset, {"toxic": task}, SETTINGS))
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    assert found == [validate(model, dataset, {"toxic": task}, SETTINGS)] * 3


@pytest.mark.parametrize(
    ("total", "most", "block"), [(10, 20, 4), (20, 20, 4), (1000, 100, 16), (257, 256, 256), (21, 20, 4)]
)
def test_the_rows_looked_at_are_whole_blocks_from_all_over_the_pack(total: int, most: int, block: int) -> None:
    rows = chosen_rows(total, most, block_rows=block)
    assert len(np.unique(rows)) == len(rows) <= most
    assert len(rows) > most - block or len(rows) == total
    assert 0 <= rows.min() <= rows.max() < total
    if total > most:
        runs = rows.reshape(-1, min(block, most))
        assert (runs[:, 0] % block == 0).all()
        assert (np.diff(runs, axis=1) == 1).all()


def test_by_default_a_run_is_validated_where_there_are_held_out_rows(dataset: Dataset) -> None:
    bare = dataset.manifest.model_copy(update={"holdout_rows": 0})
    assert checkpoints_between_checks(ValidationSettings(), dataset.manifest) == 1
    assert checkpoints_between_checks(ValidationSettings(), bare) == 0
    assert checkpoints_between_checks(ValidationSettings(every_checkpoints=3), dataset.manifest) == 3
    assert checkpoints_between_checks(ValidationSettings(every_checkpoints=0), dataset.manifest) == 0
    assert checkpoints_between_checks(ValidationSettings(tasks={"toxic": "here"}), bare) == 1
    assert checkpoints_between_checks(ValidationSettings(keep_best_by="loss"), bare) == 0
    for asked in ({"every_checkpoints": 2}, {"patience": 1}, {"keep_best_by": "score"}):
        with pytest.raises(ValueError, match=r"found 0 held-out rows of 3 modalities.*dynfusion pack --holdout 0\.01"):
            checkpoints_between_checks(ValidationSettings(**asked), bare)
    with pytest.raises(ValueError, match="dynfusion pack --holdout"):
        checkpoints_between_checks(ValidationSettings(tasks={"t": "here"}, keep_best_by="retrieval"), bare)
    for probe in ("probe", "probe_all", "probe_one_absent"):
        with pytest.raises(ValueError, match=rf"keep_best_by: found {probe}, which needs validation\.tasks"):
            checkpoints_between_checks(ValidationSettings(keep_best_by=probe), dataset.manifest)


def test_a_reference_needs_held_out_rows_and_its_metric_a_reference(dataset: Dataset) -> None:
    bare = dataset.manifest.model_copy(update={"holdout_rows": 0})
    assert checkpoints_between_checks(ValidationSettings(reference="r.json"), dataset.manifest) == 1
    with pytest.raises(ValueError, match="found 0 held-out rows"):
        checkpoints_between_checks(ValidationSettings(reference="r.json", tasks={"toxic": "here"}), bare)
    with pytest.raises(ValueError, match=r"found over_ridge, which needs validation\.reference"):
        checkpoints_between_checks(ValidationSettings(keep_best_by="over_ridge"), dataset.manifest)


def test_every_metric_can_choose_the_best_checkpoint() -> None:
    for name in METRICS:
        assert ValidationSettings(keep_best_by=name).keep_best_by == name


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"export": "best"}, "export best needs keep_best_by"),
        ({"every_checkpoints": 0, "patience": 2}, "gives no score for patience"),
        ({"every_checkpoints": 0, "keep_best_by": "score"}, "gives no score for patience or keep_best_by"),
    ],
)
def test_settings_that_contradict_one_another_are_refused(wrong: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        ValidationSettings(**wrong)


def test_a_task_that_cannot_be_validated_on_is_refused(dataset: Dataset, task: TaskData) -> None:
    check_task(task, dataset.manifest)
    unsplit = replace(task, split=np.where(task.split == "valid", "train", task.split))
    with pytest.raises(
        ValueError, match=r"validation\.tasks\.toxic: found 0 labelled valid rows, needed are 1 or more"
    ):
        check_task(unsplit, dataset.manifest)
    narrow = replace(task, values={name: values[:, :4] for name, values in task.values.items()})
    with pytest.raises(ValueError, match=r"its modalities are \{'a': 4.*allowed are the training data's: \{'a': 12"):
        check_task(narrow, dataset.manifest)
    with pytest.raises(ValueError, match="labels are real numbers"):
        check_task(replace(task, kind="regression"), dataset.manifest)
    for part in ("train", "valid"):
        same = np.where((task.split == part)[:, None] & ~np.isnan(task.labels), 1.0, task.labels)
        with pytest.raises(ValueError, match=rf"found one class among its \d+ labelled {part} rows, needed are two"):
            check_task(replace(task, labels=same), dataset.manifest)


def test_a_check_is_one_line() -> None:
    metrics = {"score": 0.71, "reconstruction": 0.65, "retrieval": 0.77}
    assert validation_line(4000, metrics) == (
        "step 4000  validation score 0.7100 (reconstruction 0.6500 retrieval 0.7700)"
    )
