"""The protocol: who is fitted on what, and the table of independent cell groups.

    fusion model   trained on the pool, without labels; frozen here
    statistics     mean and std of every modality over the pool's training rows (they come with the model)
    ridge imputers pool rows (at most `imputers.pool_rows`), penalty chosen on held rows; never see a task
    scaler, head   training rows of the task, with everything that is naturally present visible; a training row in
                   which the representation has nothing visible is left out
    C              one grid for all; chosen on the task's validation rows, else by inner folds of the training rows
    test rows      all of them, always: each head is transferred unchanged to every subset of visible modalities. A
                   molecule that shows nothing gets the share of each class among all labelled training rows, the same
                   number for every representation, and is counted (`unscored`)

A cell is one value of one metric: task x representation x visible subset x probe x seed. Cells that share a head form
a group; a group is the unit of work, and of what a killed evaluation keeps. To add a representation, edit
representations.py; a way of hiding, patterns.py; a metric, scores/metrics.py; a probe, probes.py and `_fit` below.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float
from pydantic import Field
from threadpoolctl import threadpool_limits

from dynfusion.evaluation.hiding.patterns import Pattern
from dynfusion.evaluation.probes.prior import prior
from dynfusion.evaluation.probes.probe import PROBES, Head, ProbeSettings, ProbeTask
from dynfusion.evaluation.representations.features import (
    CONCAT_RIDGE,
    FUSED,
    Encoded,
    Features,
    features,
    patterns_of,
    representation_names,
)
from dynfusion.evaluation.representations.imputers import Imputers, ImputerSettings
from dynfusion.evaluation.scores.metrics import metrics_of
from dynfusion.evaluation.scores.resampling import (
    StatisticsSettings,
    interval,
    metrics_resamples,
    resample_counts,
)
from dynfusion.evaluation.tasks.task import TaskData
from dynfusion.settings import Settings, fingerprint

PROTOCOL_VERSION = 1


class EvaluationSettings(Settings):
    """Everything that changes a number of the report."""

    pool: str | None = Field(None, description="dataset the model was trained on, where it moved since training")
    seeds: tuple[int, ...] = Field((0,), min_length=1, description="seeds of the probes (their inner folds)")
    probe: ProbeSettings = ProbeSettings()
    imputers: ImputerSettings = ImputerSettings()
    statistics: StatisticsSettings = StatisticsSettings()


@dataclass(frozen=True)
class CellGroup:
    """One head and all the patterns it is transferred to."""

    task: str
    representation: str
    model: str | None
    """Name of the fusion model, None for a representation that needs none."""
    probe: str
    seed: int
    key: str
    """Fingerprint of everything its numbers follow from."""

    @property
    def name(self) -> str:
        """File name without ending, unique in an evaluation."""
        parts = [self.task, self.representation, self.model, self.probe, str(self.seed)]
        text = "__".join(part for part in parts if part)
        plain = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in text)
        return f"{plain}__{hashlib.sha256(text.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class GroupInputs:
    """What one group needs; the task in standardised units."""

    task: TaskData
    imputers: Imputers | None
    encoded: Encoded | None


@dataclass(frozen=True)
class EvaluationInputs:
    """What all groups need, each part once."""

    tasks: Mapping[str, TaskData]
    """In standardised units."""
    imputers: Imputers
    encoded: Mapping[tuple[str, str], Encoded]
    """By task and model."""
    settings: EvaluationSettings

    def of(self, group: CellGroup) -> GroupInputs:
        """The parts that one group reads."""
        return GroupInputs(
            task=self.tasks[group.task],
            imputers=self.imputers if group.representation == CONCAT_RIDGE else None,
            encoded=self.encoded[group.task, group.model] if group.model is not None else None,
        )


@dataclass(frozen=True)
class GroupResult:
    """Numbers of one group; arrays are ordered as `patterns`."""

    group: CellGroup
    patterns: tuple[Pattern, ...]
    scores: Float[np.ndarray, "patterns molecules outputs"]
    resampled: dict[str, np.ndarray]
    """Per metric float64 [patterns, 1 + resamples]: the value, then its resamples."""
    unscored: tuple[int, ...]
    """Test molecules that showed nothing, per pattern."""
    inverse_penalty: float


def plan(inputs: EvaluationInputs, *, models: Sequence[str]) -> list[CellGroup]:
    """Every group of the evaluation in the order of its report."""
    settings = inputs.settings
    how = [fingerprint(settings.probe), fingerprint(settings.statistics)]
    groups = []
    for task in inputs.tasks.values():
        content = task.fingerprint()
        for representation in representation_names(task.modalities):
            for model in models if representation == FUSED else [None]:
                parts = [content, *how]
                if representation == CONCAT_RIDGE:
                    parts.append(inputs.imputers.fingerprint)
                if model is not None:
                    parts.append(inputs.encoded[task.name, model].fingerprint())
                groups += [
                    CellGroup(task.name, representation, model, "linear", seed, _key(representation, seed, parts))
                    for seed in settings.seeds
                ]
    return groups


def require_classes(task: TaskData) -> TaskData:
    """The task itself. Raises ValueError when its labels are neither binary nor classes."""
    if task.kind == "regression":
        raise ValueError(f"task {task.name}: its labels are real numbers, allowed are 0 and 1 or classes")
    return task


def _key(representation: str, seed: int, parts: list[str]) -> str:
    text = "|".join([str(PROTOCOL_VERSION), representation, str(seed), *parts])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def run_group(group: CellGroup, inputs: GroupInputs, settings: EvaluationSettings) -> GroupResult:
    """Fits the group's head and scores the test rows under every pattern; same bytes on any number of cores."""
    with threadpool_limits(limits=1):
        task = inputs.task
        head, inverse_penalty = _fit(group, inputs, settings)
        test, train = task.rows("test"), task.rows("train")
        patterns = tuple(patterns_of(group.representation, task.modalities))
        fallback = prior(task.labels[train], probe_task(task))
        counts = resample_counts(task.name, len(test), settings=settings.statistics)
        scores, unscored = [], []
        for pattern in patterns:
            shown = _features(group, inputs, test, pattern)
            score = np.tile(fallback, (len(test), 1))
            score[shown.usable] = head.scores(shown.values[shown.usable]) if shown.usable.any() else 0
            scores.append(score)
            unscored.append(int((~shown.usable).sum()))
        metrics = metrics_of(task.kind)
        found = [metrics_resamples(metrics, score, task.labels[test], counts) for score in scores]
        resampled = {metric: np.stack([one[metric] for one in found]) for metric in metrics}
        return GroupResult(group, patterns, np.stack(scores), resampled, tuple(unscored), inverse_penalty)


