"""The records of a sweep under way: what a killed command leaves is what the next one goes on from."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dynfusion.edges.tune_schedulers import make_judge
from dynfusion.run_settings import RunSettings
from dynfusion.settings import build
from dynfusion.training.storage import LocalStorage
from dynfusion.tuning.book import MOST_POSTPONED, Book, Judge, Rules
from dynfusion.tuning.messages import Ended, Report
from dynfusion.tuning.records import Distribution, Objective, Sweep, Trial, read_curves, read_trials, write_sweep
from dynfusion.tuning.samples import random_sample

SPACE = {"train.learning_rate": Distribution("loguniform", 1e-4, 1e-1), "loss.alignment": Distribution("uniform", 0, 1)}
TOTAL, CHECKS = 1600, 16


class Never:
    """No trial ends early."""

    def __call__(self, trial: str, samples_seen: int, value: float) -> bool:
        return False


def sweep(scheduler: Any = "fifo", samples: int = 40) -> Sweep:
    run = build(RunSettings, {"data": {"uri": "packed"}}).model_dump(mode="json")
    judged = scheduler != "fifo"
    return Sweep(
        name="joint",
        space=SPACE,
        run=run,
        overrides=(),
        search="random",
        scheduler=scheduler,
        grace=0.25 if judged else None,
        reduction=2 if scheduler == "asha" else None,
        samples=samples,
        seed=3,
        objectives=(Objective("score"),),
        objective="skill",
        top_k=0,
        rerun_seeds=1,
        versions={},
    )


def opened(folder: Path, plan: Sweep, judge: Judge | None = None, clock: Any = None) -> Book:
    storage = LocalStorage(folder)
    write_sweep(storage, plan)

    def draw(number: int, trials: Any) -> Mapping[str, Any]:
        return random_sample(plan.space, plan.seed, number)

    rules = Rules(draw, judge or make_judge(plan, TOTAL), lambda settings: TOTAL)
    return Book(storage, plan, rules, clock=clock) if clock else Book(storage, plan, rules)


def report(check: int, value: float, *, seconds: float = 0.0) -> Report:
    return Report(check, check * TOTAL // CHECKS, {"over_ridge": value}, seconds)


def score(trial: Trial, check: int) -> float:
    """A curve that rises to a height of the settings, with noise that is the trial's own."""
    draws = np.random.default_rng([int(trial.id), check])
    return float(trial.settings["loss.alignment"] * (1 - 0.5**check) + 0.05 * draws.normal())


def advanced(book: Book, running: list[str], done: dict[str, int], draws: np.random.Generator) -> bool:
    """One event of a sweep of four trials at once; False when all is over."""
    while len(running) < 4 and (trial := book.next()) is not None:
        running.append(trial.id)
        book.begun(trial.id)
    if not running:
        return False
    name = running[int(draws.integers(len(running)))]
    check = done.get(name, 0) + 1
    if check > CHECKS:
        book.ended(name, Ended("finished", None, float(CHECKS)))
        running.remove(name)
        return True
    done[name] = check
    if book.reported(name, report(check, score(book.trials[name], check), seconds=float(check))).state == "stopped":
        running.remove(name)
    return True


def ends(folder: Path) -> list[tuple[str, str, int, dict[str, Any]]]:
    return [(t.id, t.state, t.samples_seen, t.settings) for t in read_trials(LocalStorage(folder))]


@pytest.mark.parametrize("scheduler", ["fifo", "asha", "median"])
def test_a_sweep_that_is_killed_and_continued_decides_as_one_that_was_not(scheduler: str, tmp_path: Path) -> None:
    def whole(folder: Path, kills: frozenset[int]) -> None:
        plan, draws = sweep(scheduler), np.random.default_rng(11)
        book, running, done, event = opened(folder, plan), list[str](), dict[str, int](), 0
        while advanced(book, running, done, draws):
            event += 1
            if event in kills:
                book = opened(folder, plan)
                again = []
                while book.left and (trial := book.next()) is not None:
                    again.append(trial.id)
                    book.begun(trial.id)
                assert sorted(again) == sorted(running)

    whole(tmp_path / "undisturbed", frozenset())
    whole(tmp_path / "killed", frozenset({1, 17, 40, 41, 90, 150, 151}))
    undisturbed, killed = ends(tmp_path / "undisturbed"), ends(tmp_path / "killed")
    assert undisturbed == killed
    assert len(undisturbed) == 40
    states = {state for _, state, _, _ in undisturbed}
    assert states == ({"finished"} if scheduler == "fifo" else {"finished", "stopped"})
    curves = [read_curves(LocalStorage(tmp_path / name)) for name in ("undisturbed", "killed")]
    plain = [
        {name: [(p.step, p.objectives, p.order) for p in points] for name, points in one.items()} for one in curves
    ]
    assert plain[0] == plain[1]


