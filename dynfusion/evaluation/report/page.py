"""Writes a report: `report.json` (the contract), `report.md`, and `report.html`, one file that needs nothing else.

report mapping --strict JSON--> report.json --> sections of blocks --> report.md, report.html, a terminal
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from dynfusion.evaluation.protocol.cells import write_atomically
from dynfusion.evaluation.report import sections_data, sections_inside, sections_losses, sections_tables
from dynfusion.evaluation.report.selection import (
    ALL_PRESENT,
    absent_column,
    comparison,
    fused_lines,
    headline_scope,
    main_models,
    main_table,
    scope_name,
)
from dynfusion.evaluation.report.wording import METRIC_NAMES, decisive_interval, summary, verdict
from dynfusion.evaluation.representations.features import CONCAT_MEAN, CONCAT_RIDGE
from dynfusion.page.blocks import Section, signed
from dynfusion.page.render import rendered, strict_json

REPORT_JSON = "report.json"
REPORT_KEYS = (
    *("title", "settings", "versions", "models", "modalities", "dims", "tasks", "tables", "comparisons", "robustness"),
    *("modality_value", "calibration", "subsets", "hiding", "training_rates"),
    *("reconstruction", "alignment", "collapse", "imputers", "choices"),
)


def write_report(out: Path, report: Mapping[str, Any]) -> None:
    """`report.json`, `report.md` and `report.html` in `out`; equal reports give equal bytes.

    A number that is not finite becomes null.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / REPORT_JSON, strict_json(report))
    rebuild_report(out)


def rebuild_report(folder: Path) -> Path:
    """The HTML report of a folder, with the Markdown one, made again from its `report.json`.

    Raises ValueError when there is no such file or it is not a report.
    """
    report = read_report(folder)
    content = {
        "title": report["title"],
        "meta": _meta(report),
        "sentences": summary(report),
        "tiles": _tiles(report),
        "sections": sections(report),
    }
    return render(folder, "report", content)


def render(folder: Path, name: str, content: Mapping[str, Any]) -> Path:
    """`name`.md and `name`.html from title, meta, sentences, tiles and sections; the path of the latter."""
    folder.mkdir(parents=True, exist_ok=True)
    for ending, text in rendered(content).items():
        write_atomically(folder / f"{name}.{ending}", text)
    return folder / f"{name}.html"


def read_report(folder: Path) -> dict[str, Any]:
    """The report of a folder as plain values.

    Raises ValueError naming the file when it is missing, not JSON, or lacks a key.
    """
    path = folder / REPORT_JSON
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file, give the folder that `dynfusion evaluate` wrote") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not readable as JSON, {error}") from None
    missing = [key for key in REPORT_KEYS if not isinstance(report, dict) or key not in report]
    if missing:
        raise ValueError(f"{path}: not a report of this version, it has no {missing[0]}")
    return report


def sections(report: Mapping[str, Any]) -> list[Section]:
    """The page in the order in which it is read; what a report does not have is left out."""
    makers = (
        *(sections_tables.results, sections_tables.differences, sections_tables.table_one, sections_losses.drops),
        *(sections_losses.values, sections_losses.hiding, sections_losses.training_gaps),
        *(sections_inside.reconstruction, sections_inside.inside),
        *(sections_data.data, sections_data.details, sections_data.training, sections_data.making),
    )
    return [section for maker in makers for section in maker(report)]


def terminal_table(report: Mapping[str, Any]) -> Table:
    """The main table for a terminal: the mean over tasks, or the only task's.

    Raises ValueError when the report has none.
    """
    found = main_table(report)
    if found is None:
        raise ValueError("the report has no table: nothing was scored")
    title = f"{METRIC_NAMES[found['metric']]}, {scope_name(report, found['task'], found['tasks'])}"
    caption = "bold: interval excludes the next best   ≈ tied with the best"
    shown = Table(title=title, caption=caption, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), min_width=len(caption))
    shown.add_column("representation", no_wrap=True)
    for column in found["columns"]:
        shown.add_column(column, justify="right", no_wrap=True)
    for row in found["rows"]:
        shown.add_row(row["representation"], *(_terminal_cell(row["cells"].get(column)) for column in found["columns"]))
    return shown


def _terminal_cell(cell: Mapping[str, Any] | None) -> str:
    shown = sections_tables.marked(cell)
    value = f"[bold]{shown.text}[/bold]" if shown.tone == "best" else shown.text
    return "\n".join([f"{value} {shown.mark}".rstrip(), *(f"[dim]{line}[/dim]" for line in shown.small)])


def _meta(report: Mapping[str, Any]) -> str:
    """Which models on which tasks."""
    runs = {model["name"]: model.get("runs", 1) for model in report["models"]}
    names = [f"{name} (mean of {runs[name]} runs)" if runs[name] > 1 else name for name in main_models(report)]
    models = f"Model{'s' if len(names) > 1 else ''} {', '.join(names)}"
    tasks = ", ".join(f"{task['name']} ({task['molecules']['test']:,})" for task in report["tasks"])
    return (
        f"{models} · modalities {', '.join(report['modalities'])} · tasks (test molecules of the given split) {tasks}"
    )


def _tiles(report: Mapping[str, Any]) -> list[dict[str, str]]:
    """The numbers to see first: paired differences of fused from the concatenations."""
    table, ours = main_table(report), next(iter(fused_lines(report)), None)
    if table is None or ours is None:
        return []
    missing = absent_column(table["columns"])
    wanted = [("All present", CONCAT_MEAN, ALL_PRESENT, "concatenation")]
    if missing != ALL_PRESENT:
        wanted += [("Something missing", CONCAT_MEAN, missing, "mean-imputed concatenation")]
        wanted += [("Something missing", CONCAT_RIDGE, missing, "ridge-imputed concatenation")]
    tiles = []
    for heading, against, column, rival in wanted:
        found = comparison(report, against, column, ours=ours, task=headline_scope(report))
        if found is not None and found["difference"] is not None:
            line = f"{ours} against {rival}, {METRIC_NAMES[table['metric']]}"
            tile = {"heading": heading, "rival": line, "side": verdict(found), "interval": decisive_interval(found)}
            tiles.append({**tile, "difference": signed(found["difference"])})
    return tiles
