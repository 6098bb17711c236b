"""Validation on real Ray: it stops a run, a killed worker changes nothing, the best checkpoint becomes the model."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import ray.train

from dynfusion.edges import ray_trial, ray_validation
from dynfusion.edges.ray_board import Watch
from dynfusion.edges.ray_halt import Halt, HaltedError
from dynfusion.edges.ray_train import _best, train_on_ray
from dynfusion.edges.ray_trial import JobRun
from dynfusion.edges.ray_validation import Validator, known_score, validation_config, wait_for_score
from dynfusion.edges.s3_storage import open_storage
from dynfusion.evaluation.validation import validate, validation_line
from dynfusion.evaluation.validation_settings import ValidationSettings
from dynfusion.fusion.api import FusionModel
from dynfusion.run_settings import RunSettings
from dynfusion.settings import to_toml
from dynfusion.store.dataset import Dataset
from dynfusion.store.pack import PackInputs, PackSettings, pack
from dynfusion.training.checkpoint import checkpoint_name, read_history
from dynfusion.training.checks import validated
from dynfusion.training.run_folder import Ending
from dynfusion.training.storage import LocalStorage, exists
from dynfusion.tuning.messages import Ended, Job, Report
from tests.datasets import packed, write_folders
from tests.edges.test_ray_train import settings, silent, training_worker, weights
from tests.training.cases import TRAIN, run, untimed

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return packed(tmp_path_factory.mktemp("data"), rows=900, holdout=0.2)


def stopping(dataset: Dataset, storage: Path, *, keep_best_by: str = "loss") -> RunSettings:
    """Checks at steps 2, 4, ...; none after the first is an improvement, so that step 6 is the first that may stop.

    The two workers hold every CPU of the cluster. They learn too fast, so that the loss is lowest at first.
    """
    base = settings(dataset, storage, cpus_per_worker=ray.cluster_resources()["CPU"] / 2)
    validation = ValidationSettings(patience=1, min_improvement=10.0, keep_best_by=keep_best_by, export="best")
    train = base.train.model_copy(update={"checkpoint_every_steps": 2, "keep_checkpoints": 1, "learning_rate": 0.4})
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
    # Step 6 knows the scores of 2 and 4: one to beat and one that did not.
    assert record["ended"]["step"] == 6
    score = record["validation"][0]["validation"]["score"]
    why = f"the validation score has not risen above {score:.4f}, that of step 2, for 1 check"
    assert record["ended"]["why"] == why
    assert [check["step"] for check in record["validation"]] == [2, 4, 6]
    assert [entry["step"] for entry in record["history"]] == [2, 4, 6]
    assert [text.split()[1] for text in said if "  validation score" in text] == ["2", "4", "6"]
    assert f"stopping early at step 6: {why}" in said
    last = folder / "checkpoint-00000006-001"
    found = validate(FusionModel.load(last / "model"), dataset, {}, ValidationSettings())
    assert record["validation"][-1]["validation"] == found
    assert [check["step"] for check in validated(read_history(last))] == [2, 4]


def test_the_best_of_the_kept_checkpoints_becomes_the_model(stopped: tuple[Path, list[str]]) -> None:
    folder, said = stopped
    losses = {entry["step"]: entry["loss"] for entry in training(folder)["history"]}
    assert min(losses, key=lambda step: losses[step]) == 2
    kept = ["checkpoint-00000002-001", "checkpoint-00000006-001"]
    assert [path.name for path in sorted(folder.glob("checkpoint-*"))] == kept
    assert training(folder)["steps"] == 2
    assert all((weights(folder / kept[0])[name] == tensor).all() for name, tensor in weights(folder).items())
    assert f"the model is that of {kept[0]}, the best of the kept ones by loss" in said


@pytest.mark.slow
def test_a_killed_worker_changes_neither_the_step_that_a_run_stops_at_nor_its_weights(
    dataset: Dataset, stopped: tuple[Path, list[str]], tmp_path: Path
) -> None:
    killed: list[int] = []
    said: list[str] = []

    def kill_once(record: dict[str, Any]) -> None:
        if record["step"] >= 4 and not killed:
            killed.append(training_worker())
            os.kill(killed[0], signal.SIGKILL)

    folder = Path(train_on_ray(stopping(dataset, tmp_path), Watch(kill_once, said.append)))
    assert killed
    assert any("continuing from" in text for text in said)
    same_end(folder, stopped[0])
    assert all((weights(folder)[name] == tensor).all() for name, tensor in weights(stopped[0]).items())


@pytest.mark.slow
def test_a_killed_driver_and_the_same_command_again_stop_at_the_same_step(
    dataset: Dataset, stopped: tuple[Path, list[str]], tmp_path: Path
) -> None:
    run_file = tmp_path / "run.toml"
    run_file.write_text(to_toml(stopping(dataset, tmp_path, keep_best_by="score")))
    command = [sys.executable, "-m", "dynfusion", "train", str(run_file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        for line in driver.stdout:
            if line.startswith("step 4/"):
                break
        driver.kill()
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "continuing from" in again.stdout
    assert "step 4  validation score" in again.stdout
    same_end(tmp_path / "run", stopped[0])
    scores = {check["step"]: check["validation"]["score"] for check in training(tmp_path / "run")["validation"]}
    assert training(tmp_path / "run")["steps"] == max(scores, key=lambda step: scores[step]) != 2


def same_end(found: Path, expected: Path) -> None:
    """The same decisions, the same numbers and the same weights, bit for bit."""
    one, other = training(found), training(expected)
    assert one["ended"] == other["ended"]
    assert one["validation"] == other["validation"]
    assert untimed(one["history"]) == untimed(other["history"])
    lasts = [sorted(folder.glob("checkpoint-00000006-*"))[-1] for folder in (found, expected)]
    assert all((weights(lasts[0])[name] == tensor).all() for name, tensor in weights(lasts[1]).items())


@pytest.mark.slow
def test_training_waits_at_a_held_check_until_it_is_released(dataset: Dataset, tmp_path: Path) -> None:
    first = TRAIN.checkpoint_every_steps
    halt, heard = Halt((first,)), list[tuple[int, bool]]()
    gone_on = threading.Event()

    def validated(made: dict[str, Any]) -> None:
        if made["step"] == first:  # training has had the time of a check to go on
            heard.append((first, gone_on.is_set()))
            halt.release(first)

    def record(made: dict[str, Any]) -> None:
        if made["step"] > first:
            gone_on.set()

    train_on_ray(settings(dataset, tmp_path), Watch(record, silent, validated), halt)
    assert heard == [(first, False)]
    assert gone_on.is_set()


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.slow
def test_a_held_check_that_was_not_scored_before_the_driver_died_is_waited_for_again(
    dataset: Dataset, tmp_path: Path, *, ends: bool
) -> None:
    first = TRAIN.checkpoint_every_steps
    end_at_check(dataset, tmp_path, first)
    for score in (tmp_path / "run" / "validation").glob("*.json"):
        score.unlink()
    halt, trained, heard = Halt((first,)), list[int](), list[tuple[int, list[int]]]()

    def validated(made: dict[str, Any]) -> None:
        heard.append((made["step"], trained.copy()))
        if made["step"] == first and ends:
            threading.Thread(target=halt.pull, daemon=True).start()
        elif made["step"] == first:
            halt.release(first)

    watch = Watch(lambda made: trained.append(made["step"]), silent, validated)
    if ends:
        with pytest.raises(HaltedError):
            train_on_ray(settings(dataset, tmp_path), watch, halt)
        assert not trained
    else:
        train_on_ray(settings(dataset, tmp_path), watch, halt)
        assert min(trained) > first
    assert heard[0] == (first, [])


def end_at_check(dataset: Dataset, storage: Path, step: int) -> None:
    """A run that is held at a check, and ended there."""
    halt = Halt((step,))

    def validated(_: dict[str, Any]) -> None:
        threading.Thread(target=halt.pull, daemon=True).start()

    with pytest.raises(HaltedError):
        train_on_ray(settings(dataset, storage), Watch(silent, silent, validated), halt)


def test_a_score_that_ray_lost_is_worked_out_from_the_stored_checkpoint(dataset: Dataset, tmp_path: Path) -> None:
    steps = TRAIN.model_copy(update={"checkpoint_every_steps": 6})
    run(dataset, tmp_path / "run", settings=steps)
    saved = sorted((tmp_path / "run").glob("checkpoint-*"))
    torn = saved[0].with_name("checkpoint-00000006-002")
    shutil.copytree(saved[0], torn)
    (torn / "model" / "model.safetensors").unlink()
    settled = stopping(dataset, tmp_path).model_dump(mode="json")
    validator, said = Validator(settled, str(tmp_path / "run"), board=None), list[str]()
    found = known_score(validator, 6, said.append)
    assert found == validate(FusionModel.load(saved[0] / "model"), dataset, {}, ValidationSettings())
    assert said == [validation_line(6, found)]
    shutil.rmtree(saved[0])  # once known, a score needs its checkpoint no longer
    assert known_score(validator, 6, said.append) == found
    assert known_score(validator, 3, said.append) == {}
    assert said[1:] == ["step 3 was not validated: its checkpoint is gone"]


def test_a_check_that_takes_too_long_is_announced_and_given_up(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled = stopping(dataset, tmp_path).model_dump(mode="json")
    settled["validation"] |= {"patience": 0, "timeout_seconds": 0.2}
    validator, told = Validator(settled, str(tmp_path / "run"), board=None), list[tuple[str, str]]()
    assert validation_config(validator).task_config.timeout_s == 0.2

    def waited(timeout_s: float) -> list[ray.train.ReportedCheckpoint]:
        told.append(("waited", f"{timeout_s:g}"))
        time.sleep(timeout_s)
        return []

    monkeypatch.setattr(ray_validation, "_WORTH_SAYING_SECONDS", 0.05)
    monkeypatch.setattr(ray.train, "get_all_reported_checkpoints", waited)
    assert wait_for_score(validator, 6, lambda text: told.append(("said", text))) == {}
    assert [kind for kind, _ in told] == ["waited", "said", "waited", "said", "said"]
    assert [text for kind, text in told if kind == "waited"] == ["0.05", "0.15"]
    assert told[1][1].startswith("training waits for step 6's validation, at most")
    assert told[-1][1] == "step 6 was not validated within 0.2 s (validation.timeout_seconds)"


class Killed(Validator):
    """A validator whose process is killed, as for its memory."""

    def work_out(self, name: str) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


class Hanging(Validator):
    """A validator that comes to no end; its process is named in the run's folder."""

    def work_out(self, name: str) -> dict[str, float]:
        open_storage(self.folder).write("hangs", str(os.getpid()).encode())
        while True:
            time.sleep(1)


