"""A sweep's folder read whole, its files held against one another."""

from collections.abc import Container, Iterable
from dataclasses import dataclass

from dynfusion.training.lease import is_driven
from dynfusion.training.storage import Storage
from dynfusion.tuning.records import (
    DEFAULT,
    Finals,
    Point,
    Sweep,
    Trial,
    read_curves,
    read_finals,
    read_sweep,
    read_trials,
)

MOST_NAMED = 3


@dataclass(frozen=True)
class Contents:
    """Everything that a sweep has left so far."""

    sweep: Sweep
    trials: tuple[Trial, ...]
    curves: dict[str, tuple[Point, ...]]
    finals: Finals | None
    driven: bool = False
    """Whether a command is at work on it."""


def read_contents(storage: Storage) -> Contents:
    """All records of a sweep, finished or under way.

    Raises ValueError naming the file that is missing, torn, or does not belong to this sweep.
    """
    sweep = read_sweep(storage)
    curves = read_curves(storage)  # before the trials: one that begins meanwhile has its own file first
    found = Contents(sweep, read_trials(storage), curves, read_finals(storage), is_driven(storage))
    _check(found, storage.address)
    return found


def _check(found: Contents, address: str) -> None:
    known = {trial.id for trial in found.trials}
    for trial in found.trials:
        where = f"{address}/trials/{trial.id}.json"
        _allow(trial.settings, found.sweep.space, f"{where}: settings", "the sweep's space")
        if trial.objectives is not None:
            _equal(trial.objectives, found.sweep, f"{where}: objectives")
    _allow(found.curves, known, f"{address}/curves: curves of trials", "trials/")
    for name, points in found.curves.items():
        for point in points:
            _equal(point.objectives, found.sweep, f"{address}/curves/{name}.jsonl: objectives at step {point.step}")
    for entry in found.finals.entries if found.finals else ():
        where = f"{address}/finals.json, {entry.label}"
        _allow([entry.label], {*known, DEFAULT}, f"{where}: labels", "trials/")
        for run in entry.seeds:
            _equal(run.objectives, found.sweep, f"{where}: objectives of seed {run.seed}")


def _allow(names: Iterable[str], known: Container[str], what: str, where: str) -> None:
    foreign = [name for name in names if name not in known]
    if foreign:
        raise ValueError(f"{what}: found {', '.join(foreign[:MOST_NAMED])}, allowed are those of {where}")


def _equal(objectives: dict[str, float], sweep: Sweep, what: str) -> None:
    wanted = [objective.name for objective in sweep.objectives]
    if set(objectives) != set(wanted):
        raise ValueError(f"{what}: found {', '.join(sorted(objectives)) or 'none'}, allowed are {', '.join(wanted)}")
