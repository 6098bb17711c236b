import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from dynfusion.evaluation.scores.calibration import brier, calibration_error, confidence
from dynfusion.evaluation.scores.resampling import once, resample_counts
from dynfusion.evaluation.settings import StatisticsSettings


def column(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, dtype=np.float64)[:, None]


def test_a_hand_worked_brier_score_leaves_out_missing_labels():
    scores, labels = np.array([[0.9, 0.5], [0.2, 0.5], [0.4, 0.1]]), np.array([[1, 0], [0, np.nan], [np.nan, 1]])
    assert brier(scores, labels, once(3))[0] == pytest.approx(((0.01 + 0.04) / 2 + (0.25 + 0.81) / 2) / 2)


def test_a_hand_worked_calibration_error():
    # Equal scores share a bin: two bins, of 0.2 with a quarter positive and of 0.8 with half positive.
    scores, labels = column([0.2] * 4 + [0.8] * 4), column([0, 0, 0, 1, 1, 1, 0, 0])
    assert calibration_error(scores, labels, once(8))[0] == pytest.approx((0.05 + 0.3) / 2)
    counts = np.array([[2, 0, 0, 1, 1, 0, 0, 0]], np.uint8).T
    assert calibration_error(scores, labels, counts)[0] == pytest.approx((3 * abs(0.2 - 1 / 3) + 0.2) / 4)


def test_brier_agrees_with_scikit_learn_in_every_resample():
    draws = np.random.default_rng(0)
    scores, labels = draws.random(90), draws.integers(0, 2, 90)
    counts = resample_counts("brier", 90, settings=StatisticsSettings())
    found = brier(column(scores), column(labels), counts)
    for row in range(30):
        assert found[row] == pytest.approx(brier_score_loss(labels, scores, sample_weight=counts[:, row]))


def test_calibration_error_is_that_of_scikit_learns_curve_over_bins_of_equal_mass():
    draws = np.random.default_rng(1)
    scores = draws.random(1500)
    labels = (draws.random(1500) < scores**2).astype(float)
    shares, means = calibration_curve(labels, scores, n_bins=15, strategy="quantile")
    edges = np.quantile(scores, np.arange(1, 15) / 15)
    sizes = np.histogram(scores, [0, *np.nextafter(edges, 2), 1])[0]
    expected = (sizes * np.abs(shares - means)).sum() / 1500
    assert calibration_error(column(scores), column(labels), once(1500))[0] == pytest.approx(expected, abs=1e-12)


def test_true_probabilities_have_little_error_constant_ones_none_and_confident_wrong_ones_most():
    draws = np.random.default_rng(2)
    scores = draws.random(20_000)
    labels = (draws.random(20_000) < scores).astype(float)
    assert calibration_error(column(scores), column(labels), once(20_000))[0] < 0.02
    constant = np.full((20_000, 1), labels.mean())
    assert calibration_error(constant, column(labels), once(20_000))[0] == pytest.approx(0, abs=1e-12)
    assert calibration_error(column(1 - labels), column(labels), once(20_000))[0] == pytest.approx(1)


def test_confidence_is_the_mean_of_the_likelier_side():
    labels = np.array([[1.0], [0.0], [np.nan]])
    assert confidence(column([0.9, 0.4, 0.5]), labels, once(3))[0] == pytest.approx(0.75)


def test_scores_that_are_no_probabilities_are_an_error_and_no_label_gives_nothing():
    with pytest.raises(ValueError, match="found -1 to 2, allowed are probabilities"):
        brier(column([-1, 2]), column([0, 1]), once(2))
    for function in (brier, calibration_error, confidence):
        assert np.isnan(function(column([0.1, 0.2]), column([np.nan, np.nan]), once(2))[0])
