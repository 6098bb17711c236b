"""Tables and comparisons of hand-made results: averages, pairs, bold, ties, the corrected interval."""

import numpy as np
import pytest

from dynfusion.evaluation.hiding.patterns import Pattern, all_subsets
from dynfusion.evaluation.report.comparisons import build_comparisons, build_subset_comparisons
from dynfusion.evaluation.report.curves import build_curves, column_subsets
from dynfusion.evaluation.report.tables import build_tables, subset_records
from dynfusion.evaluation.settings import StatisticsSettings
from tests.evaluation.outcomes import NAMES, RESAMPLES, group, outcome, result

SETTINGS = StatisticsSettings()
SUBSETS = all_subsets(NAMES)


def flat(value):
    """A number that is the same in every resample."""
    return np.full(RESAMPLES + 1, value)


def noisy(value, seed, spread=0.05):
    """A number with symmetric noise."""
    noise = np.random.default_rng(seed).normal(scale=spread, size=RESAMPLES + 1)
    noise[0] = 0
    return value + noise


def by_absent(values):
    """A rule: the value of how many modalities are absent."""
    return lambda of, pattern, metric: flat(values[len(NAMES) - len(pattern.visible)])


def line(name, rule, *, patterns=SUBSETS, metrics=("roc_auc",), **changes):
    return result(group(name, patterns, **changes), rule, metrics=metrics)


def tables_of(*outcomes):
    return build_tables(build_curves(outcomes, NAMES), settings=SETTINGS)


def cells_of(table, representation):
    return next(row["cells"] for row in table["rows"] if row["representation"] == representation)


def test_columns_average_over_subsets_and_two_modalities_have_none_that_repeats_another():
    columns = column_subsets(NAMES)
    assert list(columns) == ["all present", "one absent", "two absent", "any absent"]
    assert columns["one absent"] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert len(columns["any absent"]) == 6
    assert list(column_subsets(("a", "b"))) == ["all present", "one absent"]
    assert list(column_subsets(("a",))) == ["all present"]


def test_a_table_averages_subsets_then_folds_then_tasks():
    """t: folds say .9 and .7 of all present; u: one fold says .4. Over tasks (.8 + .4) / 2."""
    t = outcome(
        "t",
        [
            line("fused", by_absent((0.9, 0.6, 0.3)), fold="scaffold-cv-0-0"),
            line("fused", by_absent((0.7, 0.6, 0.1)), fold="scaffold-cv-0-1"),
        ],
        folds=2,
    )
    u = outcome("u", [line("fused", by_absent((0.4, 0.4, 0.4)), task="u", fold="scaffold-cv-0-0")])
    mean, first, second = tables_of(t, u)
    assert [mean["task"], first["task"], second["task"]] == [None, "t", "u"]
    assert (mean["tasks"], mean["split"]) == (["t", "u"], "scaffold-cv")
    values = [[cell["value"] for cell in cells_of(table, "fused").values()] for table in (mean, first, second)]
    assert values[1] == pytest.approx([0.8, 0.6, 0.2, (3 * 0.6 + 3 * 0.2) / 6])
    assert values[2] == pytest.approx([0.4] * 4)
    assert values[0] == pytest.approx([0.6, 0.5, 0.3, 0.4])


def test_a_column_is_empty_where_a_representation_has_not_all_of_its_subsets():
    single = line("a", by_absent((0.7, 0.7, 0.7)), patterns=[one for one in SUBSETS if "a" in one.visible])
    (table,) = tables_of(outcome("t", [single, line("fused", by_absent((0.8, 0.7, 0.6)))]))
    cells = cells_of(table, "a")
    assert cells["all present"]["value"] == pytest.approx(0.7)
    assert [cells[column] for column in ("one absent", "two absent", "any absent")] == [None] * 3


def test_what_needs_no_modality_stands_in_every_column():
    (table,) = tables_of(
        outcome(
            "t", [line("ecfp", by_absent((0.75,)), patterns=SUBSETS[:1]), line("fused", by_absent((0.8, 0.7, 0.6)))]
        )
    )
    assert [cell["value"] for cell in cells_of(table, "ecfp").values()] == pytest.approx([0.75] * 4)
    assert cells_of(table, "ecfp")["two absent"]["bold"]


