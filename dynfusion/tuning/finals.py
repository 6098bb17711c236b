"""The best trials and the default once more, with fresh seeds: the best of many is partly the luckiest.

    finished trials --best_trials--> labels x fresh seeds --jobs left--> finals.json, run by run as they finish

Seed by seed, so that whatever is there is paired. Only these runs are compared, and only with each other.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

from dynfusion.training.storage import Storage
from dynfusion.tuning.book import MOST_POSTPONED, RUNS
from dynfusion.tuning.messages import Report
from dynfusion.tuning.objective import objectives_of
from dynfusion.tuning.records import (
    DEFAULT,
    Final,
    Finals,
    SeedFailure,
    SeedRun,
    Sweep,
    Trial,
    read_finals,
    write_finals,
)

FIRST_SEED = 1001


def best_trials(trials: Iterable[Trial], sweep: Sweep, most: int) -> list[Trial]:
    """The best finished trials by the first objective, best first; the earlier one of two that are level."""
    first = sweep.objectives[0]
    sign = 1 if first.direction == "max" else -1

    def place(trial: Trial) -> tuple[float, str]:
        assert trial.objectives is not None
        return -sign * trial.objectives[first.name], trial.id

    return sorted((t for t in trials if t.state == "finished" and t.objectives), key=place)[:most]


def fresh_seeds(number: int, used: Iterable[int]) -> list[int]:
    """Seeds that no trial has had."""
    taken = set(used)
    free = (seed for seed in count(FIRST_SEED) if seed not in taken)
    return [next(free) for _ in range(number)]


class FinalsBook:
    """What of the runs with fresh seeds is done, and which is next."""

    def __init__(self, storage: Storage, sweep: Sweep, chosen: Sequence[Trial], used_seeds: Iterable[int]) -> None:
        self.storage, self.sweep = storage, sweep
        kept = read_finals(storage)
        self.entries = {entry.label: entry for entry in kept.entries} if kept else {}
        known = {label: dict(entry.settings) for label, entry in self.entries.items()}  # of a smaller sweep, or more
        self.settings = {DEFAULT: dict[str, Any](), **{trial.id: trial.settings for trial in chosen}, **known}
        for label, settings in self.settings.items():
            self.entries.setdefault(label, Final(label, settings, ()))
        self.seeds = fresh_seeds(sweep.rerun_seeds, used_seeds)
        done = {(n, run.seed) for n, entry in self.entries.items() for run in entry.seeds}
        done |= {(n, run.seed) for n, entry in self.entries.items() for run in entry.failures}
        self.left = [(label, seed) for seed in self.seeds for label in self.settings if (label, seed) not in done]
        self.last: dict[str, Report] = {}
        self._postponed: Counter[str] = Counter()
        self.hindered: dict[str, str] = {}
        """Runs that this command begins no more, and why they did not come to their end."""
        self.under_way: set[str] = set()

    def next(self) -> tuple[str, int] | None:
        """(label, seed) of the next run, None when all have begun."""
        if not self.left:
            return None
        found = self.left.pop(0)
        self.under_way.add(job_name(*found))
        return found

    def reported(self, job: str, report: Report) -> None:
        """A check of a run; its last one counts."""
        self.last[job] = report

    def finished(self, job: str) -> SeedRun:
        """Put a finished run on record, by its last check."""
        report = self.last[job]
        label, seed = parse_job(job)
        names = [objective.name for objective in self.sweep.objectives]
        run = SeedRun(seed, objectives_of(report.metrics, names), None, f"{RUNS}/{job}")
        self.put(label, run)
        self._over(job)
        return run

    def failed(self, job: str, reason: str) -> None:
        """Put a run on record that did not come to its end by its own fault."""
        label, seed = parse_job(job)
        entry = self.entries[label]
        others = [one for one in entry.failures if one.seed != seed]
        self.entries[label] = replace(entry, failures=(*others, SeedFailure(seed, reason)))
        self._write(complete=False)
        self._over(job)

    def postponed(self, job: str, reason: str) -> None:
        """Begin a run again later that something hindered which may pass, unless that was tried often enough."""
        self._over(job)
        self._postponed[job] += not self.under_way
        if self._postponed[job] <= MOST_POSTPONED:
            self.left.append(parse_job(job))
        else:
            self.hindered[job] = reason

    def _over(self, job: str) -> None:
        self.under_way.discard(job)
        self.last.pop(job, None)

    def put(self, label: str, run: SeedRun) -> None:
        """One run of a label, in place of an earlier record of it."""
        entry = self.entries[label]
        others = [one for one in entry.seeds if one.seed != run.seed]
        self.entries[label] = replace(entry, seeds=tuple(sorted([*others, run], key=lambda one: one.seed)))
        self._write(complete=False)

    def complete(self) -> None:
        """Say that nothing more will come."""
        self._write(complete=True)

    def _write(self, *, complete: bool) -> None:
        order = [label for label in self.entries if label != DEFAULT] + [DEFAULT]
        entries = tuple(self.entries[label] for label in order)
        write_finals(self.storage, Finals(entries, self.sweep.top_k, complete))


def job_name(label: str, seed: int) -> str:
    """The run of some settings with a seed."""
    return f"{label}-seed-{seed}"


def parse_job(job: str) -> tuple[str, int]:
    """(label, seed) of such a name."""
    label, seed = job.rsplit("-seed-", 1)
    return label, int(seed)


def without_seed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Sampled settings for another seed, should the space have searched that too."""
    return {name: value for name, value in settings.items() if name != "train.seed"}
