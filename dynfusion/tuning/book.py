"""A sweep's records kept true while it runs; its driver is the only one that writes them.

    next --> waiting --begun--> running --reported--> running or stopped
                                   |  ^----- lost or postponed, and begun again
                                   +--ended--> finished or failed

Everything that a later command needs is on disk before anything follows from it: a sample before its trial begins, a
report before the scheduler's decision. The decisions themselves need no record: they follow from the reports in their
order, so whoever opens the book judges them once more and arrives where the killed command was.
"""

import itertools
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dynfusion.training.storage import Storage
from dynfusion.tuning.messages import Ended, Report
from dynfusion.tuning.objective import objectives_of
from dynfusion.tuning.records import Point, Sweep, Trial, read_curves, read_trials, write_curve, write_trial
from dynfusion.tuning.samples import trial_id

OPEN = ("waiting", "running")
MOST_POSTPONED = 3
"""How often one command begins a trial again that something hinders which may pass, such as nodes that are gone."""
RUNS = "runs"


Judge = Callable[[str, int, float], bool]
"""A scheduler: it hears every report, (trial, samples seen, value) in order, and says whether the trial ends early."""


@dataclass(frozen=True)
class Rules:
    """What a sweep's trials follow from."""

    draw: Callable[[int, Sequence[Trial]], Mapping[str, Any]]
    """Settings of a trial by number, given all trials before it."""
    judge: Judge
    total_samples: Callable[[Mapping[str, Any]], int]
    """Molecules that a trial with these settings sees to its end. Raises ValueError for one that cannot be run."""


@dataclass
class _Course:
    """A trial in the hands of this command."""

    before: Trial
    """Its record when this command took it up."""
    since: float
    trained: float = 0.0
    """Seconds of training in attempts of this command that are over."""
    attempt: float = 0.0
    """And in the one under way."""
    begun: bool = False
    """Whether it has a process."""


