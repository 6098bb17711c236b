from itertools import permutations

import numpy as np
import pytest
from scipy.integrate import trapezoid

from dynfusion.evaluation.scores.resampling import interval, metric_resamples, resample_counts
from dynfusion.evaluation.scores.robustness import (
    chance_corrected_drop,
    curve_area,
    effective_robustness,
    relative_drop,
    shapley,
    worst_subset,
)
from dynfusion.evaluation.settings import StatisticsSettings


def test_a_hand_worked_drop_is_an_eighth_of_the_metric_and_a_third_of_what_was_above_chance():
    full, hidden = np.array([0.8, 0.8, 0.5]), np.array([0.7, 0.5, 0.4])
    np.testing.assert_allclose(relative_drop(full, hidden), [12.5, 37.5, 20])
    np.testing.assert_allclose(chance_corrected_drop(full, hidden, 0.5), [100 / 3, 100, np.nan])


def test_a_drop_of_an_error_is_its_growth():
    full, hidden = np.array([1.0]), np.array([1.5])
    assert relative_drop(full, hidden, higher_is_better=False)[0] == 50
    assert chance_corrected_drop(full, hidden, np.array([3.0]), higher_is_better=False)[0] == 25
    assert np.isnan(chance_corrected_drop(full, hidden, np.array([1.0]), higher_is_better=False)[0])


def test_a_metric_that_is_not_positive_has_no_relative_drop():
    assert np.isnan(relative_drop(np.array([0.0, -0.1]), np.array([0.1, 0.2]))).all()


def test_a_hand_worked_curve_reads_as_a_mean_metric_on_uneven_levels():
    values = np.array([[0.9], [0.8], [0.5]])
    assert curve_area(values, np.array([0.0, 0.25, 0.75]))[0] == pytest.approx((0.85 * 0.25 + 0.65 * 0.5) / 0.75)
    draws = np.random.default_rng(0)
    many, levels = draws.random((6, 4, 11)), np.sort(draws.random(6))
    np.testing.assert_allclose(curve_area(many, levels), trapezoid(many, levels, axis=0) / (levels[-1] - levels[0]))
    np.testing.assert_allclose(curve_area(np.full((6, 3), 0.7), levels), 0.7)


@pytest.mark.parametrize("levels", [[0.1], [0.0, 0.0], [0.3, 0.1]])
def test_levels_that_do_not_ascend_have_no_area(levels):
    with pytest.raises(ValueError, match="two or more that ascend"):
        curve_area(np.ones((len(levels), 2)), np.array(levels))


def test_effective_robustness_is_multibenchs_sum_over_levels_divided_by_their_number():
    curve, late = np.array([[0.9], [0.85], [0.7]]), np.array([[0.8], [0.7], [0.55]])
    # Expected from late fusion's fall: 0.9, 0.8, 0.65; the curve is above by 0, 0.05, 0.05.
    assert effective_robustness(curve, late)[0] == pytest.approx(0.1 / 3)
    np.testing.assert_allclose(effective_robustness(late + 0.1, late), 0, atol=1e-15)


def test_the_worst_subset_is_looked_for_in_every_resample():
    values = np.array([[0.7, 0.6, 0.8], [0.6, 0.7, 0.9], [0.9, 0.9, 0.5]])
    number, worst = worst_subset(values)
    assert number == 1
    assert worst.tolist() == [0.6, 0.6, 0.5]
    number, worst = worst_subset(values, higher_is_better=False)
    assert (number, worst.tolist()) == (2, [0.9, 0.9, 0.9])


def test_a_hand_worked_value_of_two_modalities():
    values = {frozenset(): 0.5, frozenset("a"): 0.7, frozenset("b"): 0.6, frozenset("ab"): 0.9}
    found = shapley({subset: np.array([value]) for subset, value in values.items()}, ("a", "b"))
    assert found["a"][0] == pytest.approx((0.2 + 0.3) / 2)
    assert found["b"][0] == pytest.approx((0.1 + 0.2) / 2)


def test_values_of_modalities_are_the_mean_over_all_orders_and_add_up():
    names, draws = ("a", "b", "c", "d"), np.random.default_rng(2)
    values = {frozenset(n for k, n in enumerate(names) if bits >> k & 1): draws.random(7) for bits in range(16)}
    found = shapley(values, names)
    for name in names:
        gains = [
            values[frozenset(order[: order.index(name) + 1])] - values[frozenset(order[: order.index(name)])]
            for order in permutations(names)
        ]
        np.testing.assert_allclose(found[name], np.mean(gains, axis=0))
    np.testing.assert_allclose(sum(found.values()), values[frozenset(names)] - values[frozenset()])


def test_a_modality_that_adds_nothing_is_worth_nothing_and_twins_share():
    def value(subset: frozenset[str]) -> np.ndarray:
        return np.array([0.8 if subset & {"a", "twin"} else 0.5])

    names = ("a", "twin", "noise")
    subsets = [frozenset(n for k, n in enumerate(names) if bits >> k & 1) for bits in range(8)]
    found = shapley({subset: value(subset) for subset in subsets}, names)
    np.testing.assert_allclose([found[name][0] for name in names], [0.15, 0.15, 0], atol=1e-15)


def test_a_missing_subset_is_named():
    with pytest.raises(ValueError, match="found none for a \\+ b, 4 subsets of 2 modalities"):
        shapley({frozenset(key): np.zeros(1) for key in ("", "a", "b")}, ("a", "b"))


def test_the_interval_of_a_drop_covers_the_drop_that_was_planted():
    # Scores N(0, 1) against N(shift, 1): ROC-AUC is Phi(shift / sqrt 2); shifts for 0.8 and 0.7.
    draws = np.random.default_rng(4)
    covered = 0
    for trial in range(60):
        labels = (np.arange(600) % 3 == 0).astype(float)
        counts = resample_counts(f"drop {trial}", 600, settings=StatisticsSettings())
        curves = [
            metric_resamples("roc_auc", (draws.normal(size=600) + shift * labels)[:, None], labels[:, None], counts)
            for shift in (1.190232, 0.741614)
        ]
        low, high = interval(chance_corrected_drop(*curves, 0.5), confidence=0.95)
        covered += low < 100 / 3 < high
    assert covered >= 52
