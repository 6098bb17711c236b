"""Sections of tables: results by how much is absent, differences from every rival, Table 1."""

from collections.abc import Sequence

from dynfusion.evaluation.report.sections_data import leak_note
from dynfusion.evaluation.report.selection import (
    ALL_PRESENT,
    GROUPS,
    LINEAR,
    Record,
    Report,
    fused_lines,
    group_title,
    headline_scope,
    is_fused,
    main_table,
    matching,
    metric_of,
    primary_metric,
    scope_name,
    scope_title,
)
from dynfusion.evaluation.report.wording import METRIC_NAMES, PROBE_NAMES, SPLIT_NAMES, verdict
from dynfusion.page.blocks import (
    UNKNOWN,
    Block,
    Cell,
    Fold,
    Group,
    Row,
    Section,
    Table,
    Text,
    Tone,
    signed,
    span,
    with_interval,
)

MARKS = {"ahead": "▲", "level": "≈", "behind": "▼"}


def grouped(rows: Sequence[Row], modalities: Sequence[str]) -> tuple[Group, ...]:
    """Representations by their kind, fusion models first."""
    by_title: dict[str, list[Row]] = {title: [] for title in GROUPS}
    for row in rows:
        by_title[group_title(row.name, modalities)].append(row)
    return tuple(Group(title, tuple(found)) for title, found in by_title.items() if found)


def split_words(split: str) -> str:
    """A table's split in words."""
    return " and ".join(SPLIT_NAMES.get(name, name) for name in split.split(" and "))


def marked(cell: Record | None) -> Cell:
    """A cell of a table with its interval and its mark."""
    plain = with_interval(cell)
    if cell is None or cell["value"] is None:
        return plain
    return Cell(plain.text, plain.small, "≈" if cell["tie"] else "", "best" if cell["bold"] else "")


def results_table(report: Report, table: Record) -> Table:
    """Representations down, how much is absent across, leaks below."""
    rows = [
        Row(
            row["representation"],
            (
                *map(marked, _cells(row, table["columns"])),
                Cell(str(report["dims"].get(row["representation"], UNKNOWN))),
            ),
            is_fused(row["representation"]),
        )
        for row in table["rows"]
    ]
    columns = ("Representation", *(column.capitalize() for column in table["columns"]), "Dim")
    return Table(columns, grouped(rows, report["modalities"]), leak_note(report, table))


def _cells(row: Record, columns: Sequence[str]) -> list[Record | None]:
    return [row["cells"].get(column) for column in columns]


def results(report: Report) -> list[Section]:
    """The main table and its folded kin."""
    table = main_table(report)
    if table is None:
        return []
    how = report["settings"]["evaluation"].get("statistics", {})
    where = scope_name(report, table["task"], table["tasks"])
    text = (
        f"{METRIC_NAMES[table['metric']]}, {where}, on {split_words(table['split'])}, by how many modalities are "
        "hidden in the test molecules. A linear head is fitted once on all that is present and used unchanged."
    )
    reading = (
        "Bold: the best of its column, and every paired interval of difference excludes zero. ≈: cannot be told apart "
        f"from the best. Below each value: {100 * how.get('confidence', 0.95):g} % interval over test molecules. "
        "A dash: the representation has no answer when what it needs is hidden."
    )
    blocks: list[Block] = [Text(text), results_table(report, table), Text(reading, note=True)]
    rest = [t for t in matching(report["tables"], section="folds", probe=LINEAR) if t is not table]
    primary = [t for t in rest if t["metric"] == metric_of(report, t["task"])]
    for fold, found in (
        ("Each task", [t for t in primary if t["fitting"] == "transferred"]),
        ("Heads refitted on what is visible", [t for t in primary if t["fitting"] == "refitted"]),
        ("Other metrics", [t for t in rest if t not in primary]),
        ("Other probes, on the given split", matching(report["tables"], section="probes")),
    ):
        blocks += [_folded(report, fold, found)] if found else []
    return [Section("results", "Results when modalities are missing", tuple(blocks), "Results")]


def _folded(report: Report, title: str, tables: Sequence[Record]) -> Fold:
    blocks: list[Block] = []
    for table in tables:
        probe = "" if table["probe"] == LINEAR else f", {PROBE_NAMES.get(table['probe'], table['probe'])}"
        fitting = ", refitted heads" if table["fitting"] == "refitted" else ""
        where = scope_title(report, table["task"], table["tasks"])
        name = f"{where}: {METRIC_NAMES[table['metric']]}{probe}{fitting}"
        blocks.append(Fold(name, (results_table(report, table),)))
    return Fold(title, tuple(blocks))


