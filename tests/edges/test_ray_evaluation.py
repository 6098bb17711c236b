import os

import numpy as np
import pytest
import ray

from dynfusion.edges.ray_cluster import cluster
from dynfusion.edges.ray_evaluation import evaluate_on_ray
from dynfusion.edges.ray_insight import fit_rivals_on_ray
from dynfusion.edges.ray_tasks import map_on_ray
from dynfusion.evaluation.settings import ImputerSettings
from tests.evaluation.synthetic import LatentModel, inputs, plan, rivals, run, settings, task


@pytest.fixture(scope="module", autouse=True)
def two_workers():
    with cluster(cpus=2):
        yield


@pytest.fixture(scope="module")
def evaluation():
    model, data = LatentModel(), task("alpha")
    return plan(model, data), inputs(model, data)


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_results_equal_those_without_ray_and_keep_the_order_of_the_plan(evaluation, tmp_path):
    parts, data = evaluation
    seen = []
    results = evaluate_on_ray(
        parts, data, tmp_path, settings=settings(), progress=lambda done, total: seen.append((done, total))
    )
    alone = run(parts, data)
    assert [result.group for result in results] == [result.group for result in alone]
    assert seen == [(done, 12) for done in range(1, 13)]
    for result, expected in zip(results, alone, strict=True):
        assert result.scores.tobytes() == expected.scores.tobytes()
        assert result.resampled["roc_auc"].tobytes() == expected.resampled["roc_auc"].tobytes()


class KilledError(Exception):
    pass


def test_a_killed_evaluation_continues_with_what_is_missing_and_ends_with_the_same_bytes(evaluation, tmp_path):
    parts, data = evaluation
    evaluate_on_ray(parts, data, tmp_path / "whole", settings=settings(), workers=1)

    def stop(done, total):
        if done == 3:
            raise KilledError

    with pytest.raises(KilledError):
        evaluate_on_ray(parts, data, tmp_path / "killed", settings=settings(), progress=stop)
    kept = files(tmp_path / "killed" / "cells")
    assert len(kept) == 11 + 2 * 3
    again = []
    for _ in range(2):
        evaluate_on_ray(
            parts, data, tmp_path / "killed", settings=settings(), progress=lambda done, total: again.append(done)
        )
    assert again == list(range(4, 13))
    assert files(tmp_path / "killed" / "cells") == files(tmp_path / "whole" / "cells")


def test_rivals_fitted_on_ray_equal_those_fitted_here():
    model = LatentModel()
    here, there = rivals(model), fit_rivals_on_ray(model.pool(), settings=ImputerSettings())
    assert here.ridge.fingerprint == there.ridge.fingerprint
    assert list(here.ridge.ridges) == list(there.ridge.ridges)
    for key, ridge in here.ridge.ridges.items():
        assert ridge.weight.tobytes() == there.ridge.ridges[key].weight.tobytes()
    assert here.neighbours.choices == there.neighbours.choices


def refuse(number):
    if number == 3:
        raise ValueError("number 3: found 3, allowed is any other")
    return number, os.getpid()


def test_an_error_of_a_task_is_raised_as_the_one_sentence_it_is():
    with pytest.raises(ValueError, match=r"^number 3: found 3, allowed is any other$"):
        map_on_ray(refuse, [(number,) for number in range(8)], finished=lambda number, result: None)


def total(array, number):
    return float(array.sum()) + number, not array.flags.writeable


def test_an_argument_that_jobs_share_is_put_once_and_read_in_place():
    shared, found = np.ones(1_000_000), {}
    map_on_ray(total, [(shared, number) for number in range(12)], finished=found.__setitem__)
    assert found == {number: (1_000_000.0 + number, True) for number in range(12)}
    assert ray.is_initialized()
