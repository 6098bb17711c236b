import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from dynfusion.evaluation.scores.resampling import (
    StatisticsSettings,
    average_precision,
    interval,
    metric_resamples,
    resample_counts,
    roc_auc,
)

SETTINGS = StatisticsSettings(resamples=1000)


@pytest.mark.parametrize("levels", [4, 10_000])
def test_every_resample_agrees_with_scikit_learn_with_and_without_ties(levels):
    draws = np.random.default_rng(levels)
    scores, positive = draws.integers(0, levels, 60) / levels, draws.random(60) < 0.3
    counts = resample_counts("task", 60, settings=SETTINGS)[:40]
    areas, precisions = roc_auc(scores, positive, counts), average_precision(scores, positive, counts)
    for row, weights in enumerate(counts):
        assert areas[row] == pytest.approx(roc_auc_score(positive, scores, sample_weight=weights), abs=1e-12)
        assert precisions[row] == pytest.approx(
            average_precision_score(positive, scores, sample_weight=weights), abs=1e-12
        )


def test_a_hand_worked_area_counts_a_tie_as_half():
    scores, positive = np.array([0.9, 0.5, 0.5, 0.1]), np.array([True, True, False, False])
    assert roc_auc(scores, positive, np.ones((1, 4)))[0] == 3.5 / 4


def test_an_oracle_scores_one_a_constant_one_half_and_a_single_class_nothing():
    positive, once = np.array([True, False, True, False]), np.ones((1, 4))
    assert roc_auc(positive.astype(float), positive, once)[0] == 1
    assert roc_auc(np.zeros(4), positive, once)[0] == 0.5
    assert np.isnan(roc_auc(np.arange(4.0), np.ones(4, dtype=bool), once)[0])
    assert np.isnan(average_precision(np.arange(4.0), np.zeros(4, dtype=bool), once)[0])


def test_multitask_mean_leaves_out_missing_labels_and_labels_of_one_class():
    scores = np.random.default_rng(0).random((6, 3))
    labels = np.array([[0, 1, np.nan], [1, 1, 0], [np.nan, 1, 1], [0, 1, 0], [1, 1, 1], [0, 1, np.nan]], dtype=float)
    known = ~np.isnan(labels)
    expected = [roc_auc_score(labels[known[:, c], c], scores[known[:, c], c]) for c in (0, 2)]
    assert metric_resamples("roc_auc", scores, labels, np.ones((1, 6)))[0] == pytest.approx(np.mean(expected))


def test_multiclass_is_scikit_learns_macro_one_against_rest():
    draws = np.random.default_rng(1)
    labels, scores = draws.integers(0, 3, 50), draws.dirichlet(np.ones(3), 50)
    expected = roc_auc_score(labels, scores, multi_class="ovr", average="macro")
    found = metric_resamples("roc_auc", scores, labels[:, None].astype(float), np.ones((1, 50)))
    assert found[0] == pytest.approx(expected)


def test_resamples_are_the_same_for_a_task_and_differ_between_tasks():
    first, again = (resample_counts("a", 30, settings=SETTINGS) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert (first[0] == 1).all()
    assert (first.sum(axis=1) == 30).all()
    assert not np.array_equal(first, resample_counts("b", 30, settings=SETTINGS))


def test_the_interval_of_a_mean_is_near_the_normal_one():
    values = np.random.default_rng(2).normal(size=400)
    counts = resample_counts("mean", 400, settings=SETTINGS)
    low, high = interval(counts @ values / 400, confidence=0.95)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)


def test_undefined_resamples_are_left_out_of_an_interval():
    assert interval(np.array([0.5, np.nan, 0.2, 0.4]), confidence=0.9) == pytest.approx((0.21, 0.39))
    assert np.isnan(interval(np.array([0.5, np.nan]), confidence=0.9)).all()
