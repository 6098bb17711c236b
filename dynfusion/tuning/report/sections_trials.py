"""Sections of every trial: the table, what failed and why, what was spent."""

from dynfusion.page.blocks import UNKNOWN, Block, Cell, Fold, Row, Section, Table, Text, number, one_group
from dynfusion.tuning.report.wording import (
    DIGITS,
    STATE_NAMES,
    Record,
    Report,
    duration,
    objective_names,
    settings_text,
    short_names,
    shown,
)

FIRST = 10
"""Trials in the open; the others are folded."""


def trials(report: Report) -> list[Section]:
    """All trials from the best on."""
    records = report["trials"]
    if not records:
        return []
    states = ", ".join(f"{count} {STATE_NAMES[state]}" for state, count in report["states"].items() if count)
    text = f"{len(records)} of {report['sweep']['samples']} trials: {states}. Finished ones first, the best on top."
    early = report["states"]["stopped"] + report["states"]["running"]
    text += " A trial that is not finished shows its last score, of fewer molecules." if early else ""
    blocks: list[Block] = [Text(text), _table(report, records[:FIRST])]
    if len(records) > FIRST:
        blocks.append(Fold(f"The other {len(records) - FIRST}", (_table(report, records[FIRST:]),)))
    blocks.append(Text("trials.parquet has every trial with all that is known of it.", note=True))
    return [Section("trials", "Trials", tuple(blocks), "Trials")]


def _table(report: Report, records: list[Record]) -> Table:
    names, space = objective_names(report), list(report["sweep"]["space"])
    short = short_names(space)
    rows = []
    for trial in records:
        scores = [Cell(number((trial["objectives"] or {}).get(name), DIGITS)) for name in names]
        settings = [Cell(shown(trial["settings"][name]) if name in trial["settings"] else UNKNOWN) for name in space]
        share = UNKNOWN if trial["share"] is None else f"{100 * trial['share']:.0f} %"
        progress = [Cell(STATE_NAMES[trial["state"]]), Cell(share), Cell(duration(trial["seconds"]))]
        rows.append(Row(trial["id"], (*scores, *progress, *settings), trial["id"] == report["winner"]))
    return Table(("Trial", *names, "State", "Seen", "Training", *(short[name] for name in space)), one_group(rows))


def failures(report: Report) -> list[Section]:
    """Reasons of failed trials."""
    if not report["failures"]:
        return []
    settings = {trial["id"]: trial["settings"] for trial in report["trials"]}
    rows = [
        Row(name, (Cell(record["reason"]), Cell(settings_text(settings[name]))))
        for record in report["failures"]
        for name in record["trials"]
    ]
    counts = "; ".join(f"{len(record['trials'])} × {record['reason']}" for record in report["failures"])
    blocks = (
        Text(f"The sweep went on without them. {counts}"),
        Fold("Each failed trial", (Table(("Trial", "Reason", "Settings"), one_group(rows), words=True),)),
    )
    return [Section("failures", "Failed trials", blocks, "Failures")]


def compute(report: Report) -> list[Section]:
    """What the sweep took."""
    spent = report["compute"]
    if not spent["trials"]:
        return []
    total = spent["seconds"] + spent["overhead_seconds"]
    share = f"{100 * spent['overhead_seconds'] / total:.0f} %" if total else UNKNOWN
    seen = f"{100 * spent['samples_seen'] / spent['total_samples']:.0f} %" if spent["total_samples"] else UNKNOWN
    facts = [
        ("Training, all trials together", duration(spent["seconds"])),
        *(
            (f"of which {STATE_NAMES[state]}", duration(seconds))
            for state, seconds in spent["seconds_by_state"].items()
            if len(spent["seconds_by_state"]) > 1
        ),
        ("Around it: start, data, saving", f"{duration(spent['overhead_seconds'])}, {share} of all"),
        ("Around one trial, median", f"{spent['median_overhead_seconds']:.1f} s"),
        ("Molecules seen", f"{spent['samples_seen']:,}, {seen}"),
        ("Molecules, had all run to the end", f"{spent['total_samples']:,}"),
        ("Attempts beyond the first", str(spent["retries"])),
    ]
    table = Table(("", "Amount"), one_group([Row(name, (Cell(value),)) for name, value in facts]), words=True)
    note = Text("Time of one trial after another; the runs with fresh seeds are not in it.", note=True)
    return [Section("compute", "Compute used", (table, note), "Compute")]
