"""Several finished reports side by side: what they share, in tables; what differs between them, in one sentence.

Values come from different files, so paired differences are not available: intervals that overlap are all there is.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dynfusion.evaluation.report.page import read_report, render
from dynfusion.evaluation.report.sections_data import dotted
from dynfusion.evaluation.report.sections_tables import grouped
from dynfusion.evaluation.report.selection import (
    ANY_ABSENT,
    LINEAR,
    Record,
    Report,
    average,
    cell_of,
    is_fused,
    main_table,
    matching,
    metric_of,
    scope_name,
    scope_title,
)
from dynfusion.evaluation.report.wording import METRIC_NAMES, listed
from dynfusion.page.blocks import (
    UNKNOWN,
    Block,
    Cell,
    Fold,
    Row,
    Section,
    Table,
    Text,
    one_group,
    with_interval,
)

IGNORED = ("pool",)
"""Settings that say where data lie and change no number."""


def compare_reports(folders: Sequence[Path], out: Path) -> Path:
    """`comparison.html` and `comparison.md` in `out`; the path of the former.

    Raises ValueError when a folder has no readable report, or they have no task or no table in common.
    """
    reports = dict(zip(labels(folders), [read_report(folder) for folder in folders], strict=True))
    tasks = shared_tasks(reports)
    if not tasks:
        raise ValueError(f"reports {listed(list(reports))}: they have no task in common, nothing can be compared")
    content = {
        "title": "Reports side by side",
        "meta": f"{', '.join(reports)} · tasks {', '.join(tasks)}",
        "sentences": [said(reports), CAUTION],
        "tiles": [],
        "sections": sections(reports, tasks),
    }
    return render(out, "comparison", content)


CAUTION = (
    "Paired differences are not available across files, so only intervals can be held against each other: ≈ marks "
    "values whose interval overlaps that of the best in its line, which may still differ when paired; for that, "
    "evaluate the models together: dynfusion evaluate --model A --model B."
)


def labels(folders: Sequence[Path]) -> list[str]:
    """Names of the folders, with as many of their parents as tell them apart."""
    whole = [folder.resolve().parts for folder in folders]
    for depth in range(1, max(map(len, whole)) + 1):
        names = ["/".join(parts[-depth:]) for parts in whole]
        if len(set(names)) == len(names):
            return names
    raise ValueError(f"reports: found {folders[0]} twice, allowed are different folders")


def shared_tasks(reports: Mapping[str, Report]) -> list[str]:
    """Names of the tasks that all reports have, in the order of the first."""
    first, *others = [[task["name"] for task in report["tasks"]] for report in reports.values()]
    return [name for name in first if all(name in names for names in others)]


def said(reports: Mapping[str, Report]) -> str:
    """Whether tasks, splits and settings of the protocol are the same, and if not, which differ."""
    facts = [_facts(report) for report in reports.values()]
    names = dict.fromkeys(name for found in facts for name in found)
    differing = [name for name in names if len({repr(found.get(name)) for found in facts}) > 1]
    if not differing:
        return "These reports have the same tasks, splits and settings of the evaluation."
    parts = [f"{name} ({', '.join(str(found.get(name, UNKNOWN)) for found in facts)})" for name in differing]
    return f"These reports differ in {listed(parts)}, so what follows is no fair comparison where these matter."


def _facts(report: Report) -> dict[str, str]:
    """What must be equal for a fair comparison."""
    facts = {"tasks": "+".join(task["name"] for task in report["tasks"]), "modalities": "+".join(report["modalities"])}
    for task in report["tasks"]:
        parts = "/".join(str(count) for count in task["molecules"].values())
        facts[f"{task['name']}"] = f"{task['split']} {parts}, {task['folds']} folds"
    for table in matching(report["tables"], section="folds", probe=LINEAR, fitting="transferred"):
        facts.setdefault("split", table["split"])
    settings = dotted(report["settings"].get("evaluation") or {})
    return facts | {f"evaluation.{name}": value for name, value in settings if name not in IGNORED}


def sections(reports: Mapping[str, Report], tasks: Sequence[str]) -> list[Section]:
    """Results by column, what is lost, reconstruction."""
    found = [_results(reports, tasks), _drops(reports, tasks), _reconstruction(reports, tasks)]
    return [section for section in found if section is not None]


def _scopes(reports: Mapping[str, Report], tasks: Sequence[str]) -> list[str | None]:
    """The mean only where it is over the same tasks everywhere."""
    tables = [main_table(report) for report in reports.values()]
    means = {tuple(sorted(table["tasks"])) for table in tables if table is not None and table["task"] is None}
    alike = len(means) == 1 and all(table is not None and table["task"] is None for table in tables)
    return [*([None] if alike else []), *tasks]


def _results(reports: Mapping[str, Report], tasks: Sequence[str]) -> Section | None:
    blocks: list[Block] = []
    for scope in _scopes(reports, tasks):
        tables = {name: main_table(report, task=scope) for name, report in reports.items()}
        if any(table is None for table in tables.values()):
            continue
        known = {name: table for name, table in tables.items() if table is not None}
        report = next(iter(reports.values()))
        metric = METRIC_NAMES[metric_of(report, scope)]
        columns = [c for c in next(iter(known.values()))["columns"] if all(c in t["columns"] for t in known.values())]
        found: list[Block] = []
        for column in [c for c in (columns[0], ANY_ABSENT) if c in columns] if columns else []:
            found += [Text(f"{metric}, {scope_name(report, scope)}, {column}:"), _column(known, column, report)]
        more = tuple(Fold(c.capitalize(), (_column(known, c, report),)) for c in columns[1:] if c != ANY_ABSENT)
        if not blocks:
            blocks = [*found, *more]
        else:
            blocks.append(Fold(scope_title(report, scope), (*found, *more)))
    return Section("results", "Results when modalities are missing", tuple(blocks), "Results") if blocks else None


def _column(tables: Mapping[str, Record], column: str, report: Report) -> Table:
    names = dict.fromkeys(row["representation"] for table in tables.values() for row in table["rows"])
    rows = []
    for name in names:
        cells = [cell_of(table, name, column) for table in tables.values()]
        if any(cell is not None for cell in cells):
            rows.append(Row(name, beside(cells), is_fused(name)))
    return Table(("Representation", *tables), grouped(rows, report["modalities"]))


def beside(
    records: Sequence[Mapping[str, Any] | None], key: str = "value", *, digits: int = 3, lower: bool = False
) -> tuple[Cell, ...]:
    """Cells of one line, a report each; ≈ where the interval overlaps that of the best."""
    low, high = ("low", "high") if key == "value" else (f"{key}_low", f"{key}_high")
    known = [r for r in records if r is not None and r.get(key) is not None and r.get(low) is not None]
    best = (min if lower else max)(known, key=lambda record: record[key], default=None)
    cells = []
    for record in records:
        cell = with_interval(record, key, digits=digits)
        overlaps = (
            best is not None
            and record is not None
            and record is not best
            and record.get(low) is not None
            and (record[low] <= best[high] and best[low] <= record[high])
        )
        cells.append(Cell(cell.text, cell.small, "≈" if overlaps else ""))
    return tuple(cells)


def _drops(reports: Mapping[str, Report], tasks: Sequence[str]) -> Section | None:
    blocks: list[Block] = []
    report = next(iter(reports.values()))
    for scope in _scopes(reports, tasks):
        by_report = [
            {r["representation"]: r for r in matching(one["robustness"], section="folds", task=scope)}
            for one in reports.values()
        ]
        names = list(dict.fromkeys(name for found in by_report for name in found))
        if not names:
            continue
        tables: list[Block] = []
        for key, title in (("relative_drop", "Relative drop, %"), ("chance_corrected_drop", "Drop above chance, %")):
            rows = [
                Row(n, beside([found.get(n) for found in by_report], key, digits=1, lower=True), is_fused(n))
                for n in names
            ]
            tables += [
                Text(f"{title}, {scope_name(report, scope)}:"),
                Table(("Representation", *reports), grouped(rows, report["modalities"])),
            ]
        blocks += tables if not blocks else [Fold(scope_title(report, scope), tuple(tables))]
    return Section("drops", "What is lost", tuple(blocks), "Drops") if blocks else None


def _reconstruction(reports: Mapping[str, Report], tasks: Sequence[str]) -> Section | None:
    """Skill over ridge, mean over the shared tasks, by target and visible subset."""
    keys: dict[tuple[str, tuple[str, ...]], None] = {}
    for report in reports.values():
        keys |= dict.fromkeys(
            (r["target"], tuple(r["visible"])) for r in report["reconstruction"] if r["task"] in tasks
        )
    if not keys:
        return None
    rows = []
    for target, visible in keys:
        values = [
            average(
                r["skill_ridge"]
                for r in report["reconstruction"]
                if r["task"] in tasks and r["target"] == target and tuple(r["visible"]) == visible
            )
            for report in reports.values()
        ]
        rows.append(Row(f"{target} from {' + '.join(visible)}", tuple(with_interval({"value": v}) for v in values)))
    table = Table(("Reconstruction", *reports), one_group(rows))
    text = Text("Skill over ridge regression from the same modalities, mean over the tasks; without intervals.")
    return Section("reconstruction", "Reconstruction", (text, table), "Reconstruction")
