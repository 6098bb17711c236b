import io
import json
import re
import subprocess
from copy import deepcopy

import pytest
from rich.console import Console

from dynfusion.evaluation.report.compare import labels, said
from dynfusion.evaluation.report.page import REPORT_KEYS, read_report, terminal_table, write_report
from dynfusion.evaluation.report.wording import summary
from dynfusion.page.blocks import Figures, Fold, Section, Text
from dynfusion.page.render import rendered
from dynfusion.verbs.report import report as rebuild
from tests.browser import CHROMIUM, FLAGS, browse
from tests.evaluation import outcomes
from tests.evaluation.report_example import MODALITIES, TASKS, example_report

LISTS = ("comparisons", "robustness", "modality_value", "calibration", "subsets", "hiding", "training_rates")
INSIDE = ("reconstruction", "alignment", "collapse", "imputers", "choices")


@pytest.fixture(scope="module")
def content():
    return example_report()


@pytest.fixture(scope="module")
def folder(content, tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    write_report(out, content)
    return out


def small(**changes):
    return {**example_report(("bace", "bbbp"), quick=True), **changes}


def main_comparisons(report):
    return [r for r in report["comparisons"] if r["fitting"] == "transferred" and r["representation"] == "fused"]


def test_writing_again_and_rebuilding_give_the_same_bytes(tmp_path):
    names = ["report.html", "report.json", "report.md"]
    first, second = tmp_path / "first", tmp_path / "second"
    write_report(first, small())
    write_report(second, small())
    before = [(first / name).read_bytes() for name in names]
    assert [(second / name).read_bytes() for name in names] == before
    (second / "report.html").unlink()
    assert rebuild(second) == second / "report.html"
    assert [(second / name).read_bytes() for name in names] == before


def test_a_number_that_is_not_known_is_null_and_shown_as_a_dash(tmp_path):
    broken = small()
    for table in broken["tables"]:
        table["rows"][0]["cells"]["all present"] |= {"value": float("nan"), "low": float("nan"), "high": float("nan")}
    write_report(tmp_path, broken)
    assert read_report(tmp_path)["tables"][0]["rows"][0]["cells"]["all present"]["value"] is None
    for name in ("report.md", "report.html"):
        assert not re.search(r"\bnan\b|\bNone\b", (tmp_path / name).read_text())
    assert "| smiles | – |" in (tmp_path / "report.md").read_text()


def test_names_of_tasks_and_models_cannot_break_page_or_tables(tmp_path):
    text = json.dumps(small()).replace("bace", "<b>&x|y</b>").replace('"pool"', '"<i>m</i>"')
    write_report(tmp_path, json.loads(text))
    page, markdown = (tmp_path / "report.html").read_text(), (tmp_path / "report.md").read_text()
    assert "<b>" not in page
    assert "<i>" not in page
    assert "&lt;b&gt;&amp;x|y&lt;/b&gt;" in page
    widths = {
        line.replace("\\|", "").count("|") for line in markdown.splitlines() if "x\\|y" in line and line[0] == "|"
    }
    assert widths
    assert "<b>" not in markdown


def test_every_row_of_a_markdown_table_is_as_wide_as_its_head(folder):
    lines = (folder / "report.md").read_text().splitlines()
    tables = [line.replace("\\|", "") for line in lines]
    heads = [place for place, line in enumerate(tables) if re.fullmatch(r"\|(---:?\|)+", line)]
    assert len(heads) > 40
    for place in heads:
        width, row = tables[place].count("|"), place - 1
        assert tables[place - 2] == ""
        while tables[row].startswith("|"):
            assert tables[row].count("|") == width, lines[row]
            row += 1


@pytest.mark.parametrize(
    "missing", [LISTS, INSIDE, (*LISTS, *INSIDE, "tables"), *((name,) for name in (*LISTS, *INSIDE))]
)
def test_a_part_that_was_not_computed_is_left_out(missing, tmp_path):
    write_report(tmp_path, small(**{name: [] for name in missing}))
    page = (tmp_path / "report.html").read_text()
    anchors = re.findall(r'<section id="([^"]+)"', page)
    assert re.findall(r'href="#([a-z0-9-]+)">[A-Z]', page) == anchors
    assert {"data", "terms"} <= set(anchors)
    gone = {"robustness": "drops", "hiding": "hiding", "training_rates": "gaps", "reconstruction": "reconstruction"}
    assert not {gone[name] for name in missing if name in gone} & set(anchors)


def test_a_task_without_labels_known_pool_or_training_history_is_shown(tmp_path):
    report = small()
    report["models"][0]["training"] = {}
    for task in report["tasks"]:
        task["base_rate"] = None
        task["leaks"] = [{**leak, "molecule_in_pool": None} for leak in task["leaks"]]
    write_report(tmp_path, report)
    page = (tmp_path / "report.html").read_text()
    assert "molecule in the fusion model’s pool unknown" in page
    assert 'id="training"' not in page


def test_several_models_and_regression_have_their_lines(tmp_path):
    report = json.loads(json.dumps(small()).replace('"fused"', '"fused (a)"').replace("roc_auc", "r2"))
    report["models"] = [{**report["models"][0], "name": name} for name in ("a", "b")]
    for task in report["tasks"]:
        task["kind"] = "regression"
    write_report(tmp_path, report)
    assert "fused (a) is not told apart from ridge-imputed concatenation" in summary(report)[0]
    assert "R²" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("difference", "tie", "word"),
    [(0.02, False, "beats"), (-0.02, False, "loses to"), (0.02, True, "is not told apart from")],
)
def test_the_headline_says_win_loss_and_tie(content, difference, tie, word):
    report = deepcopy(content)
    for record in main_comparisons(report):
        record |= {"difference": difference, "low": difference - 0.01, "high": difference + 0.01, "tie": tie}
    sentence = summary(report)[0]
    assert sentence.startswith(
        f"When modalities are missing (mean over 6 tasks), fused {word} ridge-imputed concatenation"
    )
    assert {"beats": "by 0.020", "loses to": "by 0.020", "is not told apart from": "+0.020"}[word] in sentence


