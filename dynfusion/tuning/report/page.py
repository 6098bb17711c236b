"""Writes what a sweep found into its folder: `report.json`, `.html`, `.md`, `trials.parquet`, `best.toml`."""

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from dynfusion.page.blocks import number, signed, span
from dynfusion.page.render import rendered, strict_json
from dynfusion.training.storage import Storage
from dynfusion.tuning.report.assembly import build_report
from dynfusion.tuning.report.best_run import best_toml
from dynfusion.tuning.report.contents import Contents
from dynfusion.tuning.report.sections import sections
from dynfusion.tuning.report.trials_table import parquet, trials_table
from dynfusion.tuning.report.wording import (
    DIGITS,
    STATE_NAMES,
    Report,
    final_of,
    luck,
    objective_names,
    short_names,
    shown,
    summary,
)

SHOWN = 10
"""Trials in the terminal's table."""
SETTINGS_SHOWN = 3
"""Settings in it, the most important ones; none beside several objectives, for want of room."""


def write_sweep_report(storage: Storage, contents: Contents) -> dict[str, Any]:
    """All files of the report into the sweep's folder; what `report.json` holds comes back.

    `best.toml` appears with the first finished trial. Equal contents give equal bytes of all but `trials.parquet`.
    Raises ValueError when this version refuses the winner's settings.
    """
    report = build_report(contents)
    run_file = best_toml(contents, report, storage.address)
    if run_file is not None:
        storage.write("best.toml", run_file.encode())
    storage.write("trials.parquet", parquet(trials_table(contents)))
    storage.write("report.json", strict_json(report))
    for ending, text in rendered(content(report)).items():
        storage.write(f"report.{ending}", text)
    return report


def content(report: Report) -> dict[str, Any]:
    """What the page's template shows."""
    return {
        "title": report["title"],
        "meta": _meta(report),
        "sentences": summary(report),
        "tiles": _tiles(report),
        "sections": sections(report),
    }


def terminal_table(report: Report) -> Table:
    """The first trials with their scores and the settings that matter most."""
    names = objective_names(report)
    known = [record["name"] for record in report["importance"]["settings"]] or list(report["sweep"]["space"])
    wanted = known[:SETTINGS_SHOWN] if len(names) == 1 else []
    short = short_names(wanted)
    states = ", ".join(f"{count} {STATE_NAMES[state]}" for state, count in report["states"].items() if count)
    title = f"{report['title']}: {states or 'no trial yet'}"
    left_out = len(report["sweep"]["space"]) - len(wanted)
    more = f"{left_out} more setting{'s' if left_out > 1 else ''} in the report" if left_out and wanted else None
    shown_table = Table(title=title, caption=more, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    shown_table.add_column("trial", no_wrap=True)
    for name in names:
        shown_table.add_column(name, justify="right", no_wrap=True)
        if report["finals"]:
            shown_table.add_column("run again", justify="right", no_wrap=True)
    for heading in ("state", *(short[name] for name in wanted)):
        shown_table.add_column(heading, justify="right")
    for trial in report["trials"][:SHOWN]:
        cells = [f"[bold]{trial['id']}[/bold]" if trial["id"] == report["winner"] else trial["id"]]
        for name in names:
            cells.append(number((trial["objectives"] or {}).get(name), DIGITS))
            cells += [_again(report, trial["id"], name)] if report["finals"] else []
        values = [shown(trial["settings"][name]) if name in trial["settings"] else "–" for name in wanted]
        shown_table.add_row(*cells, STATE_NAMES[trial["state"]], *values)
    return shown_table


def _again(report: Report, label: str, name: str) -> str:
    record = final_of(report, label)
    if record is None:
        return ""
    found = record["objectives"][name]
    interval = span(found["low"], found["high"], digits=DIGITS)
    return f"{number(found['value'], DIGITS)}\n[dim]{interval}[/dim]" if interval else number(found["value"], DIGITS)


def _meta(report: Report) -> str:
    sweep = report["sweep"]
    return (
        f"{sweep['search']} search, {sweep['scheduler']} scheduler · {len(report['trials'])} of {sweep['samples']} "
        f"trials · {len(sweep['space'])} settings · objective: {sweep['objective']}"
    )


def _tiles(report: Mapping[str, Any]) -> list[dict[str, str]]:
    """The numbers to see first: the winner less the default, run again and on the test split; what was luck."""
    tiles = []
    name = objective_names(report)[0]
    final = final_of(report, report["winner"])
    found = final["differences"].get(name) if final else None
    if found is not None and found["low"] is not None:
        tiles.append(_tile("Run again with fresh seeds", found, f"trial {report['winner']} less default, {name}"))
    if report["test"] and report["test"][-1]["difference"]["low"] is not None:
        record = report["test"][-1]
        where = record["task"] or f"mean over {len(report['test']) - 1} tasks"
        tiles.append(
            _tile("On the test split", record["difference"], f"trial {report['winner']} less default, {where}")
        )
    drop = luck(report)
    if drop is not None and final is not None:
        before, after = final["sweep"][name], final["objectives"][name]["value"]
        values = f"{number(before, DIGITS)} to {number(after, DIGITS)}"
        tile = {"heading": "From the sweep to the new runs", "difference": signed(-drop, DIGITS), "interval": values}
        tiles.append({**tile, "side": "fell" if drop > 0 else "held", "rival": f"trial {report['winner']}, {name}"})
    return tiles


def _tile(heading: str, found: Mapping[str, Any], rival: str) -> dict[str, str]:
    interval = span(found["low"], found["high"], digits=DIGITS, sign=True)
    value = signed(found["value"], DIGITS)
    return {"heading": heading, "difference": value, "interval": interval, "side": found["side"], "rival": rival}