def test_refitted_heads_have_the_transferred_cells_of_complete_molecules():
    refitted = [
        line("fused", by_absent((0, 0.7, 0.6)), patterns=[one], fitting="refitted", fit=one) for one in SUBSETS[1:]
    ]
    own = line("fused", by_absent((0.9, 0.5, 0.4)))
    same = [line("late-fusion", by_absent((0.85, 0.75, 0.65))), line("ecfp", by_absent((0.5,)), patterns=SUBSETS[:1])]
    tables = tables_of(outcome("t", [own, line("concat-mean", by_absent((0.8, 0.5, 0.4))), *same, *refitted]))
    table = next(table for table in tables if table["fitting"] == "refitted")
    assert sorted(row["representation"] for row in table["rows"]) == ["ecfp", "fused", "late-fusion"]
    for name, expected in (("fused", [0.9, 0.7, 0.6, 0.65]), ("late-fusion", [0.85, 0.75, 0.65, 0.7])):
        assert [cell["value"] for cell in cells_of(table, name).values()] == pytest.approx(expected)
    assert [cell["value"] for cell in cells_of(table, "ecfp").values()] == pytest.approx([0.5] * 4)


def test_a_fold_in_which_the_metric_is_undefined_is_left_out():
    undefined = line("fused", by_absent((np.nan,) * 3), fold="scaffold-cv-0-0")
    found = outcome("t", [undefined, line("fused", by_absent((0.8, 0.7, 0.6)), fold="scaffold-cv-0-1")], folds=2)
    assert cells_of(tables_of(found)[0], "fused")["all present"]["value"] == pytest.approx(0.8)


def test_regression_and_binary_tasks_share_no_table_and_rmse_is_never_averaged():
    metrics = ("r2", "rmse")
    first = outcome("r", [line("fused", by_absent((0.6, 0.5, 0.4)), metrics=metrics, task="r")], kind="regression")
    second = outcome("s", [line("fused", by_absent((0.4, 0.3, 0.2)), metrics=metrics, task="s")], kind="regression")
    tables = tables_of(outcome("t", [line("fused", by_absent((0.9, 0.8, 0.7)))]), first, second)
    found = [(table["metric"], table["task"], table["tasks"]) for table in tables]
    assert found == [
        ("roc_auc", "t", ["t"]),
        ("r2", None, ["r", "s"]),
        ("r2", "r", ["r", "s"]),
        ("r2", "s", ["r", "s"]),
        ("rmse", "r", ["r", "s"]),
        ("rmse", "s", ["r", "s"]),
    ]


def marks(table, column="all present"):
    return {row["representation"]: (row["cells"][column]["bold"], row["cells"][column]["tie"]) for row in table["rows"]}


def test_only_what_is_told_apart_from_all_others_is_bold():
    """Shared noise cancels in a pair: .81 and .80 differ surely. Separate noise of .05 hides it; .5 is no tie."""
    shared = [line(name, lambda *_, at=at: noisy(at, 4)) for name, at in (("fused", 0.81), ("concat-mean", 0.8))]
    assert marks(tables_of(outcome("t", shared))[0]) == {"fused": (True, False), "concat-mean": (False, False)}
    separate = [
        line(name, lambda *_, at=at, seed=seed: noisy(at, seed))
        for seed, (name, at) in enumerate((("fused", 0.81), ("concat-mean", 0.8), ("pca-32", 0.5)))
    ]
    found = marks(tables_of(outcome("t", separate))[0])
    assert found == {"fused": (False, True), "concat-mean": (False, True), "pca-32": (False, False)}


def test_of_errors_the_smallest_is_best():
    lines = [
        line(name, lambda *_, at=at: noisy(at, 4), metrics=("rmse",))
        for name, at in (("fused", 0.9), ("concat-mean", 1))
    ]
    assert marks(tables_of(outcome("t", lines, kind="regression"))[0])["fused"] == (True, False)


FOLDS = ("scaffold-cv-0-0", "scaffold-cv-0-1", "scaffold-cv-1-0", "scaffold-cv-1-1")


def folded(differences, *, repeats=2):
    """fused less concat-mean is `differences` on four folds, exactly so in every resample."""
    ours = [
        line("fused", lambda *_, at=0.7 + one: flat(at), fold=fold)
        for fold, one in zip(FOLDS, differences, strict=True)
    ]
    other = [line("concat-mean", lambda *_: flat(0.7), fold=fold) for fold in FOLDS]
    return outcome("t", [*ours, *other], folds=4, repeats=repeats)


def test_the_corrected_interval_is_the_hand_worked_one():
    """.02 .04 .06 .08: mean .05, s^2 = .002 / 3; two repeats of two folds test half each, so test / train = 1.

    Variance (1/4 + 1) .002/3 = .000833.., error .0288675, t(3, .975) = 3.182446: .05 -+ .0918694.
    """
    records = build_comparisons(build_curves([folded((0.02, 0.04, 0.06, 0.08))], NAMES), settings=SETTINGS)
    record = next(one for one in records if one["column"] == "all present")
    assert (record["representation"], record["against"], record["task"]) == ("fused", "concat-mean", "t")
    assert (record["difference"], record["low"], record["high"]) == pytest.approx((0.05, 0.05, 0.05))
    assert (record["fold_low"], record["fold_high"]) == pytest.approx((0.05 - 0.0918694, 0.05 + 0.0918694), abs=1e-6)
    assert record["tie"]