def test_the_headline_names_the_rival_that_is_strongest_when_modalities_are_missing(content):
    report = deepcopy(content)
    for table in report["tables"]:
        for row in table["rows"]:
            if row["representation"] == "late-fusion":
                row["cells"]["any absent"]["value"] = 0.9
    assert re.search(
        r"fused beats late fusion by .* its strongest rival there \(0\.\d{3} against 0\.900\)", summary(report)[0]
    )


def test_the_summary_advises_the_best_single_modality_and_doubts_it_where_intervals_overlap(content):
    report = deepcopy(content)
    table = next(
        t for t in report["tables"] if t["section"] == "folds" and t["metric"] == "roc_auc" and t["task"] is None
    )
    values = {"graph": (0.9, 0.88, 0.92), "smiles": (0.7, 0.65, 0.75), "selfies": (0.7, 0.65, 0.75)}
    for row in table["rows"]:
        if row["representation"] in values:
            row["cells"]["all present"] |= dict(
                zip(("value", "low", "high"), values[row["representation"]], strict=True)
            )
    sure = next(sentence for sentence in summary(report) if "afford" in sentence)
    assert "compute graph: alone it reaches 0.900 ROC-AUC (0.880–0.920). Computing all 3" in sure
    for row in table["rows"]:
        if row["representation"] == "selfies":
            row["cells"]["all present"]["high"] = 0.89
    doubtful = next(sentence for sentence in summary(report) if "afford" in sentence)
    assert "the interval of selfies overlaps, so the choice is not sure" in doubtful


def test_leaks_stand_below_every_table_of_results(folder):
    page = (folder / "report.html").read_text()
    report = read_report(folder)
    assert page.count("Leaks among test molecules") >= len(report["tables"]) - 2 * len(TASKS) - 2
    assert "scaffold also in training 40.7\u00a0%" in page
    assert "scaffold also in training 0.0\u00a0%" in page


def test_a_terminal_shows_the_same_numbers(folder):
    console = Console(width=80, file=io.StringIO())
    report = read_report(folder)
    console.print(terminal_table(report))
    text = console.file.getvalue()
    main = next(t for t in report["tables"] if t["section"] == "folds" and t["task"] is None)
    for row in main["rows"]:
        assert row["representation"] in text
        for cell in filter(None, row["cells"].values()):
            assert f"{cell['value']:.3f}" in text
    assert "mean over 6 tasks" in text
    assert "…" not in text


def test_a_folder_without_a_report_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"report\.json: no such file"):
        rebuild(tmp_path)
    (tmp_path / "report.json").write_text("{")
    with pytest.raises(ValueError, match="not readable as JSON"):
        rebuild(tmp_path)
    (tmp_path / "report.json").write_text('{"title": "x"}')
    with pytest.raises(ValueError, match="not a report of this version, it has no settings"):
        rebuild(tmp_path)
    with pytest.raises(ValueError, match="--out: found it with one report"):
        rebuild(tmp_path, out=tmp_path)


def test_the_page_asks_nothing_of_the_network(folder):
    page = (folder / "report.html").read_text()
    assert not re.search(r"https?://|//[a-z]+\.|@import|<script|<iframe|<img", page)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', page)) <= set(ids)


def test_the_example_is_what_a_report_must_hold(content):
    assert set(REPORT_KEYS) <= set(content)


