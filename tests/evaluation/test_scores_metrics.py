from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, r2_score, roc_auc_score, root_mean_squared_error

from dynfusion.evaluation.scores.drawn import drawn_by_group
from dynfusion.evaluation.scores.metrics import METRICS, PRIMARY, metrics_of
from dynfusion.evaluation.scores.ranking import areas
from dynfusion.evaluation.scores.resampling import (
    interval,
    metric_resamples,
    metrics_resamples,
    once,
    one_class_share,
    resample_counts,
)
from dynfusion.evaluation.settings import StatisticsSettings

SETTINGS = StatisticsSettings(resamples=1000)
SCIKIT_LEARN: dict[str, Callable[..., float]] = {
    "r2": r2_score,
    "rmse": root_mean_squared_error,
    "spearman": lambda truth, guess: spearmanr(truth, guess).statistic,
}


def column(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, dtype=np.float64)[:, None]


@pytest.mark.parametrize(("rows", "share"), [(60, 0.3), (400, 0.03), (400, 0.9)])
@pytest.mark.parametrize("levels", [4, 10_000])
def test_areas_agree_with_scikit_learn_in_every_resample_with_and_without_ties(rows, share, levels):
    draws = np.random.default_rng([rows, levels])
    scores, positive = draws.integers(0, levels, rows) / levels, draws.random(rows) < share
    counts = resample_counts("task", rows, settings=SETTINGS)
    found = areas(scores, positive, counts)
    for row in (*range(40), 300, 600, 1000):
        weights = counts[:, row]
        assert found.roc_auc[row] == pytest.approx(roc_auc_score(positive, scores, sample_weight=weights), abs=1e-12)
        expected = average_precision_score(positive, scores, sample_weight=weights)
        assert found.pr_auc[row] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("metric", ["r2", "rmse", "spearman"])
@pytest.mark.parametrize("levels", [5, 10_000])
def test_regression_metrics_agree_with_others_on_the_sample_written_out_with_its_repetitions(metric, levels):
    draws = np.random.default_rng(levels)
    truth = np.round(draws.normal(300, 2, 80), 6 if levels > 100 else 0)
    guess = np.round((truth + draws.normal(0, 2, 80)) * levels) / levels
    counts = resample_counts("task", 80, settings=SETTINGS)
    found = metric_resamples(metric, column(guess), column(truth), counts)
    for row in (*range(40), 300, 600, 1000):
        drawn = np.repeat(np.arange(80), counts[:, row])
        assert found[row] == pytest.approx(SCIKIT_LEARN[metric](truth[drawn], guess[drawn]), abs=1e-9)


def test_hand_worked_areas_count_a_tie_as_half():
    found = areas(np.array([0.9, 0.5, 0.5, 0.1]), np.array([True, True, False, False]), once(4))
    assert found.roc_auc[0] == 3.5 / 4
    assert found.pr_auc[0] == pytest.approx((1 + 2 / 3) / 2)


def test_hand_worked_areas_of_a_sample_in_which_one_negative_is_drawn_three_times():
    # Ranking from the top: positive, negative (drawn thrice), positive, negative.
    counts = np.array([[1], [3], [1], [1]], np.uint8)
    found = areas(np.array([4.0, 3.0, 2.0, 1.0]), np.array([1, 0, 1, 0]), counts)
    assert found.roc_auc[0] == (4 + 1) / (2 * 4)
    assert found.pr_auc[0] == pytest.approx((1 / 1 + 2 / 5) / 2)


def test_hand_worked_regression_metrics():
    guess, truth = column([1, 2, 3, 4]), column([1, 2, 4, 3])
    found = {
        name: values[0] for name, values in metrics_resamples(metrics_of("regression"), guess, truth, once(4)).items()
    }
    assert found == pytest.approx({"r2": 1 - 2 / 5, "rmse": np.sqrt(2 / 4), "spearman": 1 - 6 * 2 / (4 * 15)})


def test_hand_worked_rank_correlation_with_ties():
    # Midranks 1.5 1.5 3 and 1 2.5 2.5: cov 0.75 of variances 1.5 and 1.5.
    assert metric_resamples("spearman", column([1, 1, 2]), column([0, 5, 5]), once(3))[0] == pytest.approx(0.5)


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression"])
def test_an_oracle_a_constant_and_a_shuffle_score_perfect_and_chance(kind):
    draws = np.random.default_rng(3)
    labels = draws.normal(size=2000) if kind == "regression" else draws.integers(0, 2, 2000).astype(float)
    counts = resample_counts("known", 2000, settings=SETTINGS)
    for metric in metrics_of(kind):
        oracle = metric_resamples(metric, column(labels), column(labels), counts)
        np.testing.assert_allclose(oracle, 1 if METRICS[metric].higher_is_better else 0, atol=1e-12)
        constant = metric_resamples(metric, np.full((2000, 1), labels.mean()), column(labels), counts)
        chance = {"roc_auc": 0.5, "pr_auc": labels.mean(), "r2": 0.0, "spearman": 0.0, "rmse": labels.std()}[metric]
        np.testing.assert_allclose(constant, chance, atol=0.08)
        assert constant[0] == pytest.approx(chance, abs=1e-9)
        if metric in ("r2", "rmse"):
            continue  # A shuffle is worse than a constant: its errors have twice the variance.
        low, high = interval(
            metric_resamples(metric, column(draws.permutation(labels)), column(labels), counts), confidence=0.999
        )
        assert low < chance < high


def test_draws_in_which_a_rare_label_has_one_class_are_counted():
    labels = np.array([[1, 1], [0, np.nan], [0, 0], [np.nan, 0]])
    counts = np.array([[1, 1, 0], [1, 1, 2], [1, 0, 1], [1, 1, 1]], dtype=np.uint8)
    assert one_class_share(labels, counts) == pytest.approx(2 / 4)


