import numpy as np
import pytest
from scipy.stats import t, ttest_1samp, ttest_ind

from dynfusion.evaluation.scores.comparison import Estimate, best_of, compare
from dynfusion.evaluation.scores.folds import FoldDifferences, corrected_difference
from dynfusion.evaluation.scores.resampling import metric_resamples, resample_counts
from dynfusion.evaluation.settings import StatisticsSettings

DIFFERENCES = np.array([0.01, 0.03, 0.02, 0.04, 0.00])


def test_a_hand_worked_corrected_interval():
    # Mean 0.02, variance 0.00025, five folds that test a fifth each: error sqrt((1/5 + 1/4) 0.00025).
    found = corrected_difference([FoldDifferences(DIFFERENCES, 0.2)], confidence=0.95)
    error = np.sqrt(0.45 * 0.00025)
    assert (found.difference, found.degrees_of_freedom) == pytest.approx((0.02, 4))
    assert (found.low, found.high) == pytest.approx((0.02 - 2.776445 * error, 0.02 + 2.776445 * error), abs=1e-8)
    assert found.p == pytest.approx(2 * t.sf(0.02 / error, 4))


def test_without_overlap_it_is_the_plain_t_test():
    found = corrected_difference([FoldDifferences(DIFFERENCES, 1e-12)], confidence=0.9)
    plain = ttest_1samp(DIFFERENCES, 0)
    assert found.p == pytest.approx(plain.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(plain.confidence_interval(0.9)))


def test_without_overlap_two_tasks_are_welchs_test():
    second = np.array([-0.02, 0.05, 0.01])
    found = corrected_difference([FoldDifferences(DIFFERENCES, 1e-12), FoldDifferences(second, 1e-12)], confidence=0.95)
    welch = ttest_ind(DIFFERENCES, -second, equal_var=False)
    assert found.difference == pytest.approx((DIFFERENCES.mean() + second.mean()) / 2)
    assert (found.p, found.degrees_of_freedom) == pytest.approx((welch.pvalue, welch.df))
    assert 2 * found.low == pytest.approx(welch.confidence_interval(0.95).low)


def test_repeating_folds_over_the_same_molecules_fools_the_plain_test_and_not_the_corrected_one():
    # Two models of equal skill, 5 x 5 folds: all repeats average to the mean over the same molecules, whose variance is
    # 1 / rows; the plain test takes it for 1 / (5 rows) and errs in P(|z| > 2.06 / sqrt 5) = 36 %.
    draws, rows, trials = np.random.default_rng(0), 100, 400
    rejected = {"corrected": 0, "plain": 0}
    for _ in range(trials):
        molecules = draws.normal(size=rows)
        values = np.concatenate([draws.permutation(molecules).reshape(5, -1).mean(axis=1) for _ in range(5)])
        rejected["corrected"] += corrected_difference([FoldDifferences(values, 0.2)], confidence=0.95).p < 0.05
        rejected["plain"] += ttest_1samp(values, 0).pvalue < 0.05
    assert 0.29 < rejected["plain"] / trials < 0.43
    assert 0 < rejected["corrected"] / trials < 0.05


def test_undefined_folds_are_left_out_and_one_fold_says_nothing():
    padded = np.array([*DIFFERENCES, np.nan])
    whole, cut = (corrected_difference([FoldDifferences(v, 0.2)], confidence=0.95) for v in (padded, DIFFERENCES))
    assert whole == cut
    alone = corrected_difference([FoldDifferences(DIFFERENCES[:1], 0.2)], confidence=0.95)
    assert alone.difference == 0.01
    assert np.isnan([alone.low, alone.high, alone.p]).all()
    assert np.isnan(corrected_difference([], confidence=0.95).low)


