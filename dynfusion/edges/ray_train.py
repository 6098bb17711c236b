"""Training on Ray: Ray Train starts the workers, restarts them after a failure and keeps their checkpoints.

    driver: train_on_ray --TorchTrainer--> worker x N: ray_worker.run_worker --> training.loop
       ^                                      |
       +---- ray_board <----------------------+   checkpoints --> <storage>/<name>/checkpoint-<step>-<attempt>

The run's folder is the resume key: the same command continues from its last whole checkpoint, or says it is finished.
"""

import signal
import threading
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from dynfusion.edges.absolute_paths import with_absolute_paths
from dynfusion.edges.datasets import open_sources
from dynfusion.edges.deepspeed_config import configuration
from dynfusion.edges.ray_board import Watch, ended_by, watched_board
from dynfusion.edges.ray_cluster import wait_for
from dynfusion.edges.ray_failures import EndForGood
from dynfusion.edges.ray_halt import Halt
from dynfusion.edges.ray_snapshot import tidy
from dynfusion.edges.ray_validation import (
    Validator,
    checkpoint_config,
    known_score,
    make_checks,
    patience,
    read_tasks,
    score_path,
    validation_config,
)
from dynfusion.edges.ray_worker import run_worker
from dynfusion.edges.references import open_reference
from dynfusion.edges.retry import FAILURES, one_line
from dynfusion.edges.s3_address import is_s3, parse_s3
from dynfusion.edges.s3_clients import filesystem
from dynfusion.edges.s3_storage import below, load_model, open_storage
from dynfusion.edges.tracking import Tracker, require_trackers, tracker
from dynfusion.evaluation.validation import check_task
from dynfusion.run_settings import RunSettings, identity, reidentified
from dynfusion.training.assemble import check_shares, make_mixture, make_objective, make_plan, start_from
from dynfusion.training.checkpoint import checkpoint_names, latest, problem, read_history, read_state, step_of
from dynfusion.training.checks import VALIDATION, Checks, best_step, validated
from dynfusion.training.lease import STORE_SECONDS, Hold, driving
from dynfusion.training.loop import Plan, Record
from dynfusion.training.run_folder import Ending, claim, finish, finished
from dynfusion.training.sources import Sources
from dynfusion.training.storage import Storage, exists


class UnfinishedError(RuntimeError):
    """Ray Train ended a run before its end, and said no reason; its last checkpoint stays."""


def train_on_ray(settings: RunSettings, watch: Watch, halt: Halt | None = None) -> str:
    """Train to the end and return the run's folder, with the trained model in `model/`; needs a connected Ray.

    `halt` ends it before, from another thread: HaltedError is raised then, and the same call continues. At the checks
    that it holds, training waits until it is released.

    Raises ValueError for settings, data or a run folder that do not fit, and for training that left finite numbers.
    """
    settings = with_absolute_paths(settings)
    sources = open_sources(settings.data)
    checks = check_run(settings, sources)
    folder = below(settings.cluster.storage, settings.cluster.name)
    storage = open_storage(folder)
    require_writable(settings.cluster.storage)
    with driving(open_storage(folder, deadline_seconds=STORE_SECONDS), watch.say) as hold:
        mine = identity(settings, sources.fingerprint)
        claim(storage, settings.model_dump(mode="json"), mine, watch.say, lambda tree: reidentified(tree, mine.data))
        if finished(storage, settings.train.epochs):
            watch.say(f"run {storage.address} is already finished")
        else:
            _train(settings, sources, checks, hold, watch, folder=folder, halt=halt or Halt())
    return folder


def _train(
    settings: RunSettings, sources: Sources, checks: Checks, hold: Hold, watch: Watch, *, folder: str, halt: Halt
) -> None:
    storage = open_storage(folder)
    with latest(storage, watch.say) as last:  # what no worker could continue from is refused before there are any
        history = read_history(last[1]) if last else []
    _tidy(settings, storage, checks, last[0] if last else None, watch)
    resources = worker_resources(settings)
    wait_for([resources] * settings.cluster.workers[0], deadline_seconds=settings.cluster.start_deadline_seconds)
    with tracker(storage, settings.tracking, history, watch.say) as tracked:
        with watched_board(_both(watch, tracked)) as board, halt.ends_what_watches(board):
            validator = Validator(settings.model_dump(mode="json"), folder, board, halt.held)
            _fit(make_trainer(settings, validator, checks), board)
        _finish(settings, sources, validator, checks, hold, watch, tracked)


