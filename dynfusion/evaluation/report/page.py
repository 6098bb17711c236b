"""Writes a report: `report.json` (the contract), `report.md`, and `report.html`, one file that needs nothing else.

report mapping --strict JSON--> report.json --> tables, sentences, figures --> report.md, report.html, a terminal
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from rich.box import SIMPLE_HEAD
from rich.table import Table

from dynfusion.evaluation.protocol.cells import write_atomically
from dynfusion.evaluation.report import plots
from dynfusion.evaluation.report.curves import ALL_PRESENT
from dynfusion.evaluation.report.wording import GLOSSARY, METRIC_NAMES, any_absent_column, find_comparison, summary
from dynfusion.evaluation.representations.features import CONCAT_MEAN, CONCAT_RIDGE

REPORT_JSON = "report.json"
REPORT_KEYS = (
    *("title", "settings", "versions", "model", "modalities", "dims", "tasks"),
    *("cells", "reconstruction", "imputers", "comparisons", "tables", "training"),
)
UNKNOWN = "–"


def write_report(out: Path, report: Mapping[str, Any]) -> None:
    """`report.json`, `report.md` and `report.html` in `out`; equal reports give equal bytes.

    A number that is not finite becomes null.
    """
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_strict(report), indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    write_atomically(out / REPORT_JSON, text.encode())
    rebuild_report(out)


def rebuild_report(folder: Path) -> Path:
    """The HTML report of a folder, with the Markdown one, made again from its `report.json`.

    Raises ValueError when there is no such file or it is not a report.
    """
    report = read_report(folder)
    content = _content(report)
    environment = Environment(
        loader=PackageLoader("dynfusion.evaluation.report", "templates"),
        undefined=StrictUndefined,
        autoescape=lambda name: name is not None and name.endswith(".html"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"number": number, "signed": signed, "span": span, "metric": METRIC_NAMES.__getitem__}
    for name in ("report.md", "report.html"):
        write_atomically(folder / name, environment.get_template(name).render(content).encode())
    return folder / "report.html"


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
        raise ValueError(f"{path}: not a report, it has no {missing[0]}")
    return report


def terminal_table(report: Mapping[str, Any], *, metric: str = "roc_auc", task: str | None = None) -> Table:
    """The results table for a terminal: one task's, or the mean over tasks when there are several."""
    wanted = task if task is not None or len(report["tasks"]) > 1 else report["tasks"][0]["name"]
    table = next(entry for entry in report["tables"] if (entry["metric"], entry["task"]) == (metric, wanted))
    title = f"{METRIC_NAMES[metric]}, {_scope(table)}"
    caption = "bold: interval excludes the next best   ≈ tied with the best"
    shown = Table(title=title, caption=caption, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), min_width=len(caption))
    shown.add_column("representation", no_wrap=True)
    shown.add_column("dim", justify="right", no_wrap=True)
    for column in table["columns"]:
        shown.add_column(column, justify="right", no_wrap=True)
    for row in table["rows"]:
        cells = [_terminal_cell(row["cells"][column]) for column in table["columns"]]
        shown.add_row(row["representation"], str(report["dims"].get(row["representation"], "")), *cells)
    return shown


def _terminal_cell(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return UNKNOWN
    value = f"[bold]{number(cell['value'])}[/bold]" if cell["bold"] else number(cell["value"])
    return f"{value}{' ≈' if cell['tie'] else ''}\n[dim]{span(cell)}[/dim]"


def number(value: float | None) -> str:
    """Three decimals; a dash for what is not known."""
    return UNKNOWN if value is None else f"{value:.3f}".replace("-", "−")


def signed(value: float | None) -> str:
    """Three decimals with a sign."""
    return UNKNOWN if value is None else f"{value:+.3f}".replace("-", "−")


def span(cell: Mapping[str, Any]) -> str:
    """The interval of a cell, `0.801–0.884`."""
    return UNKNOWN if cell["low"] is None else f"{cell['low']:.3f}–{cell['high']:.3f}".replace("-", "−")


def _scope(table: Mapping[str, Any]) -> str:
    return f"mean over {len(table['tasks'])} tasks" if table["task"] is None else str(table["task"])


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _strict(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _content(report: Mapping[str, Any]) -> dict[str, Any]:
    """What the templates show."""
    modalities = report["modalities"]
    tables = [{**table, "scope": _scope(table)} for table in report["tables"]]
    by_auc = [table for table in tables if table["metric"] == "roc_auc"]
    tasks = [task["name"] for task in report["tasks"]]
    reconstruction = {name: [r for r in report["reconstruction"] if r["task"] == name] for name in tasks}
    return {
        **report,
        "sentences": summary(report),
        "tiles": _tiles(report),
        "main": by_auc[0] if by_auc else None,
        "others": [table for table in tables if not by_auc or table is not by_auc[0]],
        "legend": plots.curve_rows(by_auc[0], modalities) if by_auc else [],
        "best_single": plots.best_single(by_auc[0], modalities) if by_auc else None,
        "degradation": [plots.degradation(table, modalities=modalities) for table in by_auc],
        "reconstruction_plots": [
            plots.reconstruction(records, title=name) for name, records in reconstruction.items() if records
        ],
        "training_plots": plots.training_curves(report["training"]["history"]),
        "comparisons_main": [r for r in report["comparisons"] if r["metric"] == "roc_auc" and r["task"] is None],
        "run_settings": _dotted(report["settings"].get("run", {})),
        "evaluation_settings": _dotted(report["settings"].get("evaluation", {})),
        "subset_rows": _subset_rows(report),
        "glossary": GLOSSARY,
    }


def _tiles(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The three numbers to see first: paired differences of fused from concatenation."""
    if not report["tables"]:
        return []
    columns = report["tables"][0]["columns"]
    wanted = [
        ("All present", "against concatenation", CONCAT_MEAN, ALL_PRESENT),
        ("Something missing", "against mean-imputed concatenation", CONCAT_MEAN, any_absent_column(columns)),
        ("Something missing", "against ridge-imputed concatenation", CONCAT_RIDGE, any_absent_column(columns)),
    ]
    tiles = []
    for heading, rival, against, column in wanted[: 3 if len(columns) > 1 else 1]:
        found = find_comparison(report, against=against, column=column)
        if found is not None:
            tiles.append({"heading": heading, "rival": rival, **found})
    return tiles


def _subset_rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """ROC-AUC of every cell, a line for every task and visible subset, a column for every representation."""
    lines: dict[tuple[str, tuple[str, ...]], dict[str, Any]] = {}
    several = len(report["model"].split(", ")) > 1
    for cell in report["cells"]:
        if cell["metric"] == "roc_auc" and cell["seed"] == report["cells"][0]["seed"]:
            name = (
                f"{cell['representation']} ({cell['model']})" if several and cell["model"] else cell["representation"]
            )
            lines.setdefault((cell["task"], tuple(cell["visible"])), {})[name] = cell["value"]
    return [{"task": task, "visible": list(visible), "values": found} for (task, visible), found in lines.items()]


def _dotted(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in tree.items():
        if isinstance(value, Mapping):
            rows += _dotted(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", json.dumps(value, ensure_ascii=False)))
    return rows
