"""Jobs of a sweep run through Ray Tune: which is next, what each told, how each ended, all said to `Work`.

    Work.next --> _Supply (searcher) --> Ray Tune --> TrialProcess --> train_on_ray
    Work.reported, ended, lost <-- _Ear (scheduler) <--+

Ray Tune starts, stops and restarts the processes. What it writes itself goes to a scratch folder and is never read: the
truth is in the sweep's records, and every command begins with a new Tuner over what is left.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from ray import tune
from ray.tune import Callback, CheckpointConfig, FailureConfig, RunConfig, Trainable, TuneConfig, Tuner
from ray.tune.error import TuneError
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from dynfusion.edges.ray_trial import MEMORY_BYTES, TrialProcess
from dynfusion.training.scratch import scratch_folder
from dynfusion.tuning.messages import JOB, TOLD, Ended, Job, Report

_QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # a folder of files for every trial
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is the command line's
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",  # of Tune's own state, which nobody reads
    "TUNE_WARN_THRESHOLD_S": "30",  # a bucket may take its time
    "TUNE_MAX_PENDING_TRIALS_PG": "1",  # the next one is drawn when there is room, and not before
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}


@runtime_checkable
class Work(Protocol):
    """Jobs to be run, and what becomes of what they tell."""

    def next(self) -> Job | None:
        """The next job to begin, None when all have begun."""

    def is_left(self) -> bool:
        """Whether there is a job to begin, after `next` had none."""

    def begun(self, job: str) -> None:
        """An attempt at it has a process."""

    def interrupted(self, job: str) -> None:
        """Its process was lost, and it is to have another one."""

    def reported(self, job: str, report: Report) -> bool:
        """A check of it; whether it ends here."""

    def ended(self, job: str, ended: Ended) -> None:
        """It has ended of itself; one that was postponed is handed out again, or left to another command."""

    def lost(self, job: str, why: str) -> None:
        """Its process was lost once too often, or before it had begun."""


def run_on_tune(
    work: Work, *, at_once: int, max_failures: int, debug: bool = False, process: type[Trainable] = TrialProcess
) -> None:
    """Run all jobs, so many at once, each again when a process of it is lost, at most `max_failures` times.

    `process` is what runs one job after the other, and tells of them. Needs a connected Ray. Raises RuntimeError when
    the sweep's own part failed, such as its records.
    """
    _run_once(work, at_once, max_failures, process, debug=debug)
    while work.is_left():  # postponed when Tune had been told that there is nothing more
        _run_once(work, at_once, max_failures, process, debug=debug)


def _run_once(work: Work, at_once: int, max_failures: int, process: type[Trainable], *, debug: bool) -> None:
    here = _Here(work)
    with scratch_folder("tune") as scratch, _quiet(debug):
        tuner = Tuner(
            tune.with_resources(process, {"memory": MEMORY_BYTES}),
            tune_config=TuneConfig(
                search_alg=_Supply(here),
                scheduler=_Ear(here),
                num_samples=-1,
                max_concurrent_trials=at_once,
                reuse_actors=True,
                trial_name_creator=_name,
                trial_dirname_creator=lambda trial: trial.trial_id,  # a job may have several trials of Tune
            ),
            run_config=RunConfig(
                name="sweep",
                storage_path=str(scratch),
                failure_config=FailureConfig(max_failures=max_failures),
                checkpoint_config=CheckpointConfig(checkpoint_at_end=False),  # a trial's are its run's
                callbacks=[_Begins(here)],
                verbose=0,
            ),
        )
        try:
            tuner.fit()
        except TuneError as error:
            raise RuntimeError(f"sweep: {_last_line(str(error))} (--debug shows more)") from error


class _Here:
    """The work of this process: Tune pickles what it is given, into files that nobody reads."""

    def __init__(self, work: Work | None) -> None:
        self.work = work

    def __reduce__(self) -> tuple[type, tuple[None]]:
        return _Here, (None,)

    def __deepcopy__(self, _: dict) -> "_Here":
        return self

    def __call__(self) -> Work:
        assert self.work is not None
        return self.work


class _Supply(Searcher):
    """Hands out jobs as Tune asks for them."""

    def __init__(self, work: _Here) -> None:
        super().__init__()
        self.work = work

    def suggest(self, trial_id: str) -> dict[str, Job] | str:
        job = self.work().next()
        # At once, though a job may yet be postponed: until then Tune would keep the process of a stopped trial, and so
        # its run, for a next one.
        return Searcher.FINISHED if job is None else {JOB: job}

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        """`_Ear` has heard it."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing is kept here."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing is kept here."""


class _Ear(FIFOScheduler):
    """Hears every result; jobs run in the order in which they were handed out."""

    def __init__(self, work: _Here) -> None:
        super().__init__()
        self.work = work

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        stops = self.work().reported(_name(trial), result[TOLD])
        return TrialScheduler.STOP if stops else TrialScheduler.CONTINUE

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        told = result[TOLD]
        if isinstance(told, Ended):  # else it ends because `reported` said so
            self.work().ended(_name(trial), told)


class _Begins(Callback):
    """Hears what a scheduler does not: that a process has begun, that none will any more."""

    def __init__(self, work: _Here) -> None:
        self.work = work

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self.work().begun(_name(trial))

    def on_trial_recover(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self.work().interrupted(_name(trial))

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        file = trial.error_file
        self.work().lost(_name(trial), _last_line(Path(file).read_text(errors="replace") if file else ""))


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason is known"


def _name(trial: Any) -> str:
    return trial.config[JOB].id


@contextmanager
def _quiet(debug: bool) -> Iterator[None]:
    """Without Tune's own tables and logs; the environment is as before afterwards."""
    log = logging.getLogger("ray.tune")
    before, level = dict(os.environ), log.level
    os.environ.update({name: value for name, value in _QUIET.items() if name not in before})
    if not debug:
        log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)
        for name in _QUIET.keys() - before.keys():
            os.environ.pop(name, None)