def probe_task(task: TaskData) -> ProbeTask:
    """What the probe is told about the labels."""
    return ProbeTask(task.kind, int(np.nanmax(task.labels)) + 1 if task.kind == "multiclass" else 0)


def _fit(group: CellGroup, inputs: GroupInputs, settings: EvaluationSettings) -> tuple[Head, float]:
    task = inputs.task
    usable_rows = []
    for part in ("train", "valid"):
        rows = task.rows(part)
        shown = _features(group, inputs, rows, None)
        labelled = shown.usable & ~np.isnan(task.labels[rows]).all(axis=1)
        usable_rows.append((shown.values[labelled], task.labels[rows][labelled]))
    train, valid = usable_rows
    if len(train[1]) < settings.probe.folds:
        raise ValueError(
            f"task {task.name}: {len(train[1])} labelled training rows have something of {group.representation} "
            f"present, allowed are {settings.probe.folds} or more"
        )
    probe, target = PROBES[group.probe], probe_task(task)
    chosen = probe.choose(train, valid, target=target, seed=group.seed, settings=settings.probe)
    head = probe.fit(train, target=target, chosen=chosen, seed=group.seed, settings=settings.probe)
    return head, chosen["inverse_penalty"]


def _features(group: CellGroup, inputs: GroupInputs, rows: np.ndarray, pattern: Pattern | None) -> Features:
    return features(
        group.representation,
        inputs.task,
        rows,
        pattern=pattern,
        imputers=inputs.imputers,
        encoded=inputs.encoded,
    )


def cell_records(result: GroupResult, task: TaskData, *, settings: StatisticsSettings) -> list[dict[str, object]]:
    """The group's cells as the report holds them: one record for every pattern and metric."""
    group, records = result.group, []
    shared = {"task": group.task, "split": task.split_name, "fold": None, "representation": group.representation}
    for row, pattern in enumerate(result.patterns):
        for metric, resamples in result.resampled.items():
            resampled = resamples[row]
            low, high = interval(resampled, confidence=settings.confidence)
            records.append(
                {
                    **shared,
                    "model": group.model,
                    **asdict(pattern),
                    "visible": list(pattern.visible),
                    "probe": group.probe,
                    "seed": group.seed,
                    "metric": metric,
                    "value": float(resampled[0]),
                    "low": low,
                    "high": high,
                    "molecules": result.scores.shape[1],
                    "unscored": result.unscored[row],
                    "inverse_penalty": result.inverse_penalty,
                }
            )
    return records
