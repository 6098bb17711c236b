import base64
import io
import json
import re
import shutil
import subprocess

import pytest
from rich.console import Console

from dynfusion.evaluation.insight.molecules import InsightSettings
from dynfusion.evaluation.insight.reconstruction import reconstruction_records
from dynfusion.evaluation.protocol.plan import plan, run_group
from dynfusion.evaluation.report.assembly import Provenance, build_report
from dynfusion.evaluation.report.page import read_report, terminal_table, write_report
from dynfusion.verbs.report import report as rebuild
from tests.evaluation.synthetic import LatentModel, history, inputs, rivals, task

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
CELL_KEYS = [
    *("task", "split", "fold", "representation", "model", "visible", "protocol", "rate", "draw"),
    *("probe", "seed", "metric", "value", "low", "high", "molecules"),
]


@pytest.fixture(scope="module")
def content():
    model = LatentModel()
    tasks = [task("solubility", kind="multiclass", rows=400), task("freesolv", seed=11)]
    evaluation = inputs(model, *tasks)
    results = [
        run_group(group, evaluation.of(group), evaluation.settings) for group in plan(evaluation, models=["latent"])
    ]
    how = evaluation.settings.statistics
    fitted, looked_at = rivals(model), InsightSettings(candidates=400)
    records = [
        r for one in tasks for r in reconstruction_records(model, one, fitted, settings=looked_at, statistics=how)
    ]
    training = {
        "settings": {"train": {"epochs": 12}, "loss": {"preset": "robust"}},
        "data": {"uri": "/somewhere/pool", "fingerprint": "abc"},
        "history": history(),
    }
    provenance = Provenance(("latent",), training, {"python": "3.11"})
    return build_report(results, records, evaluation, provenance=provenance)


@pytest.fixture(scope="module")
def folder(content, tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    write_report(out, content)
    return out


def test_the_json_holds_the_contract_and_no_number_that_is_not_finite(folder):
    text = (folder / "report.json").read_text()
    report = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert {"settings", "versions", "cells", "reconstruction", "training", "comparisons", "tables"} <= set(report)
    assert all(set(CELL_KEYS) <= set(cell) for cell in report["cells"])
    assert {cell["metric"] for cell in report["cells"]} == {"roc_auc", "pr_auc"}
    assert len(report["cells"]) == 2 * 2 * (3 * 4 + 3 * 7)
    reconstruction = {"task", "target", "visible", "cosine", "centred_cosine", "r2", "skill_mean", "skill_ridge"}
    assert all(reconstruction <= set(record) for record in report["reconstruction"])
    assert "/somewhere" not in text
    assert "step_seconds" not in text


def test_writing_again_and_rebuilding_give_the_same_bytes(content, folder, tmp_path):
    write_report(tmp_path, content)
    names = ["report.html", "report.json", "report.md"]
    before = [(folder / name).read_bytes() for name in names]
    assert [(tmp_path / name).read_bytes() for name in names] == before
    (tmp_path / "report.html").unlink()
    assert rebuild(tmp_path) == tmp_path / "report.html"
    assert [(tmp_path / name).read_bytes() for name in names] == before


def test_a_number_that_is_not_known_is_null_and_shown_as_a_dash(content, tmp_path):
    broken = json.loads(json.dumps(content))
    broken["tables"][0]["rows"][0]["cells"]["all present"] |= {"value": float("nan"), "low": float("nan")}
    write_report(tmp_path, broken)
    assert read_report(tmp_path)["tables"][0]["rows"][0]["cells"]["all present"]["value"] is None
    assert "nan" not in (tmp_path / "report.md").read_text().lower().replace("finan", "")


def test_names_of_tasks_cannot_break_the_page(content, tmp_path):
    text = json.dumps(content).replace("freesolv", "<b>&free</b>")
    write_report(tmp_path, json.loads(text))
    page = (tmp_path / "report.html").read_text()
    assert "<b>" not in page
    assert "&lt;b&gt;&amp;free&lt;/b&gt;" in page


def test_the_markdown_says_the_comparison_and_has_the_table(folder):
    text = (folder / "report.md").read_text()
    assert re.search(r"\* Fused (beats|is level with|loses to) mean-imputed concatenation", text)
    assert "over the subsets with something missing" in text
    assert re.search(r"\| fused \| 6 \| (\*\*)?0\.\d{3}", text)


def test_a_terminal_shows_the_same_numbers(folder):
    console = Console(width=80, file=io.StringIO())
    report = read_report(folder)
    console.print(terminal_table(report))
    text = console.file.getvalue()
    for row in report["tables"][0]["rows"]:
        assert f"{row['cells']['all present']['value']:.3f}" in text
    assert "mean over 2 tasks" in text
    assert "…" not in text


def test_a_folder_without_a_report_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"report\.json: no such file"):
        rebuild(tmp_path)
    (tmp_path / "report.json").write_text("{")
    with pytest.raises(ValueError, match="not readable as JSON"):
        rebuild(tmp_path)
    (tmp_path / "report.json").write_text('{"title": "x"}')
    with pytest.raises(ValueError, match="not a report, it has no settings"):
        rebuild(tmp_path)


