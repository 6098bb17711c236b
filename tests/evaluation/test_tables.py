import numpy as np
import pytest

from dynfusion.evaluation.hiding.patterns import transferred
from dynfusion.evaluation.protocol.plan import CellGroup, GroupResult
from dynfusion.evaluation.report.tables import build_comparisons, build_tables, column_names, curves
from dynfusion.evaluation.scores.resampling import StatisticsSettings

NAMES = ("a", "b", "c")
SETTINGS = StatisticsSettings()


def result(task, representation, values, *, spread=0.01, seed=0, shared=None):
    """A group whose value is `values[absent]` in every subset; noise is shared where given, as in a paired draw."""
    patterns = tuple(transferred(NAMES))
    noise = np.random.default_rng(seed).normal(scale=spread, size=1001) if shared is None else shared
    noise[0] = 0
    found = np.stack([values[3 - len(pattern.visible)] + noise for pattern in patterns])
    model = "m" if representation == "fused" else None
    group = CellGroup(task, representation, model, "linear", 0, "key")
    return GroupResult(group, patterns, np.zeros((7, 5, 1)), {"roc_auc": found, "pr_auc": found}, (0,) * 7, 0.1)


def curve(*results):
    return curves(results, metric="roc_auc", modalities=NAMES, models=["m"])


def test_columns_average_subsets_and_then_tasks():
    found = curve(
        result("t", "fused", (0.9, 0.8, 0.6)),
        result("u", "fused", (0.7, 0.6, 0.5)),
        result("t", "concat-mean", (0.9, 0.7, 0.5)),
        result("u", "concat-mean", (0.9, 0.7, 0.5)),
    )
    table = build_tables([found], settings=SETTINGS)[0]
    assert table["columns"] == ["all present", "one absent", "two absent", "any absent"]
    cells = table["rows"][0]["cells"]
    assert [cells[column]["value"] for column in table["columns"]] == pytest.approx([0.8, 0.7, 0.55, 0.625])
    assert [entry["task"] for entry in build_tables([found], settings=SETTINGS)] == [None, "t", "u"]


def test_two_modalities_have_no_column_that_repeats_another():
    assert column_names(2) == ["all present", "one absent"]
    assert column_names(1) == ["all present"]


def test_only_a_difference_whose_interval_excludes_zero_is_bold():
    shared = np.random.default_rng(4).normal(scale=0.05, size=1001)
    close = curve(
        result("t", "fused", (0.81, 0.8, 0.8), shared=shared),
        result("t", "concat-mean", (0.8, 0.8, 0.8), shared=shared),
    )
    paired = build_tables([close], settings=SETTINGS)[0]["rows"]
    assert paired[0]["cells"]["all present"]["bold"]
    assert not paired[1]["cells"]["all present"]["tie"]
    loose = curve(
        result("t", "fused", (0.81, 0.8, 0.8), spread=0.05, seed=1),
        result("t", "concat-mean", (0.8, 0.8, 0.8), spread=0.05, seed=2),
    )
    unpaired = build_tables([loose], settings=SETTINGS)[0]["rows"]
    assert not unpaired[0]["cells"]["all present"]["bold"]
    assert all(row["cells"]["all present"]["tie"] for row in unpaired)


def test_comparisons_say_ties_and_cover_tasks_and_their_mean():
    shared = np.random.default_rng(4).normal(scale=0.05, size=1001)
    found = curve(
        result("t", "fused", (0.8, 0.7, 0.6), shared=shared), result("t", "concat-mean", (0.8, 0.6, 0.4), shared=shared)
    )
    records = build_comparisons([found], settings=SETTINGS)
    assert {record["task"] for record in records} == {None, "t"}
    by_column = {record["column"]: record for record in records if record["task"] is None}
    assert by_column["all present"]["tie"]
    assert not by_column["any absent"]["tie"]
    assert by_column["any absent"]["difference"] == pytest.approx(0.15)
    assert (by_column["any absent"]["low"], by_column["any absent"]["high"]) == pytest.approx((0.15, 0.15))