class Cut(Validator):
    """A validator whose store does not answer."""

    def work_out(self, name: str) -> dict[str, float]:
        raise ValueError("the store does not answer") from OSError("503")


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("kind", "limit", "why"),
    [
        (Killed, 120.0, r"its process is lost, .*"),
        (Hanging, 1.0, r"it took longer than 1 s \(validation\.timeout_seconds\)"),
        (Cut, 120.0, "the store does not answer"),
    ],
)
def test_scoring_that_ends_its_own_process_or_never_ends_is_given_up_at_the_second_attempt(
    kind: type[Validator], limit: float, why: str, dataset: Dataset, tmp_path: Path
) -> None:
    run(dataset, tmp_path / "run", settings=TRAIN.model_copy(update={"checkpoint_every_steps": 6}))
    settled, said = stopping(dataset, tmp_path).model_dump(mode="json"), list[str]()
    settled["validation"]["timeout_seconds"] = limit
    with pytest.raises(
        ValueError, match=f"^step 6 was not validated: {why}; validation.patience needs every score$"
    ) as e:
        known_score(kind(settled, str(tmp_path / "run"), board=None), 6, said.append)
    assert isinstance(e.value.__cause__, OSError) is (kind is Cut)  # then a new start may do better
    settled["validation"]["patience"] = 0
    assert known_score(kind(settled, str(tmp_path / "run"), board=None), 6, said.append) == {}
    assert len(said) == 1
    assert re.fullmatch(f"step 6 was not validated: {why}", said[0])


