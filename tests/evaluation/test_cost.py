"""What an evaluation is expected to cost."""

import numpy as np
import pytest

from dynfusion.evaluation.protocol.cost import Speed, choice_seconds, fit_seconds, machine_speed, sizes_of, task_seconds
from dynfusion.evaluation.protocol.jobs import Keys, choice_jobs, group_jobs
from dynfusion.evaluation.settings import EvaluationSettings
from tests.evaluation.synthetic import LatentModel, inputs, plan, task

SETTINGS = EvaluationSettings()
EVEN = Speed(1.0, 1.0)


def sizes(rows: int, *, outputs: int = 1, extent: str = "standard", name: str = "t"):
    labels = np.zeros((rows, outputs))
    labels[: rows // 4] = 1
    split = np.array(["train"] * (rows * 8 // 10) + ["valid"] * (rows // 10) + ["test"] * (rows // 10))
    return sizes_of(name, labels, "binary", split, EvaluationSettings(extent=extent))


def test_sizes_are_those_of_the_split_and_of_the_folds() -> None:
    found = sizes(1000, outputs=3)
    assert found.split(given=True) == (800, 100, 100)
    assert found.split(given=False) == (500, 0, 500)
    assert (found.number(given=True), found.number(given=False)) == (1, 10)
    assert (found.outputs, found.positives) == (3, 0.25)
    assert sizes(1000, name="hiv").split(given=False) == (800, 0, 200)
    assert sizes(1000, name="hiv").number(given=False) == 5
    assert sizes(1000, extent="quick").number(given=False) == 1


def test_the_groups_that_are_counted_are_those_that_are_run() -> None:
    data = task("alpha")
    parts, given = plan(LatentModel(), data), inputs(LatentModel(), data)
    counted = sizes_of("alpha", data.labels, data.kind, data.split, EvaluationSettings(extent="quick"))
    chosen = {job.choice.key: {} for job in choice_jobs(given, parts, Keys(given, SETTINGS))}
    run = group_jobs(given, parts, chosen, Keys(given, SETTINGS))
    assert sum(counted.number(part.given) for part in parts) == len(run)


def test_more_of_anything_costs_more() -> None:
    data = task("alpha")
    parts = plan(LatentModel(), data)
    widths = {member.name: 1500 for part in parts for member in part.contestant.members}
    cost = lambda found, speed=EVEN: task_seconds(found, parts, widths, speed, SETTINGS)  # noqa: E731
    assert cost(sizes(2000)) > 1.5 * cost(sizes(1000))
    assert cost(sizes(1000, outputs=20)) > 2 * cost(sizes(1000))
    assert cost(sizes(1000), Speed(2.0, 2.0)) == pytest.approx(2 * cost(sizes(1000)))


@pytest.mark.parametrize("probe", ["linear", "knn", "boosting", "xgboost"])
def test_every_probe_has_a_price(probe: str) -> None:
    assert fit_seconds(probe, 1000, 500, 2, settings=SETTINGS) > 0
    chosen = choice_seconds(probe, 1000, 500, 2, valid=0, settings=SETTINGS)
    assert chosen > choice_seconds(probe, 1000, 500, 2, valid=100, settings=SETTINGS) or probe == "xgboost"


def test_this_machine_is_measured() -> None:
    speed = machine_speed()
    assert 0.05 < speed.dense < 100
    assert 0.05 < speed.trees < 100
