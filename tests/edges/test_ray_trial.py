"""A trial's process with training in its place that does as it is told: what it tells, and what it leaves."""

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dynfusion.edges import ray_trial
from dynfusion.edges.ray_board import Watch
from dynfusion.edges.ray_cluster import NoRoomError
from dynfusion.edges.ray_halt import Halt, HaltedError
from dynfusion.edges.ray_train import UnfinishedError
from dynfusion.edges.ray_trial import JOB, TOLD, JobRun, TrialProcess
from dynfusion.run_settings import RunSettings
from dynfusion.settings import build
from dynfusion.training.storage import LocalStorage
from dynfusion.tuning.messages import Ended, Job, Report
from dynfusion.tuning.records import Trial, write_trial

ROWS = 64
Train = Callable[[RunSettings, Watch, Halt], None]


def job(folder: Path, name: str, state: Any = "running") -> Job:
    storage = str(folder / "runs")
    run = {"data": {"uri": "x"}, "cluster": {"name": name, "storage": storage}, "train": {"global_batch_rows": ROWS}}
    trial = Trial(name, state, None, {}, None, 0, 0, 100, 0.0, 0.0, 1, f"runs/{name}")
    write_trial(LocalStorage(folder), trial)
    return Job(name, build(RunSettings, run).model_dump(mode="json"), str(folder))


def checkpoint(folder: Path, name: str, step: int) -> Path:
    made = folder / "runs" / name / f"checkpoint-{step:08d}-001"
    made.mkdir(parents=True)
    (made / "content").write_text("x")
    return made


def check(folder: Path, name: str, step: int, value: float) -> None:
    """As a validation leaves it in the run's folder."""
    path = folder / "runs" / name / "validation" / f"checkpoint-{step:08d}-001.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"step": step, "metrics": {"over_ridge": value}}))


def finish(folder: Path, name: str, step: int) -> None:
    path = folder / "runs" / name / "model" / "training.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"ended": {"step": step, "why": "every epoch is done"}}))


@pytest.fixture
def trains(monkeypatch: pytest.MonkeyPatch) -> Callable[[Train], None]:
    def put(train: Train) -> None:
        monkeypatch.setattr(ray_trial, "train_on_ray", train)

    return put


def all_told(run: JobRun) -> list[Report | Ended]:
    told = [run.next()]
    while not isinstance(told[-1], Ended):
        told.append(run.next())
    return told


def test_checks_are_told_once_those_the_board_lost_too_and_checkpoints_go_at_the_end(
    tmp_path: Path, trains: Callable[[Train], None]
) -> None:
    def train(settings: RunSettings, watch: Watch, halt: Halt) -> None:
        for step in (4, 8):
            check(tmp_path, "0000", step, step / 10)
        watch.validated({"step": 4, "validation": {"over_ridge": 0.4}})
        finish(tmp_path, "0000", 8)

    trains(train)
    left = checkpoint(tmp_path, "0000", 8)
    run = JobRun(job(tmp_path, "0000"))
    told = all_told(run)
    assert told == [
        Report(4, 4 * ROWS, {"over_ridge": 0.4}, 0.0),
        Report(8, 8 * ROWS, {"over_ridge": 0.8}, 0.0),
        Ended("finished", None, 0.0),
    ]
    assert not left.exists()


def test_a_run_whose_last_check_is_missing_is_no_finished_trial(
    tmp_path: Path, trains: Callable[[Train], None]
) -> None:
    def train(settings: RunSettings, watch: Watch, halt: Halt) -> None:
        watch.validated({"step": 4, "validation": {"over_ridge": 0.9}})
        finish(tmp_path, "0000", 8)

    trains(train)
    run = JobRun(job(tmp_path, "0000"))
    assert all_told(run)[-1] == Ended("failed", "its check at step 8 is missing: the last one is of step 4", 0.0)


def test_what_a_killed_attempt_had_scored_is_told_before_training_goes_on(
    tmp_path: Path, trains: Callable[[Train], None]
) -> None:
    begun = threading.Event()
    trains(lambda settings, watch, halt: begun.set())
    check(tmp_path, "0000", 4, 0.4)
    run = JobRun(job(tmp_path, "0000"))
    assert run.next() == Report(4, 4 * ROWS, {"over_ridge": 0.4}, 0.0)
    assert not begun.is_set()


def test_whoever_asks_again_lets_the_run_go_on_from_what_it_was_told_last(
    tmp_path: Path, trains: Callable[[Train], None]
) -> None:
    released: list[int] = []
    seen: dict[int, list[int]] = {}

    def train(settings: RunSettings, watch: Watch, halt: Halt) -> None:
        assert halt.held == (4,)
        halt.release = released.append  # type: ignore[method-assign]
        for step in (4, 8):
            watch.validated({"step": step, "validation": {"over_ridge": 0.9}})
        finish(tmp_path, "0000", 8)

    trains(train)
    run = JobRun(replace(job(tmp_path, "0000"), held=(4,)))
    for _ in range(2):
        told = run.next()
        assert isinstance(told, Report)
        seen[told.step] = list(released)
    assert 4 not in seen[4], "its verdict is not known yet"
    assert 4 in seen[8]


@pytest.mark.parametrize(
    ("raised", "cause", "state"),
    [
        (ValueError("train.learning_rate: not finite at step 3"), None, "failed"),
        (RuntimeError("training failed on worker 0"), None, "failed"),
        (NoRoomError("no room for 1 worker"), None, "postponed"),
        (UnfinishedError("training ended at step 4 of 8"), None, "postponed"),
        (ValueError("s3://bucket: tried for 300 s"), ConnectionError("reset"), "postponed"),
    ],
)
def test_what_may_pass_is_postponed_and_what_the_settings_cause_is_a_failure(
    tmp_path: Path, trains: Callable[[Train], None], raised: Exception, cause: Exception | None, state: Any
) -> None:
    def train(settings: RunSettings, watch: Watch, halt: Halt) -> None:
        raise raised from cause

    trains(train)
    assert all_told(JobRun(job(tmp_path, "0000"))) == [Ended(state, str(raised), 0.0)]


def test_a_process_ends_the_run_before_it_in_the_first_step_of_the_next_one(
    tmp_path: Path, trains: Callable[[Train], None]
) -> None:
    """Ray Tune does not try a trial again whose process is lost in a reset, so nothing may be done there."""
    ended: list[str] = []

    def train(settings: RunSettings, watch: Watch, halt: Halt) -> None:
        watch.validated({"step": 4, "validation": {"over_ridge": 0.9}})
        halt.pulled.wait(20)
        ended.append(settings.cluster.name)
        raise HaltedError

    trains(train)
    kept = {name: checkpoint(tmp_path, name, 4) for name in ("0000", "0001")}
    process = TrialProcess({JOB: job(tmp_path, "0000")})
    assert process.step()[TOLD].step == 4
    following = job(tmp_path, "0001")
    job(tmp_path, "0000", "stopped")  # the scheduler's decision, on record
    process.reset_config({JOB: following})
    assert ended == []
    assert process.step()[TOLD].step == 4
    assert ended == ["0000"]
    assert not kept["0000"].exists(), "nobody goes on with a stopped trial"
    process.cleanup()
    assert ended == ["0000", "0001"]
    assert kept["0001"].exists(), "the sweep was ended, and goes on with it"