def _tidy(settings: RunSettings, storage: Storage, checks: Checks, chosen: str | None, watch: Watch) -> None:
    """Make the run's folder one that Ray Train starts in, without what a killed driver left behind."""

    def wanted(name: str) -> bool:  # it may be the best, or still have to be scored
        scored = exists(storage, score_path(name)) or not checks.due(step_of(name))
        return settings.validation.keep_best_by != "none" or not scored

    tidy(storage, chosen, settings.train.keep_checkpoints, wanted=wanted, say=watch.say)


def _both(watch: Watch, tracked: Tracker) -> Watch:
    def record(made: Record) -> None:
        tracked.record(made)
        if VALIDATION not in made:  # `validated` has had that one as soon as it was scored
            watch.record(made)

    return Watch(record, watch.say, watch.validated)


def make_trainer(settings: RunSettings, validator: Validator, checks: Checks) -> TorchTrainer:
    """Ray Train's part of a run: how many workers, with what, how often again, and what becomes of checkpoints."""
    fewest, most = settings.cluster.workers
    path, files = _where_ray_keeps_it(settings.cluster.storage)
    return TorchTrainer(
        run_worker,
        train_loop_config={"validator": validator},
        scaling_config=ScalingConfig(
            num_workers=fewest if fewest == most else (fewest, most),
            use_gpu=settings.cluster.gpus,
            resources_per_worker=worker_resources(settings),
            elastic_resize_monitor_interval_s=settings.cluster.resize_seconds,
        ),
        run_config=RunConfig(
            name=settings.cluster.name,
            storage_path=path,
            storage_filesystem=files,
            failure_config=FailureConfig(max_failures=settings.cluster.max_failures),
            checkpoint_config=checkpoint_config(settings),
            callbacks=[EndForGood(validator.board)],
        ),
        validation_config=validation_config(validator) if checks.every_steps else None,
    )


def _fit(trainer: TorchTrainer, board: Any) -> None:
    """`trainer.fit()`; what ended the run for good stays on the board, a ValueError comes out as it went in.

    Ray's own handler of Ctrl-C speaks to a controller that is gone afterwards, so it goes with it.
    """
    before = signal.getsignal(signal.SIGINT)
    try:
        try:
            trainer.fit()
        except ray.train.TrainingFailedError:
            if ended_by(board) is None:
                raise
    except ray.train.WorkerGroupError as error:
        for failure in error.worker_failures.values():
            cause = getattr(failure, "cause", failure)
            if isinstance(cause, ValueError):
                raise ValueError(str(cause)) from error
            if isinstance(cause, FAILURES):  # who asks whether it may pass reads it off the cause
                raise RuntimeError(f"training failed: {one_line(cause)}") from cause
        rank, failure = next(iter(error.worker_failures.items()))
        raise RuntimeError(f"training failed on worker {rank}: {_last_line(failure)} (--debug shows more)") from error
    except SystemExit:  # how Ray's own handler of Ctrl-C ends `fit`, once the workers are gone
        raise KeyboardInterrupt from None
    except ray.train.TrainingFailedError as error:
        raise RuntimeError(f"training failed: {_last_line(error)} (--debug shows more)") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


