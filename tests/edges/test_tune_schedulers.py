"""Which checks can end a trial, against what the schedulers of Ray Tune do with many random curves."""

import itertools
import random
from dataclasses import replace

import pytest

from dynfusion.edges.tune_schedulers import decisive, make_judge
from dynfusion.tuning.records import Objective, Sweep

SWEEP = Sweep(
    name="sweep",
    space={},
    run={},
    overrides=(),
    search="random",
    scheduler="asha",
    grace=0.2,
    reduction=4,
    samples=40,
    seed=0,
    objectives=(Objective("score"),),
    objective="",
    top_k=0,
    rerun_seeds=0,
    versions={},
)


def test_asha_decides_at_the_first_check_that_reaches_a_rung() -> None:
    checks = (100, 250, 400, 700, 850, 1000)
    assert decisive(SWEEP, 1000, checks) == (250, 850)
    assert decisive(replace(SWEEP, grace=0.1, reduction=2), 1000, checks) == (100, 250, 400, 850)
    assert decisive(SWEEP, 1000, (100, 1000)) == (), "the last check has nothing left to end"


def test_median_decides_from_the_grace_on_and_fifo_never() -> None:
    checks = (100, 200, 400, 1000)
    assert decisive(replace(SWEEP, scheduler="median"), 1000, checks) == (200, 400)
    assert decisive(replace(SWEEP, scheduler="fifo", grace=None), 1000, checks) == ()


@pytest.mark.parametrize("scheduler", ["asha", "median"])
@pytest.mark.parametrize("every", [50, 130, 190])
@pytest.mark.parametrize(("grace", "reduction"), [(0.2, 4), (0.1, 2), (0.05, 3)])
def test_a_trial_ends_nowhere_but_at_a_decisive_check(scheduler: str, every: int, grace: float, reduction: int) -> None:
    draw = random.Random(f"{scheduler} {every} {grace}")
    sweep = replace(SWEEP, scheduler=scheduler, grace=grace, reduction=reduction)  # type: ignore[arg-type]
    judge, longest = make_judge(sweep, 1000), 1000
    checks = (*range(every, longest, every), longest)
    ended = []
    for trial, seen in itertools.product(range(40), checks):
        if trial not in {name for name, _ in ended} and judge(str(trial), seen, draw.random()) and seen < longest:
            ended.append((trial, seen))
    assert ended
    assert {seen for _, seen in ended} <= set(decisive(sweep, longest, checks))