def test_a_single_class_or_a_constant_label_scores_nothing_and_a_constant_guess_orders_nothing():
    scores = column([0, 1, 2, 3])
    assert np.isnan(metric_resamples("roc_auc", scores, np.ones((4, 1)), once(4))[0])
    assert np.isnan(metric_resamples("pr_auc", scores, np.zeros((4, 1)), once(4))[0])
    for metric in ("r2", "spearman"):
        assert np.isnan(metric_resamples(metric, scores, np.full((4, 1), 0.1), once(4))[0])
    assert metric_resamples("spearman", np.ones((4, 1)), scores, once(4))[0] == 0
    assert all(np.isnan(metric_resamples(name, scores[:0], scores[:0], once(0))[0]) for name in METRICS)


def test_a_resample_that_drew_one_class_or_one_label_is_undefined_and_no_other():
    counts = np.array([[1, 2, 0], [1, 0, 1], [1, 1, 2]], np.uint8)
    found = metrics_resamples(("roc_auc", "pr_auc"), column([1, 2, 3]), column([0, 1, 0]), counts)
    assert [np.isnan(values).tolist() for values in found.values()] == [[False, True, False]] * 2
    for metric in ("r2", "spearman"):
        values = metric_resamples(metric, column([1, 2, 3]), column([7.7, 1, 7.7]), counts)
        assert np.isnan(values).tolist() == [False, True, False]


def test_multitask_mean_leaves_out_missing_labels_and_labels_of_one_class():
    scores = np.random.default_rng(0).random((6, 3))
    labels = np.array([[0, 1, np.nan], [1, 1, 0], [np.nan, 1, 1], [0, 1, 0], [1, 1, 1], [0, 1, np.nan]], dtype=float)
    known = ~np.isnan(labels)
    expected = [roc_auc_score(labels[known[:, c], c], scores[known[:, c], c]) for c in (0, 2)]
    assert metric_resamples("roc_auc", scores, labels, once(6))[0] == pytest.approx(np.mean(expected))


def test_multiclass_is_scikit_learns_macro_one_against_rest():
    draws = np.random.default_rng(1)
    labels, scores = draws.integers(0, 3, 50), draws.dirichlet(np.ones(3), 50)
    expected = roc_auc_score(labels, scores, multi_class="ovr", average="macro")
    assert metric_resamples("roc_auc", scores, column(labels), once(50))[0] == pytest.approx(expected)


def test_a_score_that_is_no_number_is_an_error():
    with pytest.raises(ValueError, match="1 of 2 rows are NaN"):
        metric_resamples("roc_auc", column([0.1, np.nan]), column([0, 1]), once(2))


def test_a_group_of_more_draws_than_sixteen_bits_hold_is_counted_in_full():
    counts = np.full((70_000, 2), 1, np.uint8)
    rows = np.arange(70_000)
    assert drawn_by_group(np.zeros_like(rows), rows, counts, groups=2).tolist() == [[70_000, 70_000], [0, 0]]
    labels = np.arange(70_000) % 7 == 0
    assert areas(rows / 70_000, labels, counts).roc_auc[0] == pytest.approx(roc_auc_score(labels, rows), abs=1e-12)


def test_every_kind_has_its_metrics_and_its_primary_one_comes_first():
    assert metrics_of("binary") == metrics_of("multiclass") == ("roc_auc", "pr_auc")
    assert set(metrics_of("regression")) == {"rmse", "r2", "spearman"}
    assert all(metrics_of(kind)[0] == primary for kind, primary in PRIMARY.items())


def test_resamples_are_the_same_for_a_task_and_differ_between_tasks():
    first, again = (resample_counts("a", 30, settings=SETTINGS) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert first.shape == (30, 1001)
    assert (first[:, 0] == 1).all()
    assert (first.sum(axis=0) == 30).all()
    assert not np.array_equal(first, resample_counts("b", 30, settings=SETTINGS))


def test_the_interval_of_a_mean_is_near_the_normal_one():
    values = np.random.default_rng(2).normal(size=400)
    counts = resample_counts("mean", 400, settings=SETTINGS)
    low, high = interval(values @ counts / 400, confidence=0.95)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)


def test_undefined_resamples_are_left_out_of_an_interval():
    assert interval(np.array([0.5, np.nan, 0.2, 0.4]), confidence=0.9) == pytest.approx((0.21, 0.39))
    assert np.isnan(interval(np.array([0.5, np.nan]), confidence=0.9)).all()


@pytest.mark.parametrize("metric", ["roc_auc", "pr_auc"])
def test_where_labels_have_gaps_every_resample_draws_the_molecules_that_it_says(metric):
    """Against scikit-learn on the drawn molecules written out, label by label."""
    draws = np.random.default_rng(3)
    labels = (draws.random((120, 3)) < 0.4).astype(float)
    labels[draws.random(labels.shape) < 0.3] = np.nan
    scores = draws.random(labels.shape) + np.nan_to_num(labels)
    counts = resample_counts("gaps", 120, settings=SETTINGS)
    found = metric_resamples(metric, scores, labels, counts)
    score = {"roc_auc": roc_auc_score, "pr_auc": average_precision_score}[metric]
    for resample in (0, 1, 17, 400, 1000):
        rows = np.repeat(np.arange(120), counts[:, resample])
        known = [rows[~np.isnan(labels[rows, label])] for label in range(3)]
        expected = [score(labels[here, label], scores[here, label]) for label, here in enumerate(known)]
        assert found[resample] == pytest.approx(np.mean(expected), abs=1e-12)
