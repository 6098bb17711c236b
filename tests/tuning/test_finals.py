"""The runs with fresh seeds: which, in which order, and what is left of them after a kill."""

from dataclasses import replace
from pathlib import Path

from dynfusion.training.storage import LocalStorage
from dynfusion.tuning.book import MOST_POSTPONED
from dynfusion.tuning.finals import FinalsBook, best_trials, fresh_seeds, job_name, parse_job, without_seed
from dynfusion.tuning.messages import Report
from dynfusion.tuning.records import DEFAULT, Objective, SeedFailure, read_finals
from tests.tuning.test_book import sweep
from tests.tuning.test_search import known

PLAN = replace(sweep(), top_k=2, rerun_seeds=2)
TRIALS = [
    known(0, {"loss.alignment": 0.1}, 0.5),
    known(1, {"loss.alignment": 0.2}, 0.9, "stopped"),
    known(2, {"loss.alignment": 0.3}, 0.7),
    known(3, {"loss.alignment": 0.4}, None, "failed"),
    known(4, {"loss.alignment": 0.5}, 0.7),
]


def reported(book: FinalsBook, value: float) -> str:
    """The next run of the book, begun and finished."""
    found = book.next()
    assert found is not None
    job = job_name(*found)
    for step, seen in ((1, 0.0), (2, value)):
        book.reported(job, Report(step, step, {"over_ridge": seen}, 1.0))
    book.finished(job)
    return job


def test_the_best_are_finished_trials_the_earlier_of_two_that_are_level() -> None:
    assert [trial.id for trial in best_trials(TRIALS, PLAN, 2)] == ["0002", "0004"]
    least = replace(PLAN, objectives=(Objective("score", "min"),))
    assert [trial.id for trial in best_trials(TRIALS, least, 9)] == ["0000", "0002", "0004"]


def test_fresh_seeds_are_none_that_a_trial_has_had() -> None:
    assert fresh_seeds(3, [0, 1002]) == [1001, 1003, 1004]
    assert fresh_seeds(2, []) == fresh_seeds(4, [])[:2]
    assert without_seed({"train.seed": 3, "loss.alignment": 0.1}) == {"loss.alignment": 0.1}
    assert parse_job(job_name("default", 1001)) == ("default", 1001)


def test_runs_go_seed_by_seed_and_a_killed_command_goes_on_with_the_rest(tmp_path: Path) -> None:
    storage, chosen = LocalStorage(tmp_path), best_trials(TRIALS, PLAN, 2)
    book = FinalsBook(storage, PLAN, chosen, [0, 3])
    assert [reported(book, 0.1 * number) for number in range(4)] == [
        "default-seed-1001",
        "0002-seed-1001",
        "0004-seed-1001",
        "default-seed-1002",
    ]
    again = FinalsBook(storage, PLAN, chosen, [0, 3])
    assert again.left == [("0002", 1002), ("0004", 1002)]
    for value in (0.8, 0.9):
        reported(again, value)
    again.complete()
    finals = read_finals(storage)
    assert finals is not None
    assert finals.complete
    assert [entry.label for entry in finals.entries] == ["0002", "0004", DEFAULT]
    assert [[run.objectives["score"] for run in entry.seeds] for entry in finals.entries] == [
        [0.1, 0.8],
        [0.2, 0.9],
        [0.0, 0.30000000000000004],
    ]
    assert FinalsBook(storage, PLAN, chosen, [0, 3]).next() is None


def test_more_seeds_extend_what_is_there_and_test_scores_stay(tmp_path: Path) -> None:
    storage, chosen = LocalStorage(tmp_path), best_trials(TRIALS, PLAN, 1)
    book = FinalsBook(storage, PLAN, chosen, [])
    while book.left:
        reported(book, 0.5)
    run = book.entries[DEFAULT].seeds[0]
    book.put(DEFAULT, replace(run, test={"bbbp": 0.7}))
    more = FinalsBook(storage, replace(PLAN, rerun_seeds=3), chosen, [])
    assert more.left == [(DEFAULT, 1003), ("0002", 1003)]
    assert more.entries[DEFAULT].seeds[0].test == {"bbbp": 0.7}


def test_a_run_that_failed_is_on_record_and_not_made_again(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    book = FinalsBook(storage, PLAN, [], [])
    assert book.next() == (DEFAULT, 1001)
    book.failed(job_name(DEFAULT, 1001), "loss is not finite at step 3")
    finals = read_finals(storage)
    assert finals is not None
    assert finals.entries[0].failures == (SeedFailure(1001, "loss is not finite at step 3"),)
    assert FinalsBook(storage, PLAN, [], []).left == [(DEFAULT, 1002)]


def test_a_run_that_is_hindered_is_begun_again_until_that_was_tried_often_enough(tmp_path: Path) -> None:
    book = FinalsBook(LocalStorage(tmp_path), replace(PLAN, rerun_seeds=1), [], [])
    for _ in range(MOST_POSTPONED + 1):
        assert book.next() == (DEFAULT, 1001)
        assert book.under_way
        book.postponed(job_name(DEFAULT, 1001), "no room")
    assert book.next() is None
    assert not book.under_way
    assert book.hindered == {job_name(DEFAULT, 1001): "no room"}
    assert FinalsBook(LocalStorage(tmp_path), replace(PLAN, rerun_seeds=1), [], []).left == [(DEFAULT, 1001)]