def test_the_page_asks_nothing_of_the_network(folder):
    page = (folder / "report.html").read_text()
    assert not re.search(r"https?://|//[a-z]+\.|@import|<script|<iframe|<img", page)
    assert set(re.findall(r"url\(([^)]{0,3})", page)) <= {"#de", "#re", "#tr"}
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


PROBE = """<script>addEventListener("load", () => { setTimeout(() => {
  const say = {};
  const wide = [...document.querySelectorAll("body *")].filter(e => {
    if (e.closest("svg") && e.tagName !== "svg" || e.closest(".scroll")) return false;
    const box = e.getBoundingClientRect();
    return box.width > 0 && (box.right > innerWidth + 1 || box.left < -1);
  });
  say.width = innerWidth;
  say.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  say.wide = wide.map(e => e.tagName + "." + e.className).slice(0, 5);
  say.plots = [...document.querySelectorAll("figure.plot svg")].map(e => Math.round(e.getBoundingClientRect().width));
  say.requests = performance.getEntriesByType("resource").filter(e => !e.name.startsWith("data:")).length;
  say.text = document.body.innerText;
  document.body.innerHTML = "<pre id=said></pre>";
  document.getElementById("said").textContent = JSON.stringify(say);
}, 0); });</script>"""


def browse(folder, tmp_path, width):
    """What the browser says of the page in a window of that width, written by a script added to a copy of it."""
    page = (folder / "report.html").read_text()
    inner, outer = tmp_path / "inner.html", tmp_path / "outer.html"
    inner.write_text(page.replace("</body>", PROBE + "</body>"))
    outer.write_text(f'<iframe id="page" src="inner.html" style="width:{width}px;height:900px;border:0"></iframe>')
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--allow-file-access-from-files"]
    command += ["--virtual-time-budget=5000", "--dump-dom"]
    outer.write_text(
        outer.read_text()
        + """<script>addEventListener("load", () => setTimeout(() => {
        document.title = "done";
        const said = document.getElementById("page").contentDocument.getElementById("said").textContent;
        document.body.textContent = "SAID" + btoa(unescape(encodeURIComponent(said))) + "END";
        }, 500));</script>"""
    )
    run = subprocess.run([*command, outer.as_uri()], capture_output=True, text=True, timeout=90, check=True)
    found = re.search(r"SAID([A-Za-z0-9+/=]+)END", run.stdout)
    assert found, run.stdout[-500:] + run.stderr[-500:]
    return json.loads(base64.b64decode(found[1]))


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium binary found to open the page with")
@pytest.mark.parametrize("width", [1280, 390])
def test_a_person_sees_the_table_and_every_plot_and_nothing_overflows(folder, tmp_path, width):
    seen, report = browse(folder, tmp_path, width), read_report(folder)
    assert seen["width"] == width
    assert seen["overflow"] == 0
    assert seen["wide"] == []
    assert seen["requests"] == 0
    assert len(seen["plots"]) == 3 + 2 + 6
    assert all(250 < plot <= width for plot in seen["plots"])
    text = " ".join(seen["text"].split())
    for row in report["tables"][0]["rows"]:
        assert row["representation"] in text
        for cell in filter(None, row["cells"].values()):
            assert f"{cell['value']:.3f}" in text
            assert f"{cell['low']:.3f}–{cell['high']:.3f}" in text
    assert "mean-imputed concatenation" in text
    assert "Any absent".lower() in text.lower()
    for heading in (
        "Results",
        "When modalities go missing",
        "Reconstruction of absent modalities",
        "Training",
        "Terms",
    ):
        assert heading in text


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium binary found to open the page with")
def test_a_screenshot_is_not_blank(folder, tmp_path):
    picture = tmp_path / "page.png"
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1280,2400"]
    subprocess.run(
        [*command, f"--screenshot={picture}", (folder / "report.html").as_uri()],
        capture_output=True,
        timeout=90,
        check=True,
    )
    assert picture.stat().st_size > 100_000
