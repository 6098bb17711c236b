"""When a run is checked, when it stops and which checkpoint is best, by tables."""

import math

import pytest

from dynfusion.training.checks import Checks, Patience, best_step, trained, validated
from dynfusion.training.loop import Record


def scored(*scores: float) -> list[Record]:
    return [{"step": 10 * (number + 1), "validation": {"score": score}} for number, score in enumerate(scores)]


def test_checks_are_due_at_multiples_and_at_the_end() -> None:
    checks = Checks(every_steps=4, total_steps=10)
    assert [step for step in range(1, 11) if checks.due(step)] == [4, 8, 10]
    assert [checks.before(step) for step in (1, 4, 5, 8, 9, 10)] == [None, None, 4, 4, 8, 8]
    assert checks.steps() == (4, 8, 10)
    assert Checks(4, 8).steps() == (4, 8)
    assert Checks(4, 8).before(8) == 4
    never = Checks(every_steps=0, total_steps=10)
    assert not any(never.due(step) for step in range(1, 11))
    assert never.before(8) is None
    assert never.steps() == ()


@pytest.mark.parametrize(
    ("scores", "patience", "min_improvement", "stops"),
    [
        ((), 1, 0.0, False),
        ((0.5,), 1, 0.0, False),
        ((0.5, 0.5), 1, 0.0, True),  # level is not better
        ((0.5, 0.6), 1, 0.0, False),
        ((0.5, 0.6), 1, 0.2, True),
        ((0.5, 0.6, 0.71), 2, 0.2, False),  # small steps add up: .71 is .21 above .5
        ((0.5, 0.6, 0.69), 2, 0.2, True),
        ((0.5, 0.4, 0.6, 0.5), 2, 0.0, False),
        ((0.5, 0.4, 0.6, 0.5, 0.6), 2, 0.0, True),
        ((0.5, math.nan), 1, 0.0, True),
        ((math.nan, 0.1), 1, 0.0, False),
        ((0.5, 0.4, 0.3, 0.2), 0, 0.0, False),
        ((-0.9, -1.0), 1, 0.0, True),
    ],
)
def test_a_run_stops_after_so_many_checks_without_improvement(
    scores: tuple[float, ...], patience: int, min_improvement: float, stops: bool
) -> None:
    assert (Patience(patience, min_improvement).ended_by(scored(*scores)) is not None) == stops


def test_why_a_run_stopped_names_the_best_step() -> None:
    assert Patience(2, 0.0).ended_by(scored(0.5, 0.6, 0.4, 0.6)) == (
        "the validation score has not risen above 0.6000, that of step 20, for 2 checks"
    )


def test_the_best_step_is_the_highest_score_or_the_lowest_loss_of_what_is_kept() -> None:
    losses = [{"step": step, "loss": loss} for step, loss in ((10, 3.0), (20, 1.0), (30, 2.0))]
    history = [*losses, *scored(0.5, 0.2, 0.5)]
    assert trained(history) == losses
    assert validated(history) == scored(0.5, 0.2, 0.5)
    assert best_step(history, "loss", kept={10, 20, 30}) == 20
    assert best_step(history, "loss", kept={10, 30}) == 30
    assert best_step(history, "score", kept={10, 20}) == 10
    assert best_step(history, "score", kept={10, 20, 30}) == 30  # level: the later
    assert best_step(history, "probe", kept={10, 20, 30}) is None
    assert best_step(scored(math.nan, 0.1), "score", kept={10, 20}) == 20
