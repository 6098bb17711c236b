"""From the parts of a plan to jobs: first the probes' hyper-parameters, then every group of cells with its key."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8

from dynfusion.evaluation.protocol.groups import PROBE_SEED, CellGroup, key_of
from dynfusion.evaluation.protocol.plan import Part
from dynfusion.evaluation.representations.features import Contestant, Representation
from dynfusion.evaluation.scores.resampling import resample_counts
from dynfusion.evaluation.settings import EvaluationSettings
from dynfusion.evaluation.tasks.splits import Fold, folds
from dynfusion.evaluation.tasks.task import TaskData
from dynfusion.evaluation.versions import versions
from dynfusion.settings import fingerprint


@dataclass(frozen=True)
class TaskInputs:
    """What all groups of one task read, each part once."""

    task: TaskData
    """In standardised units."""
    given: Fold
    folds: tuple[Fold, ...]
    counts: UInt8[np.ndarray, "molecules resamples"]

    def of(self, part: Part) -> tuple[Fold, ...]:
        """The folds a part is computed on."""
        return (self.given,) if part.given else self.folds


@dataclass(frozen=True)
class Choice:
    """Hyper-parameters of a probe on one representation: what they are called and follow from."""

    task: str
    fold: str
    representation: str
    probe: str
    key: str

    @property
    def name(self) -> str:
        """File name without ending."""
        return f"choice-{self.key}"

    def record(self) -> dict[str, Any]:
        """The choice as JSON holds it."""
        return asdict(self)


@dataclass(frozen=True)
class ChoiceJob:
    """A choice with what it needs beside the task."""

    choice: Choice
    fold: Fold
    member: Representation


@dataclass(frozen=True)
class GroupJob:
    """A group with what it needs beside the task."""

    group: CellGroup
    fold: Fold
    contestant: Contestant
    chosen: tuple[dict[str, float], ...]


def task_inputs(task: TaskData, settings: EvaluationSettings) -> TaskInputs:
    """The folds and resamples of a task in standardised units. Raises ValueError as `folds` does."""
    given = folds(task, settings.split.model_copy(update={"kind": "given"}))[0]
    several = settings.extent != "quick" and settings.split.kind != "given"
    counts = resample_counts(task.name, len(task.ids), settings=settings.statistics)
    return TaskInputs(task, given, tuple(folds(task, settings.split)) if several else (given,), counts)


class Keys:
    """Fingerprints of everything that groups follow from, each computed once."""

    def __init__(self, inputs: TaskInputs, settings: EvaluationSettings) -> None:
        self.shared = (inputs.task.fingerprint(), fingerprint(settings.probe), versions())
        self.statistics = fingerprint(settings.statistics)
        self.seen: dict[int, str] = {}

    def of(self, part: Contestant | Representation) -> str:
        """The fingerprint of a contestant or of a member."""
        if id(part) not in self.seen:
            self.seen[id(part)] = part.fingerprint()
        return self.seen[id(part)]


def choice_jobs(inputs: TaskInputs, plan: Sequence[Part], keys: Keys) -> list[ChoiceJob]:
    """One for every (first fold, member, probe) of the plan, in its order."""
    jobs: dict[str, ChoiceJob] = {}
    for part in plan:
        first = inputs.of(part)[0]
        for member in part.contestant.members:
            choice = choice_of(inputs, first, member, part.probe, keys)
            jobs.setdefault(choice.key, ChoiceJob(choice, first, member))
    return list(jobs.values())


def choice_of(inputs: TaskInputs, fold: Fold, member: Representation, probe: str, keys: Keys) -> Choice:
    """What the hyper-parameters of a probe on a member are filed under."""
    key = key_of(*keys.shared, fold.fingerprint(), member.name, keys.of(member), probe, PROBE_SEED)
    return Choice(inputs.task.name, fold.name, member.name, probe, key)


def group_jobs(
    inputs: TaskInputs, plan: Sequence[Part], chosen: Mapping[str, dict[str, float]], keys: Keys
) -> list[GroupJob]:
    """Every group of the plan, part after part, fold after fold; `chosen` by the key of the choice."""
    jobs = []
    for part in plan:
        first = inputs.of(part)[0]
        how = tuple(
            chosen[choice_of(inputs, first, member, part.probe, keys).key] for member in part.contestant.members
        )
        jobs += [
            GroupJob(_group(part, fold, how, inputs, keys), fold, part.contestant, how) for fold in inputs.of(part)
        ]
    return jobs


def _group(part: Part, fold: Fold, chosen: tuple[dict[str, float], ...], inputs: TaskInputs, keys: Keys) -> CellGroup:
    one = part.contestant
    followed = (fold.fingerprint(), one.name, keys.of(one), chosen, part.fit, part.complete_rows, part.patterns)
    return CellGroup(
        section=part.section,
        task=inputs.task.name,
        fold=fold.name,
        representation=one.name,
        model=one.model,
        probe=part.probe,
        seed=one.seed,
        fitting=part.fitting,
        fit=part.fit,
        complete_rows=part.complete_rows,
        patterns=part.patterns,
        key=key_of(*keys.shared, keys.statistics, *followed, part.probe, PROBE_SEED),
    )