def test_reports_that_differ_are_said_to_and_values_that_overlap_are_marked(tmp_path):
    first, second = small(), small()
    second["settings"]["evaluation"]["split"]["folds"] = 3
    for table in second["tables"]:
        for row in table["rows"]:
            cell = row["cells"]["all present"]
            if row["representation"] == "fused" and cell:
                cell |= {"value": cell["value"] + 0.3, "low": cell["low"] + 0.3, "high": cell["high"] + 0.3}
    for name, report in (("a", first), ("b", second)):
        write_report(tmp_path / name, report)
    page = rebuild([tmp_path / "a", tmp_path / "b"], out=tmp_path / "both")
    assert page == tmp_path / "both" / "comparison.html"
    text = (tmp_path / "both" / "comparison.md").read_text()
    assert "These reports differ in evaluation.split.folds (5, 3)" in text.replace("\\_", "_")
    assert "Paired differences are not available across files" in text
    assert re.search(r"\| fused \| 0\.\d{3} \[[^|]*\] \| (0\.9|1\.0)\d+ \[[^|]*\] \|", text)
    assert re.search(r"\| concat-mean \| 0\.\d{3} \[[^|]*\] \| 0\.\d{3} ≈ \[", text) or re.search(
        r"\| concat-mean \| 0\.\d{3} ≈ \[", text
    )
    assert "The same tasks" not in text


def test_equal_protocols_are_said_to_be_equal_and_different_tasks_are_not(tmp_path):
    one, two = small(), small(tasks=small()["tasks"][:1])
    assert said({"a": one, "b": small()}) == "These reports have the same tasks, splits and settings of the evaluation."
    assert "differ in tasks (bace+bbbp, bace)" in said({"a": one, "b": two})
    write_report(tmp_path / "a", one)
    write_report(tmp_path / "b", example_report(("hiv",), quick=True))
    with pytest.raises(ValueError, match="they have no task in common"):
        rebuild([tmp_path / "a", tmp_path / "b"], out=tmp_path / "both")
    with pytest.raises(ValueError, match="twice"):
        labels([tmp_path / "a", tmp_path / "a"])
    assert labels([tmp_path / "x" / "report", tmp_path / "y" / "report"]) == ["x/report", "y/report"]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium binary found to open the page with")
@pytest.mark.parametrize("width", [1200, 360])
def test_a_person_sees_the_tables_and_every_plot_and_nothing_overflows(folder, tmp_path, width):
    seen, report = browse(folder, tmp_path, width), read_report(folder)
    assert seen["width"] == width
    assert seen["overflow"] == 0
    assert seen["closed"] == []
    assert seen["wide"] == []
    assert seen["requests"] == 0
    assert all(240 < plot <= width for plot in seen["plots"])
    assert len(seen["plots"]) > 7 + 4 + 5 + 14
    assert all(-1 <= left <= 1 for left in seen["headings"])
    text = " ".join(seen["shown"].split())
    main = next(t for t in report["tables"] if t["section"] == "folds" and t["task"] is None)
    for row in main["rows"]:
        assert row["representation"] in text
        for cell in filter(None, row["cells"].values()):
            assert f"{cell['value']:.3f}" in text
            assert f"{cell['low']:.3f}–{cell['high']:.3f}" in text
    for sentence in summary(report):
        assert sentence in text
    for name in (*MODALITIES, *TASKS):
        assert name in text
    for heading in ("Table 1", "Figure 2", "Figure 3", "Missing while training", "Inside the embedding", "Terms"):
        assert heading in text
    assert "average precision" not in text


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium binary found to open the page with")
def test_a_screenshot_is_not_blank(folder, tmp_path):
    picture = tmp_path / "page.png"
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1280,2400"]
    command += [f"--screenshot={picture}", (folder / "report.html").as_uri()]
    subprocess.run(command, capture_output=True, timeout=90, check=True)
    assert picture.stat().st_size > 100_000


def test_a_report_from_finished_tasks_of_several_kinds_models_and_ablations_is_shown(tmp_path):
    numbers = outcomes.example_report(models=("x", "y"), ablations=("no-gate",))
    write_report(tmp_path, numbers)
    page, markdown = (tmp_path / "report.html").read_text(), (tmp_path / "report.md").read_text()
    assert summary(numbers)[0].startswith("When modalities are missing (mean over 2 tasks), fused (x) ")
    for name in ("fused (x)", "fused (y)", "fused (no-gate)", "RMSE", "Spearman", "Gaps", "esol"):
        assert name.lower() in markdown.lower()
    sections = ["results", "differences", "table-1", "drops", "values", "hiding", "gaps", "data", "details", "terms"]
    assert re.findall(r'<section id="([^"]+)"', page) == sections
    assert not re.search(r"\bnan\b|\bNone\b", markdown)


def test_a_fold_of_figures_alone_is_no_heading_of_a_text():
    figures = Figures((("<svg></svg>", "a curve"),))
    folds = (Fold("Curves", (Fold("One", (figures,)),)), Fold("Words", (figures, Text("said"))))
    section = Section("s", "Title", folds, "Short")
    content = {"title": "t", "meta": "m", "sentences": [], "tiles": [], "sections": [section]}
    text = rendered(content)["md"].decode()
    assert "Curves" not in text
    assert "### Words" in text