def test_tasks_may_differ_in_their_number_of_folds():
    """Means of .05 and .01; the second task's folds agree, so its variance is 0 and the first's is divided by 4.

    Half of .0918694, with the 3 degrees of freedom of the first.
    """
    agree = [
        line(name, lambda *_, at=at: flat(at), fold=fold, task="u")
        for name, at in (("fused", 0.25), ("concat-mean", 0.24))
        for fold in FOLDS[:2]
    ]
    both = [folded((0.02, 0.04, 0.06, 0.08)), outcome("u", agree, folds=2)]
    records = build_comparisons(build_curves(both, NAMES), settings=SETTINGS)
    record = next(one for one in records if (one["task"], one["column"]) == (None, "all present"))
    assert record["difference"] == pytest.approx(0.03)
    assert record["fold_high"] - record["difference"] == pytest.approx(0.0918694 / 2, abs=1e-6)


def test_a_difference_that_only_molecules_are_sure_of_is_not_bold():
    assert marks(tables_of(folded((0.02, 0.04, 0.06, 0.08)))[0])["fused"] == (False, True)
    assert marks(tables_of(folded((0.049, 0.05, 0.05, 0.051)))[0])["fused"] == (True, False)


def test_comparisons_are_of_fusion_models_against_all_others_in_their_columns():
    lines = [
        line("a", by_absent((0.7,) * 3), patterns=[one for one in SUBSETS if "a" in one.visible]),
        line("concat-mean", by_absent((0.8, 0.6, 0.4))),
        line("projection-mean (x)", by_absent((0.8, 0.7, 0.6)), model="x"),
        line("fused (x)", by_absent((0.8, 0.7, 0.6)), model="x"),
    ]
    records = build_comparisons(build_curves([outcome("t", lines)], NAMES), settings=SETTINGS)
    assert {record["representation"] for record in records} == {"projection-mean (x)", "fused (x)"}
    found = {(one["column"], one["against"]): one for one in records if one["representation"] == "fused (x)"}
    assert set(found) == {
        ("all present", "a"),
        *((column, name) for column in column_subsets(NAMES) for name in ("concat-mean", "projection-mean (x)")),
    }
    record = found["any absent", "concat-mean"]
    assert (record["difference"], record["low"], record["high"]) == pytest.approx((0.15, 0.15, 0.15))
    assert not record["tie"]
    assert record["fold_low"] is None
    assert found["all present", "concat-mean"]["tie"]


def test_a_single_modality_meets_the_fusion_model_that_sees_no_more():
    lines = [
        line("a", by_absent((0.7,) * 3), patterns=[one for one in SUBSETS if "a" in one.visible]),
        line("fused", lambda of, pattern, metric: flat({("a",): 0.65, ("b",): 0.1}.get(pattern.visible, 0.8))),
    ]
    records = build_subset_comparisons(build_curves([outcome("t", lines)], NAMES), settings=SETTINGS)
    found = {tuple(record["visible"]): record["difference"] for record in records}
    assert found == pytest.approx({NAMES: 0.1, ("a", "b"): 0.1, ("a", "c"): 0.1, ("a",): -0.05})


def test_subset_records_are_means_over_folds():
    found = subset_records([folded((0.02, 0.04, 0.06, 0.08))], settings=SETTINGS)
    assert len(found) == 2 * len(SUBSETS)
    record = next(one for one in found if (one["representation"], one["visible"]) == ("fused", ["b"]))
    assert (record["value"], record["low"], record["high"], record["folds"]) == pytest.approx((0.75, 0.75, 0.75, 4))


def test_tables_of_sections_and_probes_are_apart():
    lines = [
        line("fused", by_absent((0.8, 0.7, 0.6))),
        line("fused", by_absent((0.5, 0.5, 0.5)), section="given"),
        line("fused", by_absent((0.4, 0.4, 0.4)), section="probes", probe="knn"),
        line("fused", by_absent((0.1,)), section="hiding", patterns=[Pattern("random", NAMES, 0.5, 0)]),
    ]
    found = {(one["section"], one["probe"]): one for one in tables_of(outcome("t", lines))}
    values = {key: cells_of(table, "fused")["all present"]["value"] for key, table in found.items()}
    assert values == pytest.approx({("folds", "linear"): 0.8, ("given", "linear"): 0.5, ("probes", "knn"): 0.4})
