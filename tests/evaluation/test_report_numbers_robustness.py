"""Robustness, values of modalities, calibration, hiding and training rates, of hand-made results."""

import numpy as np
import pytest

from dynfusion.evaluation.hiding.patterns import Pattern, all_subsets, imbalanced, random_rates
from dynfusion.evaluation.report.calibration import calibration_records
from dynfusion.evaluation.report.curves import build_curves
from dynfusion.evaluation.report.hiding import (
    UP_TO,
    hiding_comparisons,
    hiding_points,
    hiding_records,
    training_comparisons,
    training_points,
    training_records,
)
from dynfusion.evaluation.report.robustness import modality_value_records, robustness_records
from dynfusion.evaluation.settings import StatisticsSettings
from tests.evaluation.outcomes import MOLECULES, NAMES, RESAMPLES, group, outcome, result

SETTINGS = StatisticsSettings()
WORTH = {"a": 0.2, "b": 0.1, "c": 0.0}


def flat(value):
    return np.full(RESAMPLES + 1, value)


def additive(of, pattern, metric):
    """.5, and what each visible modality is worth."""
    return flat(0.5 + sum(WORTH[name] for name in pattern.visible))


def constant(of, pattern, metric):
    return flat(0.7)


def curves(*results, **changes):
    return build_curves([outcome("t", results, **changes)], NAMES)


def test_robustness_numbers_are_the_hand_worked_ones():
    """All .8; one absent .8 .7 .6, mean .7; two absent .7 .6 .5, mean .6; the six together .65.

    Relative drop .15 / .8 = 18.75 %, above chance .15 / .3 = 50 %. Levels 0, 1/3, 2/3: ((.8 + .7) / 2 + (.7 + .6) / 2)
    / 2 = .7. Late fusion stays at .7: mean of 0, -.1, -.2.
    """
    both = [
        result(group(name, all_subsets(NAMES)), rule) for name, rule in (("fused", additive), ("late-fusion", constant))
    ]
    records = {one["representation"]: one for one in robustness_records(curves(*both), settings=SETTINGS)}
    found = records["fused"]
    assert found["relative_drop"] == pytest.approx(18.75)
    assert found["chance_corrected_drop"] == pytest.approx(50)
    assert (found["area"], found["area_low"], found["area_high"]) == pytest.approx((0.7, 0.7, 0.7))
    assert found["effective_robustness"] == pytest.approx(-0.1)
    assert found["worst_subset"]["visible"] == ["c"]
    assert found["worst_subset"]["value"] == pytest.approx(0.5)
    assert records["late-fusion"]["effective_robustness"] == pytest.approx(0)
    assert records["late-fusion"]["relative_drop"] == pytest.approx(0)


def test_without_late_fusion_effective_robustness_is_unknown_and_partial_lines_have_no_robustness():
    single = result(group("a", [one for one in all_subsets(NAMES) if "a" in one.visible]), constant)
    found = robustness_records(curves(result(group("fused", all_subsets(NAMES)), additive), single), settings=SETTINGS)
    assert [one["representation"] for one in found] == ["fused"]
    assert found[0]["effective_robustness"] is None


def test_the_value_of_a_modality_is_what_it_adds():
    lines = [result(group(name, all_subsets(NAMES)), additive) for name in ("pca-32", "concat-ridge", "fused")]
    records = modality_value_records(curves(*lines), settings=SETTINGS)
    assert {one["representation"] for one in records} == {"concat-ridge", "fused"}
    found = {one["modality"]: one["shapley"] for one in records if one["representation"] == "fused"}
    assert found == pytest.approx(WORTH)


def test_calibration_of_known_probabilities():
    """Every probability is .25; two molecules in five have label 1: Brier .6 .0625 + .4 .5625, error .15."""
    one = result(group("fused", all_subsets(NAMES)[:1]), constant)
    object.__setattr__(one, "scores", np.full((1, MOLECULES, 1), 0.25))
    labels = (np.arange(MOLECULES)[:, None] % 5 < 2).astype(float)
    (record,) = calibration_records([outcome("t", [one], test_labels=labels)])
    assert record["visible"] == ["a", "b", "c"]
    assert record["brier"] == pytest.approx(0.6 * 0.0625 + 0.4 * 0.5625)
    assert record["ece"] == pytest.approx(0.15)
    assert record["confidence"] == pytest.approx(0.75)