class Torn(LocalStorage):
    """A folder that its writer is killed at: so many writes are made, and no more."""

    def __init__(self, folder: Path, writes: int) -> None:
        super().__init__(folder)
        self.writes = writes

    def write(self, name: str, content: bytes) -> None:
        if self.writes == 0:
            raise KeyboardInterrupt
        self.writes -= 1
        super().write(name, content)


@pytest.mark.parametrize("writes", range(8))
def test_a_command_that_is_killed_between_any_two_writes_leaves_the_scores_of_one_that_was_not(
    writes: int, tmp_path: Path
) -> None:
    plan = sweep(samples=1)
    write_sweep(LocalStorage(tmp_path), plan)

    def driven(storage: LocalStorage) -> None:
        """Checks of .9 and then .1, told from the first again by every attempt."""
        rules = Rules(lambda number, trials: random_sample(SPACE, 3, number), Never(), lambda settings: TOTAL)
        book = Book(storage, plan, rules)
        while (trial := book.next()) is not None:
            book.begun(trial.id)
            for check, value in ((8, 0.9), (16, 0.1)):
                book.reported(trial.id, report(check, value))
            book.ended(trial.id, Ended("finished", None, 1.0))

    with suppress(KeyboardInterrupt):
        driven(Torn(tmp_path, writes))
    driven(LocalStorage(tmp_path))
    (trial,) = read_trials(LocalStorage(tmp_path))
    assert (trial.state, trial.objectives, trial.step) == ("finished", {"score": 0.1}, 16)


def test_a_decision_that_was_not_written_down_is_made_again(tmp_path: Path) -> None:
    plan = sweep("asha", samples=3)
    book = opened(tmp_path, plan)
    for value in (0.9, 0.8):
        trial = book.next()
        assert trial is not None
        book.begun(trial.id)
        book.reported(trial.id, report(4, value))
    last = book.next()
    assert last is not None
    book.begun(last.id)
    before = (tmp_path / "trials" / f"{last.id}.json").read_bytes()
    assert book.reported(last.id, report(4, 0.1)).state == "stopped"
    (tmp_path / "trials" / f"{last.id}.json").write_bytes(before)  # killed between the report and the decision
    again = opened(tmp_path, plan)
    assert again.trials[last.id].state == "stopped"
    assert again.trials[last.id].objectives == {"score": 0.1}
    assert last.id not in again.left


def test_what_was_running_comes_first_then_what_was_waiting_then_new_trials(tmp_path: Path) -> None:
    book = opened(tmp_path, sweep(samples=5))
    trials = [book.next() for _ in range(4)]
    for trial in (trials[0], trials[3]):
        assert trial is not None
        book.begun(trial.id)
    book.ended("0000", Ended("failed", "not finite", 1.0))
    again = opened(tmp_path, sweep(samples=5))
    assert [trial.id for trial in iter(again.next, None)] == ["0003", "0001", "0002", "0004"]
    settings = [again.trials[name].settings for name in sorted(again.trials)]
    assert settings == [random_sample(SPACE, 3, number) for number in range(5)]


def test_more_samples_extend_a_finished_sweep_by_the_trials_that_follow(tmp_path: Path) -> None:
    for samples in (2, 5):
        book = opened(tmp_path, sweep(samples=samples), Never())
        for trial in iter(book.next, None):
            book.begun(trial.id)
            book.reported(trial.id, report(CHECKS, 0.5))
            book.ended(trial.id, Ended("finished", None, 1.0))
    assert [(t.id, t.attempts) for t in read_trials(LocalStorage(tmp_path))] == [(f"{n:04d}", 1) for n in range(5)]


def test_a_report_that_was_known_before_the_kill_changes_nothing(tmp_path: Path) -> None:
    book = opened(tmp_path, sweep(samples=1), Never())
    book.next()
    for check, value in ((1, 0.1), (2, 0.2)):
        book.begun("0000")
        book.reported("0000", report(check, value))
    book.reported("0000", report(1, 0.1))
    book.reported("0000", report(2, 0.2))
    points = read_curves(LocalStorage(tmp_path))["0000"]
    assert [(point.step, point.order) for point in points] == [(1, 0), (2, 1)]


def test_seconds_of_training_and_beside_it_add_up_over_attempts_and_commands(tmp_path: Path) -> None:
    now = [0.0]
    book = opened(tmp_path, sweep(samples=1), Never(), clock=lambda: now[0])
    book.next()
    book.begun("0000")
    now[0] = 10.0
    book.reported("0000", report(1, 0.1, seconds=4.0))
    book.begun("0000")  # its process was lost
    now[0] = 20.0
    found = book.reported("0000", report(2, 0.2, seconds=5.0))
    assert (found.seconds, found.overhead_seconds, found.attempts) == (9.0, 11.0, 2)
    now[0] = 100.0
    book = opened(tmp_path, sweep(samples=1), Never(), clock=lambda: now[0])
    book.next()
    book.begun("0000")
    now[0] = 103.0
    found = book.ended("0000", Ended("finished", None, 2.0))
    assert (found.seconds, found.overhead_seconds, found.attempts) == (11.0, 12.0, 3)


