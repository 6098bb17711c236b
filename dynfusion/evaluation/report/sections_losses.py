"""Sections of what is lost: drops, the worth of each modality, ways of hiding, gaps in training."""

from collections.abc import Mapping, Sequence

from dynfusion.evaluation.report import plots_results as plots
from dynfusion.evaluation.report.selection import (
    ALL_PRESENT,
    Record,
    Report,
    is_fused,
    main_table,
    matching,
    metric_of,
    rank,
    scope_title,
    scopes,
)
from dynfusion.evaluation.report.wording import METRIC_NAMES, PROTOCOL_NAMES
from dynfusion.page.blocks import (
    Block,
    Cell,
    Figures,
    Fold,
    Group,
    Row,
    Section,
    Table,
    Text,
    number,
    one_group,
    span,
    with_interval,
)

UNDEFINED = "chance_corrected_drop_undefined"
MOST_LINES = 6
"""More curves than these cannot be told apart."""


def series_of(names: Sequence[str]) -> dict[str, int]:
    """Numbers of the lines that are drawn, the same everywhere: fusion models first."""
    ordered = sorted(dict.fromkeys(names), key=rank)
    return {name: place for place, name in enumerate(ordered)}


def drops(report: Report) -> list[Section]:
    """Figure 2, and what is lost in single numbers."""
    records = [r for r in report["robustness"] if r["section"] == "folds"] or list(report["robustness"])
    records = [r for r in records if r.get("metric", "") in ("", metric_of(report, r["task"]))]
    records = [r for r in records if r["representation"] != "ecfp"]
    if not records:
        return []
    series = series_of([record["representation"] for record in records])
    by_scope = {task: matching(records, task=task) for task in scopes(records)}
    figures = []
    for task, found in by_scope.items():
        ordered = sorted(found, key=lambda r: series[r["representation"]])
        name = scope_title(report, task)
        figures.append((plots.drops(ordered, title=name, series=series), f"Relative and chance-corrected drop, {name}"))
    tables = tuple(Fold(scope_title(report, task), (_drop_table(found),)) for task, found in by_scope.items())
    blocks = (
        Text(
            "Left: per cent of the metric that is lost, from all present to the mean over every subset with something "
            "absent (the paper’s Figure 2). Right: the same per cent of what was better than chance. Left is better."
        ),
        Figures(tuple(figures)),
        Fold("Numbers, area under the curve, effective robustness, worst subset", tables),
    )
    return [Section("drops", "Figure 2: what is lost", blocks, "Figure 2")]


def _drop_table(records: Sequence[Record]) -> Table:
    rows = []
    for record in records:
        worst = record.get("worst_subset") or {}
        value = (
            with_interval(worst, "value")
            if "low" in worst
            else Cell(
                number(worst.get("value")), tuple(filter(None, [span(worst.get("value_low"), worst.get("value_high"))]))
            )
        )
        corrected, undefined = with_interval(record, "chance_corrected_drop", digits=1), record.get(UNDEFINED, 0)
        note = (f"undefined in {100 * undefined:.1f} % of draws",) if undefined else ()
        cells = (
            with_interval(record, "relative_drop", digits=1),
            Cell(corrected.text, (*corrected.small, *note)),
            with_interval(record, "area"),
            with_interval(record, "effective_robustness"),
            Cell(value.text, (*value.small, " + ".join(worst.get("visible", [])))),
        )
        rows.append(Row(record["representation"], cells, is_fused(record["representation"])))
    columns = ("Representation", "Relative drop, %", "Above chance, %", "Area", "Effective robustness", "Worst subset")
    return Table(columns, one_group(rows))


def values(report: Report) -> list[Section]:
    """What each modality is worth alone, and beside the others."""
    records = [r for r in report["modality_value"] if r["section"] == "folds"] or list(report["modality_value"])
    table = main_table(report)
    if table is None or not records:
        return []
    records = [r for r in records if r.get("metric", "") in ("", metric_of(report, r["task"]))]
    modalities = list(report["modalities"])
    tables = {task: _value_table(report, task, matching(records, task=task), modalities) for task in scopes(records)}
    first, *rest = tables.items()
    text = Text(
        "Alone: the metric of one modality’s own embedding. Below: Shapley values, what a modality "
        "adds on average when it joins others, in units of the metric; they add up to the metric less chance."
    )
    folds = tuple(Fold(str(task), (found,)) for task, found in rest)
    return [
        Section(
            "values",
            "What each modality is worth",
            (text, first[1], *([Fold("Each task", folds)] if folds else [])),
            "Values",
        )
    ]


def _value_table(report: Report, task: str | None, records: Sequence[Record], modalities: Sequence[str]) -> Table:
    table = main_table(report, task=task)
    alone = {row["representation"]: row["cells"].get(ALL_PRESENT) for row in table["rows"]} if table is not None else {}
    groups = [Group("Own embedding", (Row("alone", tuple(with_interval(alone.get(name)) for name in modalities)),))]
    by_place: Mapping[tuple[str, str], Record] = {(r["representation"], r["modality"]): r for r in records}
    names = sorted(dict.fromkeys(record["representation"] for record in records), key=rank)
    rows = [
        Row(n, tuple(with_interval(by_place.get((n, m)), "shapley") for m in modalities), is_fused(n)) for n in names
    ]
    return Table(("", *modalities), (*groups, Group("Shapley value, as seen by", tuple(rows))))


