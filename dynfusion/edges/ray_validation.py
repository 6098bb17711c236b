"""Checkpoints scored while training goes on, as Ray Train validation tasks; no worker waits before the next check.

    worker: report(validation=True) --> Ray Train: task Validator(checkpoint) --> <run>/validation/<checkpoint>.json
    worker, at the next check: wait_for_score <-----------------------------------------+

The task asks for no CPU of the cluster: it starts even where workers hold them all, and then shares theirs. A score
that Ray lost, because a driver died before it had registered a checkpoint, is worked out by whoever needs it: the same
floats, since a score is a function of the checkpoint's weights and the settings.
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.train
from ray.train import (
    Checkpoint,
    CheckpointConfig,
    ReportedCheckpoint,
    ReportedCheckpointStatus,
    ValidationConfig,
    ValidationTaskConfig,
)

from dynfusion.edges.datasets import open_dataset
from dynfusion.edges.ray_board import Voice
from dynfusion.edges.s3_storage import below, open_storage
from dynfusion.evaluation.tasks.task import TaskData, read_task
from dynfusion.evaluation.validation import METRICS, checkpoints_between_checks, validate, validation_line
from dynfusion.fusion.api import FusionModel
from dynfusion.run_settings import RunSettings
from dynfusion.settings import build
from dynfusion.store.manifest import Manifest
from dynfusion.training.checkpoint import MODEL, checkpoint_names, problem, step_of
from dynfusion.training.checks import VALIDATION, Checks, Patience
from dynfusion.training.loop import Plan
from dynfusion.training.storage import exists

_WORTH_SAYING_SECONDS = 10.0


@dataclass(frozen=True)
class Validator:
    """Scores the checkpoints of one run, each once; what it finds is in the run's folder, a line on its board."""

    settings: dict[str, Any]
    folder: str
    board: Any

    def __call__(self, checkpoint: Checkpoint) -> dict[str, float]:
        """What Ray Train adds to a checkpoint's metrics."""
        found = self.score(Path(checkpoint.path).name, Voice(self.board, quiet=False).say)
        return {f"{VALIDATION}.{name}": value for name, value in found.items()}

    def score(self, name: str, say: Callable[[str], None]) -> dict[str, float]:
        """The metrics of a checkpoint of the run, from its `model/` alone unless they are known already.

        Raises ValueError when its model cannot be read, or does not fit the data.
        """
        storage = open_storage(self.folder)
        path = score_path(name)
        if exists(storage, path):
            return json.loads(storage.read(path))["metrics"]
        settings = build(RunSettings, self.settings)
        with storage.local(f"{name}/{MODEL}") as folder:
            model = FusionModel.load(folder)
        dataset = open_dataset(settings.data.uris[0], cache=settings.data)
        metrics = validate(model, dataset, read_tasks(settings), settings.validation)
        storage.write(path, (json.dumps({"step": step_of(name), "metrics": metrics}) + "\n").encode())
        say(validation_line(step_of(name), metrics))
        return metrics


def validation_config(validator: Validator) -> ValidationConfig:
    """Ray Train's part: the function, how long it may take, and that its task waits for no CPU."""
    limit = ValidationTaskConfig(timeout_s=validator.settings["validation"]["timeout_seconds"])
    return ValidationConfig(fn=validator, task_config=limit, ray_remote_kwargs={"num_cpus": 0})


def checkpoint_config(settings: RunSettings) -> CheckpointConfig:
    """Which checkpoints Ray Train keeps: the last and those waiting for a score always, else the latest or the best."""
    kept, metric = settings.train.keep_checkpoints, settings.validation.keep_best_by
    if metric == "none":
        return CheckpointConfig(num_to_keep=kept)
    if metric == "loss":
        return CheckpointConfig(num_to_keep=kept, checkpoint_score_attribute=metric, checkpoint_score_order="min")
    return CheckpointConfig(num_to_keep=kept, checkpoint_score_attribute=f"{VALIDATION}.{metric}")