def test_folds_that_all_agree_leave_no_doubt():
    same = corrected_difference([FoldDifferences(np.full(5, 0.25), 0.2)], confidence=0.95)
    assert (same.low, same.high, same.p) == (0.25, 0.25, 0)
    none = corrected_difference([FoldDifferences(np.zeros(5), 0.2)], confidence=0.95)
    assert (none.low, none.high, none.p) == (0, 0, 1)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_fold_that_tests_nothing_or_all_is_an_error(share):
    with pytest.raises(ValueError, match=r"allowed is above 0 and below 1"):
        FoldDifferences(DIFFERENCES, share)


def estimate(value: float, noise: float, folds: np.ndarray | None = None, seed: int = 0) -> Estimate:
    resamples = value + noise * np.random.default_rng(seed).normal(size=1001)
    resamples[0] = value
    return Estimate(resamples, (folds,), (0.2,)) if folds is not None else Estimate(resamples)


@pytest.mark.parametrize(
    ("noise", "folds", "tie"),
    [
        (0.005, [0.05, 0.04, 0.06, 0.05, 0.05], False),
        (0.050, [0.05, 0.04, 0.06, 0.05, 0.05], True),
        (0.005, [0.35, -0.2, 0.2, -0.1, 0.0], True),
        (0.005, None, False),
        (0.050, None, True),
    ],
)
def test_a_difference_counts_only_where_molecules_and_folds_both_exclude_zero(noise, folds, tie):
    by_fold = None if folds is None else np.array(folds) + 0.7
    base = None if folds is None else np.full(5, 0.7)
    ours, other = estimate(0.75, noise, by_fold), estimate(0.7, 0, base)
    verdict = compare(ours, other, confidence=0.95)
    assert verdict.tie is tie
    assert verdict.difference == pytest.approx(0.05)
    assert (verdict.fold_low is None) == (folds is None)
    back = compare(other, ours, confidence=0.95)
    assert back.tie is tie
    assert (back.low, back.high) == pytest.approx((-verdict.high, -verdict.low))


def test_intervals_on_opposite_sides_of_zero_are_a_tie():
    ours, other = estimate(0.75, 0.001, np.full(5, 0.6)), estimate(0.7, 0, np.full(5, 0.7))
    assert compare(ours, other, confidence=0.95).tie


def test_what_was_not_measured_alike_is_not_compared():
    with pytest.raises(ValueError, match=r"equal folds per task, found \[5\] and \[4\]"):
        compare(estimate(0.7, 0, np.zeros(5)), estimate(0.7, 0, np.zeros(4)), confidence=0.95)
    with pytest.raises(ValueError, match=r"equal resamples, found \(1001,\) and \(11,\)"):
        compare(estimate(0.7, 0), Estimate(np.zeros(11)), confidence=0.95)


def test_pairing_tells_apart_what_single_intervals_cannot():
    draws = np.random.default_rng(1)
    labels = (draws.random(600) < 0.3).astype(float)
    better = labels + draws.normal(0, 1.0, 600)
    worse = better + draws.normal(0, 0.8, 600)
    counts = resample_counts("pair", 600, settings=StatisticsSettings())
    first, second = (
        Estimate(metric_resamples("roc_auc", scores[:, None], labels[:, None], counts)) for scores in (better, worse)
    )
    verdict = compare(first, second, confidence=0.95)
    assert not verdict.tie
    assert np.quantile(second.resampled[1:], 0.975) > np.quantile(first.resampled[1:], 0.025)
    assert compare(first, first, confidence=0.95).tie


def test_the_best_of_a_column_its_ties_and_the_direction():
    column = {"low": estimate(0.6, 0.001), "high": estimate(0.7, 0.001), "near": estimate(0.6999, 0.01, seed=1)}
    ranks = best_of(column, confidence=0.95)
    assert ranks is not None
    assert (ranks.best, ranks.ties) == ("high", ("near",))
    errors = best_of(column, confidence=0.95, higher_is_better=False)
    assert errors is not None
    assert (errors.best, errors.ties) == ("low", ())
    nothing = Estimate(np.full(1001, np.nan))
    assert best_of({"low": column["low"], "none": nothing}, confidence=0.95) is None