def hiding(report: Report) -> list[Section]:
    """Curves over the realised rate, and the other ways of hiding."""
    records = [
        {**r, "line": r["representation"]} for r in report["hiding"] if r["metric"] == metric_of(report, r["task"])
    ]
    if not records:
        return []
    every = series_of([record["representation"] for record in records])
    series = dict(list(every.items())[:MOST_LINES])
    found = scopes(records)
    blocks: list[Block] = [
        Text(
            "Cells of the test molecules are hidden at random; across is the share that really was hidden. Bands "
            "(of the first three) are intervals over molecules. "
            "Larger molecules hidden more, one modality hidden often, and one modality swapped "
            "between molecules but marked as present follow."
        ),
        Figures(_protocols(report, records, found[0], series), tuple((n, name) for name, n in series.items())),
    ]
    rest = [plot for task in found[1:] for plot in _protocols(report, records, task, series, only=("random",))]
    if rest:
        blocks.append(
            Fold("Random hiding, each task", (Figures(tuple(rest), tuple((n, m) for m, n in series.items())),))
        )
    tables = tuple(
        Fold(
            scope_title(report, task),
            (_hiding_table(matching(records, task=task), every),),
        )
        for task in found
    )
    return [Section("hiding", "Ways of going missing", (*blocks, Fold("Numbers", tables)), "Ways of hiding")]


def _protocols(
    report: Report, records: Sequence[Record], task: str | None, series: Mapping[str, int], *, only: Sequence[str] = ()
) -> tuple[tuple[str, str], ...]:
    drawn, metric = [], METRIC_NAMES[metric_of(report, task)]
    for protocol in dict.fromkeys(record["protocol"] for record in records):
        found = [dict(record) for record in matching(records, task=task, protocol=protocol)]
        title = PROTOCOL_NAMES.get(protocol, protocol) if not only else str(task)
        place = f"hiding-{protocol}-{task or 'mean'}"
        if not found or (only and protocol not in only):
            continue
        if all(record["target"] is None for record in found) and len({r["rate"] for r in found}) > 1:
            start = matching(records, task=task, protocol="random", rate=0.0) if protocol == "not-at-random" else []
            how = {"x": "realised", "label": "cells really hidden", "metric": metric}
            drawn.append((plots.curves([*start, *found], **how, title=title, name=place, series=series), title))
        elif all(record["target"] is not None for record in found):
            drawn.append((plots.by_target(found, metric=metric, title=title, name=place, series=series), title))
    return tuple(drawn)


def _hiding_table(records: Sequence[Record], series: Mapping[str, int]) -> Table:
    groups = []
    by_place = {(r["protocol"], r["rate"], r["target"], r["representation"]): r for r in records}
    for protocol in dict.fromkeys(record["protocol"] for record in records):
        rows = []
        for way in dict.fromkeys((r["rate"], r["target"], r["realised"]) for r in matching(records, protocol=protocol)):
            rate, target, realised = way
            what = target or f"{100 * rate:g} % asked"
            cells = [with_interval(by_place.get((protocol, rate, target, name))) for name in series]
            rows.append(Row(what, (Cell(f"{100 * (realised or 0):.1f} %"), *cells)))
        groups.append(Group(PROTOCOL_NAMES.get(protocol, protocol), tuple(rows)))
    return Table(("Hidden", "Really hidden", *series), tuple(groups))


def training_gaps(report: Report) -> list[Section]:
    """Heads fitted on molecules with gaps: training rate by test rate."""
    records = [
        {**r, "line": r["representation"] + (", complete rows" if r["complete_rows"] else "")}
        for r in report["training_rates"]
        if r["metric"] == metric_of(report, r["task"])
    ]
    if not records:
        return []
    lines = sorted(dict.fromkeys(r["line"] for r in records), key=lambda line: (", " in line, rank(line.split(",")[0])))
    series = {line: place for place, line in enumerate(lines)}
    found = scopes(records)
    first = [{**r} for r in matching(records, task=found[0])]
    metric, figures = METRIC_NAMES[metric_of(report, found[0])], []
    for rate in dict.fromkeys(record["test_rate"] for record in first):
        of_rate = matching(first, test_rate=rate)
        place = {"title": f"Test: {100 * rate:g} % hidden", "name": f"gaps-{rate}", "series": series}
        drawn = plots.curves(of_rate, x="train_rate", label="training cells to hide", metric=metric, **place)  # type: ignore[arg-type]
        figures.append((drawn, f"{metric} over the training rate, {100 * rate:g} % hidden in the test"))
    tables = [(scope_title(report, t), _gap_table(matching(records, task=t), lines)) for t in found]
    text = Text(
        "Heads are fitted on training molecules with random gaps. “Complete rows”: the head sees only the "
        "training molecules that still show every modality, as it must without imputation."
    )
    legend = tuple((place, line) for line, place in series.items())
    folds = tuple(Fold(name, (table,)) for name, table in tables)
    blocks = (text, Figures(tuple(figures), legend), Fold("Numbers: training rate by test rate", folds))
    return [Section("gaps", "Missing while training", blocks, "Training gaps")]


def _gap_table(records: Sequence[Record], lines: Sequence[str]) -> Table:
    tests = list(dict.fromkeys(record["test_rate"] for record in records))
    by_place = {(r["train_rate"], r["line"], r["test_rate"]): r for r in records}
    groups = []
    for train in dict.fromkeys(record["train_rate"] for record in records):
        rows = [
            Row(line, tuple(with_interval(by_place.get((train, line, test))) for test in tests), is_fused(line))
            for line in lines
            if any((train, line, test) in by_place for test in tests)
        ]
        groups.append(Group(f"Training: {100 * train:g} % to hide", tuple(rows)))
    return Table(("Representation", *(f"Test: {100 * test:g} %" for test in tests)), tuple(groups))