class Book:
    """All trials of a sweep by id, and which is next."""

    def __init__(
        self, storage: Storage, sweep: Sweep, rules: Rules, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.storage, self.sweep, self.rules, self.clock = storage, sweep, rules, clock
        self.trials = {trial.id: trial for trial in read_trials(storage)}
        self.curves = read_curves(storage)
        self.reports = sum(len(points) for points in self.curves.values())
        self._courses: dict[str, _Course] = {}
        self._postponed: Counter[str] = Counter()
        self._judge_again()
        self.left = [trial.id for trial in self.trials.values() if trial.state in OPEN]
        self.left.sort(key=lambda name: (self.trials[name].state != "running", name))
        for name in self.trials.keys() - set(self.left):
            self.curves.pop(name, None)

    @property
    def names(self) -> list[str]:
        """Of the objectives; the first decides."""
        return [objective.name for objective in self.sweep.objectives]

    def next(self) -> Trial | None:
        """The next trial to begin: those that are not over first, as recorded, then new ones. None when all have."""
        while not self.left and len(self.trials) < self.sweep.samples:
            trial = self._new(next(n for n in itertools.count() if trial_id(n) not in self.trials))
            self.left = [trial.id] if trial.state in OPEN else []
        if not self.left:
            return None
        trial = self.trials[self.left.pop(0)]
        self._courses[trial.id] = _Course(trial, self.clock())
        return trial

    def begun(self, name: str) -> Trial:
        """An attempt at a trial has a process."""
        course = self._courses[name]
        course.trained, course.attempt, course.begun = course.trained + course.attempt, 0.0, True
        return self._put(name, state="running", reason=None, attempts=self.trials[name].attempts + 1)

    def interrupted(self, name: str) -> None:
        """A trial's process was lost, and it is to have another one."""
        self._courses[name].begun = False

    def reported(self, name: str, report: Report) -> Trial:
        """The trial after a check; `stopped` when it ends here. One that is known already changes nothing.

        Raises ValueError when the check lacks an objective.
        """
        self._courses[name].attempt = report.seconds
        points = self.curves.get(name, ())
        if points and points[-1].samples_seen >= report.samples_seen:
            return self._put(name)
        objectives = objectives_of(report.metrics, self.names)
        seconds = self._seconds(name)
        point = Point(report.step, report.samples_seen, objectives, dict(report.metrics), seconds, self.reports)
        self.curves[name] = (*points, point)
        write_curve(self.storage, name, self.curves[name])
        self.reports += 1
        verdict = self._stopped(point) if self._judged(name, point) else {}
        return self._put(name, **_standing(point), **verdict)

    def ended(self, name: str, ended: Ended) -> Trial:
        """The trial after its own end; still open when it is postponed."""
        self._courses[name].attempt = ended.seconds
        if ended.state == "postponed":
            return self._postpone(name, ended.reason)
        if ended.state == "finished" and self.trials[name].objectives is None:
            return self._put(name, state="failed", reason="it ended without a check that gave its objectives")
        return self._put(name, state=ended.state, reason=ended.reason)

    def lost(self, name: str, why: str) -> Trial:
        """The trial after its process was lost once too often, or before it was there: then it is still open."""
        if not self._courses[name].begun:
            return self._postpone(name, f"its process could not begin: {why}")
        attempts = self.trials[name].attempts
        return self._put(name, state="failed", reason=f"its process was lost, attempt {attempts} was the last: {why}")

    def _postpone(self, name: str, why: str | None) -> Trial:
        """The trial, open, to be begun again by this command, or by the next one when that was tried often enough.

        While other trials are under way a try does not count: they may be what hinders it.
        """
        trial = self._put(name, reason=why)
        del self._courses[name]
        self._postponed[name] += not self._courses
        if self._postponed[name] <= MOST_POSTPONED:
            self.left.append(name)
        return trial

    def _new(self, number: int) -> Trial:
        """A sample on record: waiting, or failed when what it asks for cannot be."""
        settings = dict(self.rules.draw(number, [self.trials[name] for name in sorted(self.trials)]))
        name, total, reason = trial_id(number), 0, None
        self.curves.pop(name, None)  # of a trial whose record was removed
        try:
            total = self.rules.total_samples(settings)
        except ValueError as error:
            reason = str(error)
        trial = Trial(
            id=name,
            state="waiting" if reason is None else "failed",
            reason=reason,
            settings=settings,
            objectives=None,
            step=0,
            samples_seen=0,
            total_samples=total,
            seconds=0.0,
            overhead_seconds=0.0,
            attempts=0,
            run=f"{RUNS}/{name}",
        )
        self.trials[name] = trial
        write_trial(self.storage, trial)
        return trial

    def _put(self, name: str, **changed: Any) -> Trial:
        course = self._courses[name]
        seconds = self._seconds(name)
        wall = self.clock() - course.since
        overhead = course.before.overhead_seconds + max(0.0, wall - (seconds - course.before.seconds))
        trial = replace(self.trials[name], seconds=seconds, overhead_seconds=overhead, **changed)
        self.trials[name] = trial
        write_trial(self.storage, trial)
        if trial.state not in OPEN:
            del self._courses[name]
            self.curves.pop(name, None)
        return trial

    def _seconds(self, name: str) -> float:
        course = self._courses[name]
        return course.before.seconds + course.trained + course.attempt

    def _judged(self, name: str, point: Point) -> bool:
        """Whether the trial ends here; a trial at its own end is heard, and has nothing left to stop."""
        stops = self.rules.judge(name, point.samples_seen, point.objectives[self.names[0]])
        return stops and point.samples_seen < self.trials[name].total_samples

    def _judge_again(self) -> None:
        """Every report in its order, so that the scheduler stands where it stood; what it had decided last is done.

        A trial whose last report was written down, and what follows from it not any more, stands where that says.
        """
        told = [(point, name) for name, points in self.curves.items() if name in self.trials for point in points]
        for point, name in sorted(told, key=lambda pair: pair[0].order):
            stops = self._judged(name, point)
            if self.trials[name].state in OPEN:
                self.trials[name] = replace(
                    self.trials[name], **_standing(point), **self._stopped(point) if stops else {}
                )
                if stops:
                    write_trial(self.storage, self.trials[name])

    def _stopped(self, point: Point) -> dict[str, Any]:
        reason = f"{self.sweep.scheduler}: not among the best after {point.samples_seen:,} molecules"
        return {"state": "stopped", "reason": reason}


def _standing(point: Point) -> dict[str, Any]:
    return {"objectives": point.objectives, "step": point.step, "samples_seen": point.samples_seen}