def table_one(report: Report) -> list[Section]:
    """All present, the given split, tasks across."""
    blocks: list[Block] = []
    given = matching(report["tables"], probe=LINEAR, fitting="transferred")
    given = [t for t in given if t["section"] == "given"] or [
        t for t in given if t["section"] == "folds" and set(t["split"].split(" and ")) <= {"given", "hashed"}
    ]
    for metric in dict.fromkeys(table["metric"] for table in given):
        found = sorted((t for t in given if t["metric"] == metric), key=lambda t: t["task"] is not None)
        shown = _across(report, found)
        name = METRIC_NAMES[metric]
        blocks += [Fold(name, (shown,))] if blocks else [Text(f"{name}:", note=True), shown]
        removed = matching(report["tables"], section="ablations", metric=metric)
        if removed and metric == primary_metric(report):
            removed.sort(key=lambda table: table["task"] is not None)
            blocks.append(Fold("Ablations: a part of the method left out", (_across(report, removed),)))
    if not blocks:
        return []
    text = Text("Everything present, one column for each task, on the split that the data sets come with.")
    return [Section("table-1", "Table 1: all modalities present", (text, *blocks), "Table 1")]


def _across(report: Report, tables: Sequence[Record]) -> Table:
    names = dict.fromkeys(row["representation"] for table in tables for row in table["rows"])
    cells = {
        (row["representation"], number): row["cells"].get(ALL_PRESENT)
        for number, table in enumerate(tables)
        for row in table["rows"]
    }
    rows = [Row(n, tuple(marked(cells.get((n, k))) for k in range(len(tables))), is_fused(n)) for n in names]
    columns = ["Mean" if table["task"] is None else table["task"] for table in tables]
    return Table(("Representation", *columns), grouped(rows, report["modalities"]), leak_note(report, tables[0]))


def differences(report: Report) -> list[Section]:
    """Fused less every other line, by column."""
    found = matching(report["comparisons"], section="folds", probe=LINEAR)
    found = [record for record in found if record["metric"] == metric_of(report, record["task"])]
    ours, task = next(iter(fused_lines(report)), ""), headline_scope(report)
    main = matching(found, representation=ours, task=task, fitting="transferred")
    if not main:
        return []
    text = Text(
        f"{ours.capitalize()} less each rival, paired on the same molecules. ▲ ahead, ▼ behind: the interval over "
        "molecules and, with cross-validation, the corrected one over folds (second line) both exclude zero. ≈: level."
    )
    blocks: list[Block] = [text, _difference_table(report, main)]
    others = dict.fromkeys((r["representation"], r["fitting"], r["task"]) for r in found)
    for title, kept in (
        ("Each task", [key for key in others if key[:2] == (ours, "transferred") and key[2] != task]),
        ("Refitted heads", [key for key in others if key[0] == ours and key[1] == "refitted"]),
        ("Other lines of the fusion model", [key for key in others if key[0] != ours and key[2] == task]),
    ):
        folded = []
        for name, fitting, scope in kept:
            records = matching(found, representation=name, fitting=fitting, task=scope)
            folded.append(
                Fold(f"{scope_name(report, scope)}: {name}, {fitting} heads", (_difference_table(report, records),))
            )
        blocks += [Fold(title, tuple(folded))] if folded else []
    return [Section("differences", "Fused against each rival", tuple(blocks), "Differences")]


def _difference_table(report: Report, records: Sequence[Record]) -> Table:
    columns = list(dict.fromkeys(record["column"] for record in records))
    by_place = {(record["against"], record["column"]): record for record in records}
    names = dict.fromkeys(record["against"] for record in records)
    rows = [Row(name, tuple(_difference(by_place.get((name, column))) for column in columns)) for name in names]
    return Table(("Against", *(c.capitalize() for c in columns)), grouped(rows, report["modalities"]))


def _difference(record: Record | None) -> Cell:
    if record is None or record["difference"] is None:
        return Cell(UNKNOWN)
    side = verdict(record)
    lines = [span(record["low"], record["high"], sign=True), span(record["fold_low"], record["fold_high"], sign=True)]
    tone: Tone = "ahead" if side == "ahead" else "behind" if side == "behind" else ""
    return Cell(signed(record["difference"]), tuple(line for line in lines if line), MARKS[side], tone)
