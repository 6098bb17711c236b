"""One trial's process: the driver of an ordinary training run, which tells Ray Tune of every check.

    Ray Tune: setup, step, step, ... ----> queue <-- thread: train_on_ray --> Ray Train's controller and workers
              reset, step of the next one -> halt --------^

The process takes no CPU and serves one trial after the other: importing torch takes seconds, a reset none. All work is
done in `step`: Ray Tune tries a trial again whose process is lost there, but not one whose process is lost in a reset.
"""

import json
import os
import queue
import threading
from collections.abc import Iterator
from typing import Any

from ray.exceptions import GetTimeoutError, RayError, RayTaskError
from ray.tune import Trainable

from dynfusion.edges.ray_board import Record, Watch
from dynfusion.edges.ray_cluster import NoRoomError
from dynfusion.edges.ray_halt import Halt, HaltedError
from dynfusion.edges.ray_train import UnfinishedError, train_on_ray
from dynfusion.edges.ray_validation import Validator
from dynfusion.edges.retry import FAILURES, one_line
from dynfusion.edges.s3_storage import below, open_storage
from dynfusion.run_settings import RunSettings
from dynfusion.settings import build
from dynfusion.training.checkpoint import MODEL, checkpoint_names, step_of
from dynfusion.training.checks import VALIDATION
from dynfusion.training.lease import HeldError
from dynfusion.training.run_folder import TRAINING
from dynfusion.training.storage import Storage
from dynfusion.tuning.book import OPEN
from dynfusion.tuning.messages import JOB, TOLD, Ended, Job, Report
from dynfusion.tuning.records import read_trial

MEMORY_BYTES = 500_000_000
"""Of the process, for the cluster's accounts; it takes no CPU."""
_HELD_SECONDS = 10.0
"""Before a run that another driver holds is tried again."""
_QUICK = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5"}
"""How often Ray Train's controller looks: the end of a short trial must not wait seconds to be seen."""


class TrialProcess(Trainable):
    """Ray Tune's side of a trial. Every result holds one `Report` or, with `done`, one `Ended`."""

    def setup(self, config: dict[str, Any]) -> None:
        for name, value in _QUICK.items():
            os.environ.setdefault(name, value)
        self.job: Job = config[JOB]
        self.run: JobRun | None = None

    def step(self) -> dict[str, Any]:
        try:
            if self.run is None or self.run.job is not self.job:
                self.cleanup()
                self.run = JobRun(self.job)
            told = self.run.next()
        except ValueError as error:
            if not isinstance(error.__cause__, FAILURES):
                raise
            told = Ended("postponed", str(error), 0.0)  # a store that was tried long enough
        return {TOLD: told, "done": isinstance(told, Ended)}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.job = new_config[JOB]
        return True

    def cleanup(self) -> None:
        if self.run is not None:
            self.run.end()


