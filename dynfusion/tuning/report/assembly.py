"""From a sweep's folder to the report mapping, which the page, the terminal and `report.json` all show."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from dynfusion.tuning.records import Trial
from dynfusion.tuning.report.contents import Contents
from dynfusion.tuning.report.importance import importance_record
from dynfusion.tuning.report.seeds import CONFIDENCE, direction, final_records, test_records, winner

STATES = ("finished", "stopped", "running", "waiting", "failed")


def build_report(contents: Contents) -> dict[str, Any]:
    """Plain values only; equal folders give equal reports."""
    sweep = contents.sweep
    best, ties = winner(contents)
    trials = [_trial(trial) for trial in ranked(contents)]
    unsound = {entry.label for entry in contents.finals.entries if entry.failures} if contents.finals else set()
    finished = [t["id"] for t in trials if t["state"] == "finished" and t["objectives"]]
    return {
        "title": f"Sweep {sweep.name}",
        "sweep": asdict(sweep),
        "driven": contents.driven,
        "confidence": CONFIDENCE,
        "states": {state: sum(trial.state == state for trial in contents.trials) for state in STATES},
        "trials": trials,
        "best": next((name for name in finished if name not in unsound), None),
        "finals": final_records(contents),
        "tested": sum(any(run.test for run in entry.seeds) for entry in contents.finals.entries)
        if contents.finals
        else 0,
        "finals_complete": contents.finals is not None and contents.finals.complete,
        "winner": best,
        "ties": ties,
        "test": test_records(contents.finals, best),
        "importance": importance_record(contents),
        "front": front(contents),
        "failures": _failures(contents.trials),
        "compute": _compute(contents.trials),
        "curves": {
            name: [[point.samples_seen, point.objectives] for point in points]
            for name, points in contents.curves.items()
        },
    }


def ranked(contents: Contents) -> list[Trial]:
    """Finished trials from the best on, then stopped ones, running, failed and waiting ones, each the best first."""
    first = contents.sweep.objectives[0]
    sign = direction(first)
    order = ("finished", "stopped", "running", "failed", "waiting")

    def place(trial: Trial) -> tuple[int, float, str]:
        score = sign * trial.objectives[first.name] if trial.objectives else float("-inf")
        return order.index(trial.state), -score, trial.id

    return sorted(contents.trials, key=place)


def front(contents: Contents) -> list[str]:
    """Ids of the finished trials that no other beats in every objective; [] with a single objective."""
    objectives = contents.sweep.objectives
    if len(objectives) < 2:
        return []
    scores = {
        trial.id: [direction(one) * trial.objectives[one.name] for one in objectives]
        for trial in contents.trials
        if trial.state == "finished" and trial.objectives
    }
    return [name for name, mine in scores.items() if not any(_dominates(other, mine) for other in scores.values())]


def _dominates(other: Sequence[float], mine: Sequence[float]) -> bool:
    """At least as good everywhere, and better somewhere."""
    return all(a >= b for a, b in zip(other, mine, strict=True)) and any(
        a > b for a, b in zip(other, mine, strict=True)
    )


def _trial(trial: Trial) -> dict[str, Any]:
    record: Mapping[str, Any] = asdict(trial)
    share = trial.samples_seen / trial.total_samples if trial.total_samples else None
    return {**record, "share": share}


def _failures(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """Reasons of failed trials, the most frequent first, with the trials' ids."""
    failed = [trial for trial in trials if trial.state == "failed"]
    counts = Counter(trial.reason or "no reason recorded" for trial in failed)
    return [
        {"reason": reason, "trials": [t.id for t in failed if (t.reason or "no reason recorded") == reason]}
        for reason, _ in counts.most_common()
    ]


def _compute(trials: Sequence[Trial]) -> dict[str, Any]:
    """Seconds of training and around it, over all trials; which share of all samples was seen, and by whom."""
    begun = [trial for trial in trials if trial.attempts]
    seen, total = (sum(getattr(trial, name) for trial in begun) for name in ("samples_seen", "total_samples"))
    by_state = {
        state: sum(trial.seconds for trial in begun if trial.state == state)
        for state in STATES
        if any(trial.state == state for trial in begun)
    }
    overheads = sorted(trial.overhead_seconds for trial in begun)
    return {
        "trials": len(begun),
        "seconds": sum(trial.seconds for trial in begun),
        "overhead_seconds": sum(overheads),
        "median_overhead_seconds": overheads[len(overheads) // 2] if overheads else None,
        "samples_seen": seen,
        "total_samples": total,
        "seconds_by_state": by_state,
        "retries": sum(trial.attempts - 1 for trial in begun),
    }
