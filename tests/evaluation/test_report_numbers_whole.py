"""The whole report of example tasks, and the table of its cells."""

import json

import numpy as np
import pytest

from dynfusion.evaluation.hiding.patterns import Pattern, all_subsets
from dynfusion.evaluation.report.assembly import build_report
from dynfusion.evaluation.report.cells_table import SCHEMA, cells_table, intervals
from dynfusion.evaluation.scores.resampling import interval
from dynfusion.evaluation.settings import EvaluationSettings, StatisticsSettings
from tests.evaluation.outcomes import (
    MOLECULES,
    NAMES,
    RESAMPLES,
    example_outcomes,
    group,
    outcome,
    provenance,
    result,
    rivals,
)

SETTINGS = StatisticsSettings()


def small(**changes):
    tasks = (("bace", "binary"), ("esol", "regression"))
    settings = EvaluationSettings(extent="quick")
    outcomes = example_outcomes(tasks, settings=settings, **changes)
    return build_report(outcomes, rivals(), settings, provenance=provenance(**changes))


def test_the_report_is_plain_json_and_the_same_every_time():
    report = small()
    assert json.loads(json.dumps(report)) == report
    assert json.dumps(report) == json.dumps(small())


def test_a_quick_report_has_one_section_on_the_given_split():
    report = small()
    assert {(one["section"], one["split"], one["fitting"]) for one in report["tables"]} == {
        ("folds", "given", "transferred")
    }
    assert {one["metric"] for one in report["tables"]} == {"roc_auc", "pr_auc", "r2", "rmse", "spearman"}
    assert {one["metric"] for one in report["robustness"]} == {"roc_auc", "r2"}
    assert report["hiding"] == report["training_rates"] == []
    assert len(report["calibration"]) == len([one for one in report["subsets"] if one["metric"] == "roc_auc"])


def test_several_models_and_ablations_have_lines_and_records_of_their_own():
    tasks, settings = (("bace", "binary"),), EvaluationSettings()
    about = {"models": ("x", "y"), "ablations": ("no-gate",)}
    outcomes = example_outcomes(tasks, settings=settings, **about)
    report = build_report(outcomes, rivals(), settings, provenance=provenance(**about))
    assert [(one["name"], one["ablation"]) for one in report["models"]] == [
        ("x", False),
        ("y", False),
        ("no-gate", True),
    ]
    ours = {"fused (x)", "fused (y)", "projection-mean (x)", "projection-mean (y)"}
    lines = {
        section: {row["representation"] for one in report["tables"] if one["section"] == section for row in one["rows"]}
        for section in ("folds", "given")
    }
    assert lines["given"] == lines["folds"], "an ablation is in no rank of the main tables"
    removed = [one for one in report["tables"] if one["section"] == "ablations"]
    assert {row["representation"] for one in removed for row in one["rows"]} == {
        *("fused (x)", "fused (y)", "fused (no-gate)")
    }
    for one in removed:
        for column in one["columns"]:
            marks = [row["cells"][column] for row in one["rows"]]
            best = max(cell["value"] for cell in marks) if one["metric"] != "rmse" else None
            assert best is None or any((c["tie"] or c["bold"]) and c["value"] == best for c in marks)
    folds = [one for one in report["comparisons"] if one["section"] == "folds"]
    assert {one["representation"] for one in folds} == ours
    assert all(one["fold_low"] is not None for one in folds)
    assert {one["protocol"] for one in report["hiding"]} == {
        *("random", "random-up-to", "imbalanced", "not-at-random", "corrupted")
    }
    assert {one["train_rate"] for one in report["training_rates"]} == {0.0, 0.25, 0.5, 0.75}
    dims = report["dims"]
    assert (dims["fused (x)"], dims["a+c"], dims["concat-ridge"], dims["pca-32"], dims["ecfp"]) == (
        32,
        40,
        50,
        32,
        2048,
    )
    assert "late-fusion" not in dims


def test_choices_are_said_once_for_every_split():
    lines = [
        result(group("fused", all_subsets(NAMES), fold=fold, section=section), lambda *_: np.full(RESAMPLES + 1, 0.5))
        for section, fold in (
            *(("folds", "scaffold-cv-0-0"), ("folds", "scaffold-cv-0-1")),
            *(("given", "given"), ("hiding", "given")),
        )
    ]
    settings = EvaluationSettings()
    report = build_report([outcome("t", lines)], rivals(), settings, provenance=provenance())
    assert [(one["split"], one["representation"], one["chosen"]) for one in report["choices"]] == [
        ("scaffold-cv", "fused", {"C": 0.01}),
        ("given", "fused", {"C": 0.01}),
    ]
    assert {(one["imputer"], one.get("alpha"), one.get("k")) for one in report["imputers"]} == {
        ("ridge", 0.1, None),
        ("knn", None, 10),
    }


def test_the_cells_table_has_a_row_for_every_cell_and_metric():
    spread = np.arange(RESAMPLES + 1) / RESAMPLES
    patterns = [Pattern("subset", ("a", "b")), Pattern("imbalanced", NAMES, 0.75, 2, "c")]
    about = group("fused", patterns, section="training", fit=Pattern("random", NAMES, 0.25, 0), complete_rows=True)
    one = result(about, lambda *_: spread, metrics=("roc_auc", "pr_auc"))
    table = cells_table([outcome("t", [one])], SETTINGS)
    assert table.schema == SCHEMA
    assert table.num_rows == 4
    first, second = table.to_pylist()[:2]
    assert first == {
        "section": "training",
        "task": "t",
        "split": "given",
        "fold": "given",
        "representation": "fused",
        "model": "run",
        "probe": "linear",
        "seed": 0,
        "fitting": "transferred",
        "fit_rate": 0.25,
        "complete_rows": True,
        "protocol": "subset",
        "visible": "a+b",
        "rate": None,
        "draw": None,
        "target": None,
        "metric": "roc_auc",
        "value": 0.0,
        "low": pytest.approx(0.025975),
        "high": pytest.approx(0.975025),
        "molecules": MOLECULES,
        "unscored": 2,
        "hidden_share": pytest.approx(1 / 3),
    }
    assert (second["visible"], second["rate"], second["draw"], second["target"]) == ("a+b+c", 0.75, 2, "c")
    assert cells_table([], SETTINGS).num_rows == 0


def test_intervals_of_many_rows_are_those_of_each():
    rows = np.random.default_rng(0).normal(size=(3, RESAMPLES + 1))
    for values in (rows, np.where(rows > 2, np.nan, rows)):
        low, high = intervals(values, confidence=0.9)
        assert [*zip(low, high, strict=True)] == [interval(row, confidence=0.9) for row in values]