def make_checks(settings: RunSettings, manifest: Manifest, plan: Plan) -> Checks:
    """At which steps this run is validated. Raises ValueError when it is asked for and there is nothing to look at."""
    every = checkpoints_between_checks(settings.validation, manifest)
    return Checks(every * settings.train.checkpoint_every_steps, plan.total_steps)


def patience(settings: RunSettings) -> Patience:
    """When validation ends this run."""
    return Patience(settings.validation.patience, settings.validation.min_improvement)


def read_tasks(settings: RunSettings) -> dict[str, TaskData]:
    """The labelled sets of `validation.tasks`. Raises ValueError as `read_task` does."""
    found = settings.validation.tasks
    return {name: read_task(name, open_dataset(uri, cache=settings.data)) for name, uri in found.items()}


def unscored(settings: RunSettings) -> dict[str, float]:
    """What a checkpoint reports of the number it may be kept by until it is validated: Ray ranks NaN last."""
    metric = settings.validation.keep_best_by
    return {f"{VALIDATION}.{metric}": math.nan} if metric in METRICS else {}


def wait_for_score(validator: Validator, check: int, say: Callable[[str], None]) -> dict[str, float]:
    """The metrics of the check at a step, worked out here when no task did; as `known_score`.

    Called in a worker. Returns when Ray has no validation of this run left to do, so there is never more than one; or
    after `validation.timeout_seconds`: then a check that only watches is given up, aloud, and its metrics are empty.
    """
    limit = validator.settings["validation"]["timeout_seconds"]
    first, started = min(_WORTH_SAYING_SECONDS, limit), time.monotonic()
    reported = ray.train.get_all_reported_checkpoints(timeout_s=first)
    if first <= time.monotonic() - started < limit:
        say(f"training waits for step {check}'s validation, at most {limit:.0f} s")
        reported = ray.train.get_all_reported_checkpoints(timeout_s=limit - first)
        waited = time.monotonic() - started
        say(f"it waited {waited:.0f} s for step {check}'s validation: validation.every_checkpoints is too small")
    status, waited = _status(reported, check), time.monotonic() - started
    over = status == ReportedCheckpointStatus.VALIDATION_TIMEOUT or (
        waited >= limit and status != ReportedCheckpointStatus.VALIDATED
    )
    if over and not validator.settings["validation"]["patience"]:
        say(f"step {check} was not validated within {limit:g} s (validation.timeout_seconds)")
        return {}
    return known_score(validator, check, say)


def _status(reported: Sequence[ReportedCheckpoint], check: int) -> ReportedCheckpointStatus | None:
    """What Ray has made of a check's checkpoint, None where it knows none."""
    found = [one.status for one in reported if step_of(Path(one.checkpoint.path).name) == check]
    return found[-1] if found else None


def known_score(validator: Validator, check: int, say: Callable[[str], None]) -> dict[str, float]:
    """The metrics of the check at a step, read or worked out here; empty, aloud, when that cannot be.

    Raises ValueError as `Validator.score` where the run's end depends on it; watching ends no run.
    """
    scores = open_storage(below(validator.folder, VALIDATION))
    for file in reversed(scores.names()):
        if file.endswith(".json") and step_of(file) == check:
            return json.loads(scores.read(file))["metrics"]
    storage = open_storage(validator.folder)
    for name in reversed(checkpoint_names(storage)):
        if step_of(name) == check:
            with storage.local(name) as folder:
                whole = problem(folder) is None
            if whole:
                return _score_or_say_why_not(validator, name, say)
    say(f"step {check} was not validated: its checkpoint is gone")
    return {}


def _score_or_say_why_not(validator: Validator, name: str, say: Callable[[str], None]) -> dict[str, float]:
    try:
        return validator.score(name, say)
    except ValueError as error:
        if validator.settings["validation"]["patience"]:
            raise
        say(f"step {step_of(name)} was not validated: {error}")
        return {}


def score_path(name: str) -> str:
    """Where the metrics of a checkpoint are kept."""
    return f"{VALIDATION}/{name}.json"
