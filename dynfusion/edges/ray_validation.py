"""Checkpoints scored while training goes on, as Ray Train validation tasks; no worker waits before the next check.

    worker: report(validation=True) --> Ray Train: task Validator(checkpoint) --> task of its own: work out
    worker, at the next check: wait_for_score <-- <run>/validation/<checkpoint>.json <--+

The tasks ask for no CPU of the cluster: they start even where workers hold them all, and then share theirs. What works
a score out may be killed for its memory or crash in native code; so it is a process of its own, whose end ends neither
Ray Train's controller nor a worker. A score that was lost so, or with a driver that died before it had registered a
checkpoint, is worked out once more by whoever needs it: the same floats, since a score is a function of the
checkpoint's weights and the settings.
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError, TaskCancelledError
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
from dynfusion.edges.ray_tasks import result
from dynfusion.edges.references import open_reference
from dynfusion.edges.retry import FAILURES, one_line
from dynfusion.edges.s3_storage import below, open_storage
from dynfusion.evaluation.tasks.task import TaskData, read_task
from dynfusion.evaluation.validation import checkpoints_between_checks, validate, validation_line
from dynfusion.evaluation.validation_settings import METRICS
from dynfusion.fusion.api import FusionModel
from dynfusion.run_settings import RunSettings
from dynfusion.settings import build
from dynfusion.store.manifest import Manifest
from dynfusion.training.checkpoint import MODEL, checkpoint_names, problem, step_of
from dynfusion.training.checks import VALIDATION, Checks, Patience
from dynfusion.training.loop import Plan
from dynfusion.training.storage import exists

_WORTH_SAYING_SECONDS = 10.0
_SETTLED_SECONDS, _LOOK_SECONDS = 10.0, 0.1
"""After a check has been scored: time for the driver to decide; and between two looks whether it has."""


@dataclass(frozen=True)
class Validator:
    """Scores the checkpoints of one run, each once; what it finds is in the run's folder, a line on its board."""

    settings: dict[str, Any]
    folder: str
    board: Any
    held: tuple[int, ...] = ()
    """Checks, by step, at which training waits until the driver has decided whether it goes on."""

    def __call__(self, checkpoint: Checkpoint) -> dict[str, float]:
        """What Ray Train adds to a checkpoint's metrics; nothing, aloud, when the process that scores it is lost."""
        name, say = Path(checkpoint.path).name, Voice(self.board, quiet=False).say
        try:
            found = self.score(name, say)
        except (RayTaskError, TaskCancelledError):  # Ray Train knows what these mean
            raise
        except RayError as error:
            say(f"step {step_of(name)} was not validated yet: its process is lost, {one_line(error)}")
            return {}
        return {f"{VALIDATION}.{metric}": value for metric, value in found.items()}

    def score(self, name: str, say: Callable[[str], None], *, limit: float | None = None) -> dict[str, float]:
        """The metrics of a checkpoint of the run; worked out in a process of its own unless they are known already.

        Raises ValueError as `work_out`, RayError when that process is lost, or takes longer than `limit` seconds: then
        it is ended.
        """
        storage, path = open_storage(self.folder), score_path(name)
        if exists(storage, path):
            return json.loads(storage.read(path))["metrics"]
        task = _WORK_OUT.remote(self, name)
        try:
            metrics = result(task, timeout=limit)
        except GetTimeoutError:
            ray.cancel(task, force=True)
            raise
        Voice(self.board, quiet=self.board is None).validated({"step": step_of(name), VALIDATION: metrics})
        say(validation_line(step_of(name), metrics))
        return metrics

    def work_out(self, name: str) -> dict[str, float]:
        """The metrics of a checkpoint, from its `model/` alone; they are in the run's folder then.

        Raises ValueError when its model cannot be read, or does not fit the data.
        """
        storage = open_storage(self.folder)
        settings = build(RunSettings, self.settings)
        with storage.local(f"{name}/{MODEL}") as folder:
            model = FusionModel.load(folder)
        dataset = open_dataset(settings.data.uris[0], cache=settings.data)
        reference = open_reference(settings.validation, dataset.manifest)
        metrics = validate(model, dataset, read_tasks(settings), settings.validation, reference)
        content = json.dumps({"step": step_of(name), "metrics": metrics}) + "\n"
        storage.write(score_path(name), content.encode())
        return metrics