def test_calibration_is_of_binary_tasks_on_their_given_split():
    one = result(group("fused", all_subsets(NAMES)[:1], fold="scaffold-cv-0-0"), constant)
    assert calibration_records([outcome("t", [one])]) == []
    assert calibration_records([outcome("t", [one], kind="regression")]) == []


RATES = (0.0, 0.1, 0.25, 0.5)


def by_draw(of, pattern, metric):
    """.8 less the rate, a hundredth more for every draw; concatenation loses .1 more at any rate."""
    loss = (pattern.rate or 0) + (0.1 if pattern.rate and of.model is None else 0)
    return flat(0.8 - loss + 0.01 * (pattern.draw or 0))


def hidden(name, **changes):
    patterns = [*random_rates(NAMES, RATES, 3), *imbalanced(NAMES, 3)]
    return result(group(name, patterns, section="hiding", **changes), by_draw)


def test_hiding_averages_over_draws_and_says_what_was_really_hidden():
    records = hiding_records(hiding_points([outcome("t", [hidden("fused")])]), settings=SETTINGS)
    found = {(one["protocol"], one["rate"], one["target"]): one for one in records}
    assert len(found) == len(records) == 4 + 1 + 3
    assert found["random", 0.5, None]["value"] == pytest.approx(0.3 + 0.01)
    assert found["random", 0.5, None]["realised"] == pytest.approx(0.8 * 0.5)
    assert (found["random", 0.5, None]["draws"], found["random", 0.0, None]["draws"]) == (3, 1)
    assert found["imbalanced", 0.75, "b"]["value"] == pytest.approx(0.05 + 0.01)
    assert found[UP_TO, 0.25, None]["value"] == pytest.approx(0.8 - (0.1 + 0.25) / 2 + 0.01)


def test_hiding_over_tasks_is_the_mean_and_pairs_are_of_equal_masks():
    both = [outcome(task, [hidden(name, task=task) for name in ("fused", "concat-mean")]) for task in ("t", "u")]
    points = hiding_points(both)
    means = [one for one in hiding_records(points, settings=SETTINGS) if one["task"] is None]
    assert len(means) == 2 * 8
    records = hiding_comparisons(points, settings=SETTINGS)
    assert {(one["representation"], one["against"]) for one in records} == {("fused", "concat-mean")}
    found = {(one["protocol"], one["rate"]): one for one in records if one["task"] is None}
    assert found["random", 0.5]["difference"] == pytest.approx(0.1)
    assert not found["random", 0.5]["tie"]
    assert found["random", 0.0]["tie"]


def trained(name, rate, *, complete_rows=False, value=0.0):
    patterns = random_rates(NAMES, RATES, 1)
    about = group(
        *(name, patterns),
        section="training",
        fitting="missing-while-training",
        fit=Pattern("random", NAMES, rate, 0),
        complete_rows=complete_rows,
    )
    return result(about, lambda of, pattern, metric: flat(0.8 - rate / 2 - (pattern.rate or 0) / 4 + value))


def test_the_training_grid_starts_with_the_same_mask_on_heads_without_gaps():
    lines = [hidden("fused"), hidden("concat-mean"), hidden("pca-32")]
    lines += [trained("fused", 0.5), trained("concat-mean", 0.5, value=-0.05)]
    lines += [trained("concat-mean", 0.5, complete_rows=True, value=-0.2)]
    points = training_points([outcome("t", lines)])
    records = training_records(points, settings=SETTINGS)
    found = {
        (one["representation"], one["complete_rows"], one["train_rate"], one["test_rate"]): one["value"]
        for one in records
    }
    assert {name for name, *_ in found} == {"fused", "concat-mean"}
    assert len(found) == len(records) == 2 * 4 + 3 * 4
    assert found["fused", False, 0.0, 0.5] == pytest.approx(0.3)
    assert found["fused", False, 0.5, 0.5] == pytest.approx(0.8 - 0.25 - 0.125)
    assert found["concat-mean", True, 0.5, 0.25] == pytest.approx(0.8 - 0.25 - 0.0625 - 0.2)
    pairs = training_comparisons(points, settings=SETTINGS)
    differences = {
        (one["complete_rows"], one["train_rate"], one["test_rate"]): one["difference"]
        for one in pairs
        if one["against"] == "concat-mean"
    }
    assert differences[True, 0.5, 0.25] == pytest.approx(0.2)
    assert differences[False, 0.5, 0.25] == pytest.approx(0.05)
    assert differences[False, 0.0, 0.25] == pytest.approx(0.1)
