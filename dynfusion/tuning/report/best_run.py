"""`best.toml`: the run file that reproduces the winner; it holds only what differs from the defaults."""

import shlex
from collections.abc import Mapping
from typing import Any

import tomli_w

from dynfusion.page.blocks import number, span
from dynfusion.run_settings import RunSettings
from dynfusion.settings import build, differences, parse_overrides
from dynfusion.tuning.report.contents import Contents

DIGITS = 4


def best_settings(contents: Contents, settings: Mapping[str, Any]) -> RunSettings:
    """The sweep's base run with a trial's settings on top, called after the sweep.

    Raises ValueError where this version refuses one of them.
    """
    sampled: dict[str, Any] = {}
    for name, value in settings.items():
        *parents, leaf = name.split(".")
        branch = sampled
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[leaf] = value
    sweep = contents.sweep
    named: dict[str, Any] = {"cluster": {"name": f"{sweep.name}-best"}}
    return build(RunSettings, sweep.run, parse_overrides(sweep.overrides), sampled, named)


def best_toml(contents: Contents, report: Mapping[str, Any], address: str) -> str | None:
    """The text of the run file; None before a trial has finished.

    It is the winner's of the runs with fresh seeds, or the best trial's while there are none.
    """
    label = report["winner"] or report["best"]
    if label is None:
        return None
    trial = next(trial for trial in contents.trials if trial.id == label)
    tree = differences(best_settings(contents, trial.settings))
    head = "\n".join(f"# {line}".rstrip() for line in _head(contents, report, label, address))
    return f"{head}\n\n{tomli_w.dumps(tree)}"


def _head(contents: Contents, report: Mapping[str, Any], label: str, address: str) -> list[str]:
    """Purpose, expected score, and the command that made it."""
    sweep = contents.sweep
    done = sum(trial.state in ("finished", "stopped", "failed") for trial in contents.trials)
    final = next((record for record in report["finals"] if record["label"] == label), None)
    lines = [f"The best settings that sweep {sweep.name} found: trial {label}, the best of {done}."]
    for objective in sweep.objectives:
        name = objective.name
        if final is not None:
            found = final["objectives"][name]
            interval = span(found["low"], found["high"], digits=DIGITS) or "no interval, one seed"
            lines.append(f"Expected {name}: {number(found['value'], DIGITS)} ({interval}; {_seeds(found['runs'])}).")
        else:
            score = next(trial for trial in report["trials"] if trial["id"] == label)["objectives"][name]
            lines.append(
                f"Expected {name}: below {number(score, DIGITS)}, one seed, the best of {done} and so partly luck; "
                "not yet run again."
            )
        against = final["differences"].get(name) if final else None
        if against and against["low"] is not None:
            interval = span(against["low"], against["high"], digits=DIGITS, sign=True)
            lines.append(f"Less the default's {name}, seed by seed: {interval}.")
    lines += [
        f"Objective, the sweep's own, which is not the score of a run's checks: {sweep.objective}",
        f"Made by: dynfusion tune show {shlex.quote(address)}",
    ]
    return [" ".join(line.split()) for line in lines]


def _seeds(runs: int) -> str:
    return f"{runs} fresh seeds" if runs > 1 else "a fresh seed"