def _work_out(validator: Validator, name: str) -> dict[str, float]:
    """`work_out` as a task. Ray carries no cause of an error, so that of a store is told by the type alone.

    Raises ConnectionError when a file or a store was not to be read, ValueError as `work_out`.
    """
    try:
        return validator.work_out(name)
    except ValueError as error:
        if isinstance(error.__cause__, FAILURES):
            raise ConnectionError(str(error)) from error
        raise


_WORK_OUT = ray.remote(num_cpus=0, max_retries=0)(_work_out)


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
    """The metrics of the check at a step, worked out once more when no task of Ray Train did; as `known_score`.

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
        say(f"it waited {waited:.0f} s for it: a larger validation.every_checkpoints leaves more time")
    status, waited = _status(reported, check), time.monotonic() - started
    over = status == ReportedCheckpointStatus.VALIDATION_TIMEOUT or (
        waited >= limit and status != ReportedCheckpointStatus.VALIDATED
    )
    if over and not validator.settings["validation"]["patience"]:
        say(f"step {check} was not validated within {limit:g} s (validation.timeout_seconds)")
        return {}
    return known_score(validator, check, say)


def wait_for_release(validator: Validator, check: int) -> None:
    """Return when the driver lets the run go on from a check, or when nothing says any more that it will.

    That is: the board is lost, `validation.timeout_seconds` are over, or the check has been dealt with for a while.
    """
    started, settled = time.monotonic(), 0
    while time.monotonic() - started < validator.settings["validation"]["timeout_seconds"]:
        until = time.monotonic() + _SETTLED_SECONDS
        while time.monotonic() < until:
            try:
                if ray.get(validator.board.is_released.remote(check)):
                    return
            except RayActorError:
                return
            time.sleep(_LOOK_SECONDS)
        status = _status(ray.train.get_all_reported_checkpoints(timeout_s=_LOOK_SECONDS), check)
        settled += status not in (None, ReportedCheckpointStatus.PENDING_VALIDATION)
        if settled > 1:
            return


def _status(reported: Sequence[ReportedCheckpoint], check: int) -> ReportedCheckpointStatus | None:
    """What Ray has made of a check's checkpoint, None where it knows none."""
    found = [one.status for one in reported if step_of(Path(one.checkpoint.path).name) == check]
    return found[-1] if found else None


def known_score(validator: Validator, check: int, say: Callable[[str], None]) -> dict[str, float]:
    """The metrics of the check at a step, read or worked out once more; empty, aloud, when that cannot be.

    Raises ValueError where the run's end depends on it: as `Validator.score`, and when the process that works it out is
    lost or takes longer than `validation.timeout_seconds`. Watching ends no run.
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
    limit, cause = validator.settings["validation"]["timeout_seconds"], None
    try:
        return validator.score(name, say, limit=limit)
    except GetTimeoutError:
        why = f"it took longer than {limit:g} s (validation.timeout_seconds)"
    except ValueError as error:
        if validator.settings["validation"]["patience"]:
            raise
        why = str(error)
    except RayTaskError as error:
        why, cause = one_line(error.cause), error.cause
    except RayError as error:
        why = f"its process is lost, {one_line(error)}"
    why = f"step {step_of(name)} was not validated: {why}"
    if validator.settings["validation"]["patience"]:
        raise ValueError(f"{why}; validation.patience needs every score") from cause
    say(why)
    return {}


def score_path(name: str) -> str:
    """Where the metrics of a checkpoint are kept."""
    return f"{VALIDATION}/{name}.json"