def test_a_trial_without_a_check_or_with_a_lost_process_is_recorded_with_its_sentence(tmp_path: Path) -> None:
    book = opened(tmp_path, sweep(samples=2), Never())
    for _ in range(2):
        trial = book.next()
        assert trial is not None
        book.begun(trial.id)
    assert book.ended("0000", Ended("finished", None, 1.0)).state == "failed"
    assert (
        book.lost("0001", "the node is gone").reason == "its process was lost, attempt 1 was the last: the node is gone"
    )
    assert [trial.state for trial in read_trials(LocalStorage(tmp_path))] == ["failed", "failed"]


def test_a_check_that_lacks_an_objective_is_refused(tmp_path: Path) -> None:
    book = opened(tmp_path, sweep(samples=1), Never())
    book.next()
    book.begun("0000")
    with pytest.raises(ValueError, match="the validation has no over_ridge"):
        book.reported("0000", Report(1, 100, {"probe": 0.7}, 1.0))


def test_a_trial_that_is_hindered_stays_open_and_is_begun_again(tmp_path: Path) -> None:
    book = opened(tmp_path, sweep(samples=2), Never())
    for _ in range(MOST_POSTPONED + 1):
        trial = book.next()
        assert trial is not None
        assert trial.id == "0000"
        book.begun("0000")
        found = book.ended("0000", Ended("postponed", "no room for it", 0.0))
        assert (found.state, found.reason) == ("running", "no room for it")
    other = book.next()
    assert other is not None
    assert other.id == "0001"
    assert opened(tmp_path, sweep(samples=2)).left == ["0000", "0001"]


def test_what_is_hindered_while_others_are_under_way_waits_for_them(tmp_path: Path) -> None:
    book = opened(tmp_path, sweep(samples=3), Never())
    book.next()
    book.begun("0000")
    for _ in range(2 * MOST_POSTPONED):
        trial = book.next()
        assert trial is not None
        assert trial.id == "0001", "no other sample is drawn in its place"
        book.ended("0001", Ended("postponed", "no room for it", 0.0))


def test_a_trial_that_lost_its_process_and_cannot_get_another_one_stays_open(tmp_path: Path) -> None:
    book = opened(tmp_path, sweep(samples=1), Never())
    book.next()
    book.begun("0000")
    book.interrupted("0000")
    assert book.lost("0000", "the node is gone").state == "running"
    assert book.left == ["0000"]


def test_a_trial_whose_process_was_lost_before_it_began_stays_open(tmp_path: Path) -> None:
    book = opened(tmp_path, sweep(samples=1), Never())
    book.next()
    assert book.lost("0000", "the node is gone").state == "waiting"
    assert book.left == ["0000"]


def test_a_sample_that_can_be_no_run_is_on_record_as_failed_and_the_next_one_is_drawn(tmp_path: Path) -> None:
    def total(settings: Mapping[str, Any]) -> int:
        if settings["loss.alignment"] == random_sample(SPACE, 3, 1)["loss.alignment"]:
            raise ValueError("train.global_batch_rows: found 3, allowed is a multiple of 8")
        return TOTAL

    plan = sweep(samples=3)
    write_sweep(LocalStorage(tmp_path), plan)
    rules = Rules(lambda number, trials: random_sample(SPACE, 3, number), Never(), total)
    book = Book(LocalStorage(tmp_path), plan, rules)
    assert [trial.id for trial in iter(book.next, None)] == ["0000", "0002"]
    refused = read_trials(LocalStorage(tmp_path))[1]
    assert (refused.state, refused.reason) == ("failed", "train.global_batch_rows: found 3, allowed is a multiple of 8")


def test_a_record_that_was_removed_is_drawn_anew_and_no_other_is_touched(tmp_path: Path) -> None:
    book = opened(tmp_path, sweep(samples=3), Never())
    for trial in iter(book.next, None):
        book.begun(trial.id)
        book.reported(trial.id, report(CHECKS, 0.5))
        book.ended(trial.id, Ended("finished", None, 1.0))
    (tmp_path / "trials" / "0001.json").unlink()
    again = opened(tmp_path, sweep(samples=3), Never())
    assert [trial.id for trial in iter(again.next, None)] == ["0001"]
    again.begun("0001")
    again.reported("0001", report(CHECKS, 0.7))
    assert again.ended("0001", Ended("finished", None, 1.0)).objectives == {"score": 0.7}


def test_median_stopping_hears_nothing_of_the_ramp(tmp_path: Path) -> None:
    judge = make_judge(sweep("median"), TOTAL)
    gentle = {100: 0.9, 800: 0.0, 1200: 0.0}
    others = {800: 0.5, 1200: 0.5}
    for seen in (100, 800, 1200):
        for number in range(4):
            if seen in others:
                assert not judge(f"other-{number}", seen, others[seen])
        if judge("gentle", seen, gentle[seen]):
            assert seen == 800
            return
    pytest.fail("its best was before the grace, where no trial is compared")