def _finish(
    settings: RunSettings,
    sources: Sources,
    validator: Validator,
    checks: Checks,
    hold: Hold,
    watch: Watch,
    tracked: Tracker,
) -> None:
    """Leave the run's model, from its last or its best checkpoint, and every record of it with who tracks the run.

    Raises UnfinishedError when the last whole checkpoint is not where the run ends, ValueError when the run is another
    driver's by now.
    """
    storage = open_storage(validator.folder)

    def leave(checkpoint: Path) -> None:
        hold.check()
        finish(storage, checkpoint, ending, settings.model_dump(mode="json"), sources)

    with latest(storage, watch.say) as last:
        assert last is not None
        step, history = read_state(last[1]).step, read_history(last[1])
        for made in history:  # what the board lost
            tracked.record(made)
        before = checks.before(step) if checks.due(step) and settings.validation.patience else None
        if before and all(record["step"] != before for record in validated(history)):  # it was saved in haste
            history.append({"step": before, VALIDATION: known_score(validator, before, watch.say)})
            tracked.record(history[-1])
        why = patience(settings).ended_by(validated(history)) if step < checks.total_steps else "every epoch is done"
        if why is None:
            raise UnfinishedError(
                f"training ended at step {step} of {checks.total_steps}, the last whole checkpoint of "
                f"{storage.address}; the same command continues from it"
            )
        if checks.due(step) and (metrics := known_score(validator, step, watch.say)):
            history.append({"step": step, VALIDATION: metrics})
            tracked.record(history[-1])
        ending = Ending(step, why, history)
        best = _best(settings, storage, ending)
        if best is not None:
            watch.say(f"the model is that of {best}, the best of the kept ones by {settings.validation.keep_best_by}")
        if best is None or best == last[0]:
            leave(last[1])
            return
    with storage.local(best) as folder:
        leave(folder)


def _best(settings: RunSettings, storage: Storage, ending: Ending) -> str | None:
    """The name of the best whole checkpoint where that one is asked for, None where the last one is."""
    if settings.validation.export == "last":
        return None
    metric, kept = settings.validation.keep_best_by, dict[int, list[str]]()
    for name in checkpoint_names(storage):  # several attempts may have saved the same step
        kept.setdefault(step_of(name), []).append(name)
    while (step := best_step(ending.history, metric, kept=kept)) is not None:
        for name in reversed(kept.pop(step)):
            with storage.local(name) as folder:
                if problem(folder) is None:
                    return name
    return None


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _where_ray_keeps_it(storage: str) -> tuple[str, Any]:
    """(path, file system) for Ray's own files; None is the local one."""
    return filesystem(parse_s3(storage)) if is_s3(storage) else (storage, None)


def check_run(settings: RunSettings, sources: Sources) -> Checks:
    """Everything that workers would refuse, refused before there are any and before the run's folder is touched."""
    plan = check_plan(settings, sources)
    require_trackers(settings.tracking)
    if settings.train.init is not None:
        built = make_objective(sources.modalities, settings.model, settings.loss, seed=settings.train.seed).network
        start_from(built, load_model(settings.train.init).network, settings.train.init)
    if settings.engine.kind == "deepspeed":
        configuration(settings.train, settings.engine)
    manifest = sources.datasets[0].manifest
    checks = make_checks(settings, manifest, plan)
    if checks.every_steps:
        for task in read_tasks(settings).values():
            check_task(task, manifest)
        open_reference(settings.validation, manifest)
    return checks


def check_plan(settings: RunSettings, sources: Sources) -> Plan:
    """The steps of a run. Raises ValueError when its batches cannot be made of this data, or not by so many workers."""
    mixture = make_mixture(sources, settings.data, settings.train)
    for order in mixture.orders:
        for workers in settings.cluster.workers:
            check_shares(order, settings.train, workers)
    return make_plan(mixture, settings.train, settings.masking)


def require_writable(storage: str) -> None:
    """Raises ValueError when a run cannot be kept in this folder; a bucket says so itself."""
    if is_s3(storage):
        return
    try:
        Path(storage).mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=storage):
            pass
    except OSError as error:
        raise ValueError(
            f"setting cluster.storage: nothing can be written to {storage}, {error.strerror}; allowed is a folder that "
            "every worker can reach, or s3://bucket/folder"
        ) from error


def worker_resources(settings: RunSettings) -> dict[str, float]:
    resources = {"CPU": float(settings.cluster.cpus_per_worker)}
    return {**resources, "GPU": settings.cluster.gpu_share} if settings.cluster.gpus else resources