class JobRun:
    """One job under way: a thread that drives its run, and what it has to tell."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.settings = build(RunSettings, job.settings)
        self.folder = below(self.settings.cluster.storage, self.settings.cluster.name)
        self.storage = open_storage(self.folder)
        self.halt = Halt(job.held)
        self.told: queue.SimpleQueue[Report | Ended | BaseException] = queue.SimpleQueue()
        self.step, self.seconds = 0, 0.0
        self.told_step = 0
        self.thread = threading.Thread(target=self._run, name=f"run {job.id}", daemon=True)
        for report in self._kept():
            self.told.put(report)

    def next(self) -> Report | Ended:
        """What it tells next, once there is something. Raises what Ray raised when a process was lost.

        What a killed attempt had scored is told before this one begins. Whoever asks again lets the run go on from what
        it was told last.
        """
        self.halt.release(self.told_step)
        if self.told.empty() and self.thread.ident is None:
            self.thread.start()
        told = self.told.get()
        if isinstance(told, BaseException):
            raise told
        if isinstance(told, Report):
            self.told_step = told.step
        return told

    def end(self) -> None:
        """Return once the run has ended, by itself or by force; the checkpoints of one that is over go."""
        if self.thread.ident is not None:
            self.halt.pull()
            self.thread.join()
        if self._is_over():
            discard_checkpoints(self.storage)

    def _run(self) -> None:
        try:
            train_on_ray(self.settings, Watch(self._record, lambda _: None, self._validated), self.halt)
            for report in self._kept():  # what the board lost
                self.told.put(report)
            self.told.put(self._finished())
        except HaltedError:
            pass
        except (NoRoomError, HeldError, UnfinishedError) as error:  # no fault of the settings: it may go better later
            self.halt.pulled.wait(_HELD_SECONDS if isinstance(error, HeldError) else 0)
            self.told.put(Ended("postponed", str(error), self.seconds))
        except RayError as error:
            self.told.put(error)
        except (ValueError, RuntimeError) as error:
            passes = isinstance(error.__cause__, FAILURES)  # a store that was tried long enough
            self.told.put(Ended("postponed" if passes else "failed", str(error), self.seconds))
        except BaseException as error:
            self.told.put(error)

    def _finished(self) -> Ended:
        ended = json.loads(self.storage.read(f"{MODEL}/{TRAINING}"))["ended"]["step"]
        if self.step < ended:
            lacking = f"its check at step {ended} is missing"
            try:
                self.told.put(self._report(ended, self._scored_again(ended)))
            except (LookupError, ValueError, RayError) as error:
                why = error.cause if isinstance(error, RayTaskError) else error
                passes = isinstance(why, FAILURES) and not isinstance(why, GetTimeoutError)
                return Ended("postponed" if passes else "failed", f"{lacking}: {one_line(why)}", self.seconds)
        discard_checkpoints(self.storage)
        return Ended("finished", None, self.seconds)

    def _scored_again(self, step: int) -> dict[str, float]:
        """The last check of a run whose model is there; whoever should have scored it was lost, or the store was away.

        Raises LookupError when the checkpoint is gone, else as `Validator.score`.
        """
        names = [name for name in checkpoint_names(self.storage) if step_of(name) == step]
        if not names:
            raise LookupError(f"the last one is of step {self.step}" if self.step else "there is none")
        validator = Validator(self.settings.model_dump(mode="json"), self.folder, None)
        limit = self.settings.validation.timeout_seconds
        return validator.score(names[-1], lambda text: None, limit=limit)

    def _record(self, made: Record) -> None:
        self.seconds += made["step_seconds"] * (made["step"] - self._record_before(made["step"]))

    def _record_before(self, step: int) -> int:
        train = self.settings.train
        return max((step - 1) // every * every for every in (train.log_every_steps, train.checkpoint_every_steps))

    def _validated(self, made: Record) -> None:
        if made["step"] > self.step:
            self.told.put(self._report(made["step"], made[VALIDATION]))

    def _report(self, step: int, metrics: dict[str, float]) -> Report:
        self.step = step
        return Report(step, step * self.settings.train.global_batch_rows, metrics, self.seconds)

    def _kept(self) -> Iterator[Report]:
        """The checks of the run's folder that have not been told, in order."""
        files = [name for name in self.storage.sizes(VALIDATION) if name.endswith(".json") and not name.startswith(".")]
        found = [json.loads(self.storage.read(f"{VALIDATION}/{name}")) for name in sorted(files)]
        for check in sorted(found, key=lambda check: check["step"]):
            if check["step"] > self.step:
                yield self._report(check["step"], check["metrics"])

    def _is_over(self) -> bool:
        """Whether the sweep's records say that it ends here; else the sweep itself was ended, and will go on."""
        try:
            return read_trial(open_storage(self.job.sweep), self.job.id).state not in OPEN
        except FileNotFoundError:  # a run with a fresh seed, which goes on unless it is finished
            return False


def discard_checkpoints(storage: Storage) -> None:
    """Nobody goes on with a trial that is over: its model, where it has one, its checks and its history stay."""
    for name in checkpoint_names(storage):
        storage.remove(name)
