"""`dynfusion doctor`: what is wrong with this machine, cluster, data and storage, and what to do about it."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dynfusion.edges.absolute_paths import absolute
from dynfusion.edges.preflight import Subjects, observe
from dynfusion.preflight.checks import diagnose
from dynfusion.preflight.finding import Finding, worst
from dynfusion.printable import printable

_COLOURS = {"ok": "green", "warning": "yellow", "failed": "bold red"}
FAILED = 1


def doctor(
    *,
    cluster: str | None = None,
    data: str | None = None,
    storage: str | None = None,
    cache: Path | None = None,
    as_json: bool = False,
    debug: bool = False,
) -> int:
    """Print what every check finds, as a table or as JSON, and return the exit code: 1 when one failed, else 0."""
    subjects = Subjects(
        cluster=cluster,
        data=None if data is None else absolute(data),
        storage=None if storage is None else absolute(storage),
        cache=None if cache is None else str(cache.expanduser().absolute()),
    )
    console = Console()
    with console.status("looking ..."):  # on a terminal alone
        findings = diagnose(observe(subjects, debug=debug))
    state = worst([finding.state for finding in findings])
    if as_json:
        print(json.dumps({"state": state, "findings": [asdict(finding) for finding in findings]}, indent=2))
    else:
        console.print(_table(findings))
        print(_count(findings))
    return FAILED if state == "failed" else 0


def _table(findings: Sequence[Finding]) -> Table:
    table = Table(title="dynfusion doctor", show_lines=any(finding.cure for finding in findings))
    for heading in ("check", "state", "found, and what to do"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        said = Text(printable(finding.found))
        if finding.cure:
            said.append("\n").append(printable(finding.cure), style="bold")
        table.add_row(Text(finding.name), Text(finding.state, style=_COLOURS[finding.state]), said)
    return table


def _count(findings: Sequence[Finding]) -> str:
    states = [finding.state for finding in findings]
    failed, warnings, right = (states.count(state) for state in ("failed", "warning", "ok"))
    return f"{failed} failed, {warnings} warning{'s' * (warnings != 1)}, {right} ok"
