"""The best trials and the default, run again with fresh seeds: means, paired differences, what was luck.

A mean over seeds has a t interval; a difference is taken seed by seed, so that what a seed does to both sides cancels.
Source: Student's t, one sample and paired; with 3 seeds its 95 % quantile is 4.3 standard errors, which is the price of
few runs.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import stdtrit

from dynfusion.tuning.records import DEFAULT, Final, Finals, Objective, SeedRun
from dynfusion.tuning.report.contents import Contents

CONFIDENCE = 0.95


def estimate(values: Sequence[float]) -> dict[str, Any]:
    """`value` (mean), `low`, `high` of its t interval (None with fewer than two), and `runs`, how many."""
    if not values:
        return {"value": None, "low": None, "high": None, "runs": 0}
    mean = float(np.mean(values))
    if len(values) < 2:
        return {"value": mean, "low": None, "high": None, "runs": len(values)}
    half = float(stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return {"value": mean, "low": mean - half, "high": mean + half, "runs": len(values)}


def difference(ours: Mapping[int, float], theirs: Mapping[int, float], *, sign: int = 1) -> dict[str, Any]:
    """`estimate` of ours less theirs over the seeds that both have, and `side`.

    `side` is ahead or behind where the interval excludes zero, level where it does not, unknown without an interval;
    `sign` -1 where less is better.
    """
    found = estimate([ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())])
    if found["low"] is None:
        return {**found, "side": "unknown"}
    if found["low"] <= 0 <= found["high"]:
        return {**found, "side": "level"}
    return {**found, "side": "ahead" if sign * found["value"] > 0 else "behind"}


def direction(objective: Objective) -> int:
    """1 where more is better, -1 where less is."""
    return 1 if objective.direction == "max" else -1


def final_records(contents: Contents) -> list[dict[str, Any]]:
    """Every entry that has a run: the trials from the best on, then the default."""
    if contents.finals is None:
        return []
    entries = {entry.label: entry for entry in contents.finals.entries if entry.seeds or entry.failures}
    sweep_scores = {trial.id: trial.objectives for trial in contents.trials}
    default = entries.get(DEFAULT)
    records = []
    for label, entry in entries.items():
        record: dict[str, Any] = {"label": label, "settings": entry.settings, "objectives": {}, "differences": {}}
        record["seeds"] = [{"seed": run.seed, **run.objectives} for run in entry.seeds]
        for objective in contents.sweep.objectives:
            name = objective.name
            mine = _by_seed(entry, name)
            record["objectives"][name] = estimate(list(mine.values()))
            if default is not None and label != DEFAULT:
                theirs = _by_seed(default, name)
                record["differences"][name] = difference(mine, theirs, sign=direction(objective))
        record["sweep"] = sweep_scores.get(label)
        record["failures"] = [{"seed": one.seed, "reason": one.reason} for one in entry.failures]
        records.append(record)
    first = contents.sweep.objectives[0]
    rank = direction(first)

    def place(record: dict[str, Any]) -> tuple[bool, bool, float]:
        value = record["objectives"][first.name]["value"]
        return record["label"] == DEFAULT, value is None, -rank * (value or 0.0)

    return sorted(records, key=place)


def winner(contents: Contents) -> tuple[str | None, list[str]]:
    """The trial with the best mean of the first objective over the seeds that all entries have, and its ties.

    Settings that failed with some seed are not chosen: the seeds on which they did not fail say too little.
    Ties are the other trials whose paired difference from it does not exclude zero. None before there is a common seed.
    """
    entries = [e for e in contents.finals.entries if e.label != DEFAULT and not e.failures] if contents.finals else []
    objective = contents.sweep.objectives[0]
    scores = {entry.label: _by_seed(entry, objective.name) for entry in entries if entry.seeds}
    common = set.intersection(*(set(found) for found in scores.values())) if scores else set()
    if not common:
        return None, []
    sign = direction(objective)
    means = {label: sign * float(np.mean([found[seed] for seed in sorted(common)])) for label, found in scores.items()}
    best = max(sorted(means), key=lambda label: means[label])
    others = [label for label in scores if label != best]
    return best, [o for o in others if difference(scores[best], scores[o], sign=sign)["side"] in ("level", "unknown")]


def test_records(finals: Finals | None, best: str | None) -> list[dict[str, Any]]:
    """The winner against the default on the test split: a record for each task, then for their mean (task None).

    Empty where either has no test scores.
    """
    entries = {entry.label: entry for entry in finals.entries} if finals else {}
    if best not in entries or DEFAULT not in entries:
        return []
    ours, theirs = ({run.seed: run.test for run in entries[label].seeds if run.test} for label in (best, DEFAULT))
    if not ours or not theirs:
        return []
    tasks = _shared([*ours.values(), *theirs.values()])
    records = []
    for task in [*tasks, *([None] if len(tasks) > 1 else [])]:
        wanted = tasks if task is None else [task]
        mine, other = (
            {seed: float(np.mean([scores[name] for name in wanted])) for seed, scores in side.items()}
            for side in (ours, theirs)
        )
        record = {"task": task, "ours": estimate(list(mine.values())), "default": estimate(list(other.values()))}
        records.append({**record, "difference": difference(mine, other)})
    return records


def _shared(scores: Sequence[Mapping[str, float]]) -> list[str]:
    """Tasks that every run has, in the order of the first."""
    return [name for name in scores[0] if all(name in found for found in scores)] if scores else []


def _by_seed(entry: Final, objective: str) -> dict[int, float]:
    runs: Iterable[SeedRun] = entry.seeds
    return {run.seed: run.objectives[objective] for run in runs}
