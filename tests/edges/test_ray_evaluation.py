import os

import numpy as np
import pytest
import ray

from dynfusion.edges.ray_cluster import cluster
from dynfusion.edges.ray_evaluation import evaluate_on_ray, fit_imputers_on_ray, map_on_ray
from dynfusion.evaluation.protocol.plan import plan, run_group
from dynfusion.evaluation.representations.imputers import ImputerSettings
from tests.evaluation.synthetic import LatentModel, imputers, inputs, task


@pytest.fixture(scope="module", autouse=True)
def two_workers():
    with cluster(cpus=2):
        yield


@pytest.fixture(scope="module")
def evaluation():
    return inputs(LatentModel(), task("alpha"))


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_results_equal_those_without_ray_and_keep_the_order_of_the_plan(evaluation, tmp_path):
    groups = plan(evaluation, models=["latent"])
    seen = []
    results = evaluate_on_ray(groups, evaluation, tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert [result.group for result in results] == groups
    assert seen == [(done, 6) for done in range(1, 7)]
    for result in results:
        alone = run_group(result.group, evaluation.of(result.group), evaluation.settings)
        assert result.scores.tobytes() == alone.scores.tobytes()
        assert result.resampled["roc_auc"].tobytes() == alone.resampled["roc_auc"].tobytes()


class KilledError(Exception):
    pass


def test_a_killed_evaluation_continues_with_what_is_missing_and_ends_with_the_same_bytes(evaluation, tmp_path):
    groups = plan(evaluation, models=["latent"])
    evaluate_on_ray(groups, evaluation, tmp_path / "whole")

    def stop(done, total):
        if done == 3:
            raise KilledError

    with pytest.raises(KilledError):
        evaluate_on_ray(groups, evaluation, tmp_path / "killed", progress=stop)
    kept = files(tmp_path / "killed" / "cells")
    assert len(kept) == 6
    again = []
    evaluate_on_ray(groups, evaluation, tmp_path / "killed", progress=lambda done, total: again.append(done))
    assert again == [4, 5, 6]
    assert files(tmp_path / "killed" / "cells") == files(tmp_path / "whole" / "cells")
    evaluate_on_ray(groups, evaluation, tmp_path / "killed", progress=lambda done, total: again.append(done))
    assert again == [4, 5, 6]


def test_imputers_fitted_on_ray_equal_those_fitted_here():
    model = LatentModel()
    here, there = imputers(model), fit_imputers_on_ray(model.pool(), settings=ImputerSettings())
    assert here.fingerprint == there.fingerprint
    assert list(here.ridges) == list(there.ridges)
    for key, ridge in here.ridges.items():
        assert ridge.weight.tobytes() == there.ridges[key].weight.tobytes()


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