@ray.remote(num_cpus=0)
def called(validator: Validator, checkpoint: ray.train.Checkpoint) -> dict[str, float]:
    """What Ray Train's validation task does."""
    return validator(checkpoint)


def test_what_scores_a_checkpoint_ends_with_the_task_that_ray_train_gives_up(dataset: Dataset, tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    validator = Hanging(stopping(dataset, tmp_path).model_dump(mode="json"), str(tmp_path), board=None)
    task = called.remote(validator, ray.train.Checkpoint(str(tmp_path / checkpoint_name(6, 1))))
    until(lambda: exists(storage, "hangs"))
    ray.cancel(task, force=True)  # as its ValidationManager does
    until(lambda: not psutil.pid_exists(int(storage.read("hangs"))))


class Away(Validator):
    """The store does not answer whoever works a score out."""

    def work_out(self, name: str) -> dict[str, float]:
        raise ConnectionError("the store does not answer")


def test_a_trial_whose_last_score_was_lost_gets_it_from_its_checkpoint_or_is_tried_again(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, history = run(dataset, tmp_path / "run", settings=TRAIN.model_copy(update={"checkpoint_every_steps": 6}))
    last = history[-1]["step"]
    (tmp_path / "run" / "model").mkdir(exist_ok=True)
    (tmp_path / "run" / "model" / "training.json").write_text(json.dumps({"ended": {"step": last}}))
    monkeypatch.setattr(ray_trial, "train_on_ray", lambda *_: None)
    trial = Job("run", settings(dataset, tmp_path).model_dump(mode="json"), str(tmp_path / "sweep"))

    monkeypatch.setattr(ray_trial, "Validator", Away)
    told = JobRun(trial).next()
    assert isinstance(told, Ended)
    assert told.state == "postponed"
    assert told.reason == f"its check at step {last} is missing: the store does not answer"
    monkeypatch.setattr(ray_trial, "Validator", Validator)
    attempt = JobRun(trial)
    found = attempt.next()
    assert isinstance(found, Report)
    assert (found.step, sorted(found.metrics)) == (last, ["reconstruction", "retrieval", "score"])
    assert attempt.next() == Ended("finished", None, 0.0)
    assert not list((tmp_path / "run").glob("checkpoint-*"))


@pytest.mark.slow
def test_a_validation_that_is_killed_every_time_ends_no_run_that_only_watches(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dynfusion.edges.ray_train.Validator", Killed)
    base, said = stopping(dataset, tmp_path), list[str]()
    train = base.train.model_copy(update={"checkpoint_every_steps": 6})
    watching = base.model_copy(update={"validation": ValidationSettings(), "train": train})
    record = training(Path(train_on_ray(watching, Watch(silent, said.append))))
    assert record["ended"] == {"step": 15, "why": "every epoch is done"}
    assert record["validation"] == []
    assert any(text.startswith("step 6 was not validated yet: its process is lost, ") for text in said)
    assert any(text.startswith("step 15 was not validated: its process is lost, ") for text in said)
    assert not any("continuing from" in text for text in said)  # no worker went with it


@pytest.mark.slow
def test_a_run_that_needs_a_score_which_kills_its_process_ends_with_a_sentence(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dynfusion.edges.ray_train.Validator", Killed)
    said: list[str] = []
    with pytest.raises(
        ValueError, match=r"step 2 was not validated: its process is lost, .*patience needs every score"
    ):
        train_on_ray(stopping(dataset, tmp_path), Watch(silent, said.append))
    assert not any("continuing from" in text for text in said)


def test_a_torn_later_attempt_does_not_hide_a_whole_one_of_the_best_step(dataset: Dataset, tmp_path: Path) -> None:
    _, history = run(dataset, tmp_path / "run", settings=TRAIN.model_copy(update={"checkpoint_every_steps": 6}))
    saved = sorted((tmp_path / "run").glob("checkpoint-*"))
    shutil.copytree(saved[0], saved[0].with_name("checkpoint-00000006-002"))
    (saved[0].with_name("checkpoint-00000006-002") / "state.json").unlink()
    best = [{**record, "loss": 0.0 if record["step"] == 6 else 1.0} for record in history]
    asked = stopping(dataset, tmp_path)
    assert _best(asked, LocalStorage(tmp_path / "run"), Ending(15, "every epoch is done", best)) == saved[0].name


def test_a_score_that_cannot_be_had_ends_a_run_only_where_its_end_depends_on_it(
    dataset: Dataset, tmp_path: Path
) -> None:
    run(dataset, tmp_path / "run", settings=TRAIN.model_copy(update={"checkpoint_every_steps": 6}))
    unread = stopping(dataset, tmp_path).model_dump(mode="json")
    unread["validation"]["tasks"] = {"toxic": str(tmp_path / "nowhere")}
    with pytest.raises(ValueError, match="no packed dataset here"):
        known_score(Validator(unread, str(tmp_path / "run"), board=None), 6, silent)
    unread["validation"]["patience"], said = 0, list[str]()
    assert known_score(Validator(unread, str(tmp_path / "run"), board=None), 6, said.append) == {}
    assert len(said) == 1
    assert said[0].startswith("step 6 was not validated: ")


def test_validation_without_anything_to_validate_on_is_refused_before_there_is_a_run_folder(tmp_path: Path) -> None:
    bare = packed(tmp_path / "data")
    (tmp_path / "runs").mkdir()
    with pytest.raises(ValueError, match=r"found 0 held-out rows .* `dynfusion pack --holdout 0\.01`"):
        train_on_ray(stopping(bare, tmp_path / "runs"), Watch(silent, silent))
    assert not list((tmp_path / "runs").iterdir())


def test_a_labelled_set_without_valid_rows_is_refused_before_there_is_a_run_folder(
    dataset: Dataset, tmp_path: Path
) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("id,toxic\n" + "".join(f"m{row},{row % 2}\n" for row in range(200)))
    inputs = PackInputs(write_folders(tmp_path / "embeddings", rows=200), table=table, labels=("toxic",))
    pack(inputs, out=tmp_path / "toxic", settings=PackSettings())
    (tmp_path / "runs").mkdir()
    base = stopping(dataset, tmp_path / "runs")
    tasks = base.validation.model_copy(update={"tasks": {"toxic": str(tmp_path / "toxic")}})
    with pytest.raises(ValueError, match=r"validation\.tasks\.toxic: found 0 labelled valid rows"):
        train_on_ray(base.model_copy(update={"validation": tasks}), Watch(silent, silent))
    assert not list((tmp_path / "runs").iterdir())
