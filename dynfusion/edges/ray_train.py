"""Training on Ray: Ray Train starts the workers, restarts them after a failure and keeps their checkpoints.

    driver: train_on_ray --TorchTrainer--> worker x N: ray_worker.run_worker --> training.loop
       ^                                      |
       +---- ray_board <----------------------+   checkpoints --> <storage>/<name>/checkpoint-<step>-<attempt>

The run's folder is the resume key: the same command continues from its last whole checkpoint, or says it is finished.
"""

from pathlib import Path
from typing import Any

import ray.train
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from dynfusion.edges.datasets import open_sources
from dynfusion.edges.deepspeed_engine import configuration
from dynfusion.edges.ray_board import Watch, watched_board
from dynfusion.edges.ray_cluster import wait_for
from dynfusion.edges.ray_worker import run_worker
from dynfusion.edges.s3_address import is_s3, parse_s3
from dynfusion.edges.s3_clients import filesystem
from dynfusion.edges.s3_storage import below, load_model, open_storage
from dynfusion.edges.tracking import Tracker, tracker
from dynfusion.run_settings import RunSettings, identity
from dynfusion.store.manifest import local_folder
from dynfusion.training.assemble import check_shares, make_mixture, make_objective, start_from
from dynfusion.training.checkpoint import latest, read_history
from dynfusion.training.loop import Record
from dynfusion.training.run_folder import claim, finish, finished
from dynfusion.training.sources import Sources


def train_on_ray(settings: RunSettings, watch: Watch) -> str:
    """Train to the end and return the run's folder, with the trained model in `model/`; needs a connected Ray.

    Raises ValueError for settings, data or a run folder that do not fit, and for training that left finite numbers.
    """
    settings = _with_absolute_paths(settings)
    sources = open_sources(settings.data)
    _check(settings, sources)
    folder = below(settings.cluster.storage, settings.cluster.name)
    storage = open_storage(folder)
    claim(storage, settings.model_dump(mode="json"), identity(settings, sources.fingerprint))
    if finished(storage, settings.train.epochs):
        watch.say(f"run {storage.address} is already finished")
        return folder
    with latest(storage, watch.say) as last:  # what no worker could continue from is refused before there are any
        history = read_history(last[1]) if last else []
    resources = _resources(settings)
    wait_for([resources] * settings.cluster.workers[0], deadline_seconds=settings.cluster.start_deadline_seconds)
    with tracker(storage, settings.tracking, history) as tracked, watched_board(_both(watch, tracked)) as board:
        _fit(make_trainer(settings, folder, board))
    with latest(storage, watch.say) as last:
        assert last is not None
        finish(storage, last[1], settings.model_dump(mode="json"), sources)
    return folder


def _both(watch: Watch, tracked: Tracker) -> Watch:
    def record(made: Record) -> None:
        watch.record(made)
        tracked.record(made)

    return Watch(record, watch.say)


def make_trainer(settings: RunSettings, folder: str, board: Any) -> TorchTrainer:
    """Ray Train's part of a run: how many workers, with what, how often again, and which checkpoints stay."""
    fewest, most = settings.cluster.workers
    path, files = _where_ray_keeps_it(settings.cluster.storage)
    return TorchTrainer(
        run_worker,
        train_loop_config={"settings": settings.model_dump(mode="json"), "folder": folder, "board": board},
        scaling_config=ScalingConfig(
            num_workers=fewest if fewest == most else (fewest, most),
            use_gpu=settings.cluster.gpus,
            resources_per_worker=_resources(settings),
            elastic_resize_monitor_interval_s=settings.cluster.resize_seconds,
        ),
        run_config=RunConfig(
            name=settings.cluster.name,
            storage_path=path,
            storage_filesystem=files,
            failure_config=FailureConfig(max_failures=settings.cluster.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=settings.train.keep_checkpoints),
        ),
    )


def _fit(trainer: TorchTrainer) -> None:
    """`trainer.fit()`; a worker's ValueError comes out as it went in."""
    try:
        trainer.fit()
    except ray.train.WorkerGroupError as error:
        for failure in error.worker_failures.values():
            cause = getattr(failure, "cause", failure)
            if isinstance(cause, ValueError):
                raise ValueError(str(cause)) from error
        rank, failure = next(iter(error.worker_failures.items()))
        raise RuntimeError(f"training failed on worker {rank}: {_last_line(failure)} (--debug shows more)") from error
    except SystemExit:  # how Ray's own handler of Ctrl-C ends `fit`, once the workers are gone
        raise KeyboardInterrupt from None
    except ray.train.TrainingFailedError as error:
        raise RuntimeError(f"training failed: {_last_line(error)} (--debug shows more)") from error


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _where_ray_keeps_it(storage: str) -> tuple[str, Any]:
    """(path, file system) for Ray's own files; None is the local one."""
    return filesystem(parse_s3(storage)) if is_s3(storage) else (storage, None)


def _check(settings: RunSettings, sources: Sources) -> None:
    """Everything that workers would refuse, refused before there are any and before the run's folder is touched."""
    for order in make_mixture(sources, settings.data, settings.train).orders:
        for workers in settings.cluster.workers:
            check_shares(order, settings.train, workers)
    if settings.train.init is not None:
        built = make_objective(sources.modalities, settings.model, settings.loss, seed=settings.train.seed).network
        start_from(built, load_model(settings.train.init).network, settings.train.init)
    if settings.engine.kind == "deepspeed":
        configuration(settings.train, settings.engine)


def _resources(settings: RunSettings) -> dict[str, float]:
    resources = {"CPU": float(settings.cluster.cpus_per_worker)}
    return {**resources, "GPU": 1.0} if settings.cluster.gpus else resources


def _with_absolute_paths(settings: RunSettings) -> RunSettings:
    """Workers run in a folder of their own, so paths leave the driver absolute."""
    uris = tuple(_absolute(uri) for uri in settings.data.uris)
    data = settings.data.model_copy(update={"uri": uris[0] if len(uris) == 1 else uris})
    if data.cache_dir is not None:
        data = data.model_copy(update={"cache_dir": str(Path(data.cache_dir).expanduser().absolute())})
    cluster = settings.cluster.model_copy(update={"storage": _absolute(settings.cluster.storage)})
    init = settings.train.init
    train = settings.train.model_copy(update={"init": None if init is None else _absolute(init)})
    return settings.model_copy(update={"data": data, "cluster": cluster, "train": train})


def _absolute(uri: str) -> str:
    return uri if is_s3(uri) else str(local_folder(uri).absolute())
