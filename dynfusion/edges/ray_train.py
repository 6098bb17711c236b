"""Training on Ray: Ray Train starts the workers, restarts them after a failure and keeps their checkpoints.

    driver: train_on_ray --TorchTrainer--> worker x N: run_worker --> training.loop
       ^                                      |
       +---- Board (records, messages) <------+   checkpoints --report--> <storage>/<name>/checkpoint-<step>-<attempt>

The run's folder is the resume key: the same command continues from its last whole checkpoint, or says it is finished.
"""

import shutil
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.collective import broadcast_from_rank_zero
from ray.train.torch import TorchTrainer

from dynfusion.edges.datasets import open_dataset
from dynfusion.edges.deepspeed_engine import DeepSpeedEngine, configuration
from dynfusion.edges.ray_cluster import wait_for
from dynfusion.edges.s3_address import is_s3
from dynfusion.fusion.objective import FusionObjective
from dynfusion.run_settings import RunSettings, identity
from dynfusion.settings import build
from dynfusion.store.feed import Feed
from dynfusion.store.manifest import Manifest, local_folder
from dynfusion.training.assemble import check_shares, make_objective, make_order, make_plan, position_of
from dynfusion.training.checkpoint import State, latest, load_checkpoint, read_state, save_checkpoint
from dynfusion.training.engine import Engine, TorchEngine
from dynfusion.training.loop import NotFiniteError, Plan, Record, train
from dynfusion.training.run_folder import claim, finish, finished

POLL_SECONDS = 0.3


@dataclass(frozen=True)
class Watch:
    """Where the driver shows what the workers say."""

    record: Callable[[Record], None]
    say: Callable[[str], None]


def train_on_ray(settings: RunSettings, watch: Watch) -> Path:
    """Train to the end and return the run's folder, with the trained model in `model/`; needs a connected Ray.

    Raises ValueError for settings, data or a run folder that do not fit, and for training that left finite numbers.
    """
    settings = _with_absolute_paths(settings)
    dataset = open_dataset(settings.data.uri, cache=settings.data)
    _check(settings, dataset.manifest)
    folder = Path(settings.cluster.storage) / settings.cluster.name
    claim(folder, settings.model_dump(mode="json"), identity(settings), dataset.manifest.fingerprint)
    if finished(folder):
        watch.say(f"run {folder} is already finished")
        return folder
    _check_world_size(settings, latest(folder, watch.say))
    resources = _resources(settings)
    wait_for([resources] * settings.cluster.workers, deadline_seconds=settings.cluster.start_deadline_seconds)
    board = ray.remote(num_cpus=0)(Board).remote()
    trainer = TorchTrainer(
        run_worker,
        train_loop_config={"settings": settings.model_dump(mode="json"), "folder": str(folder), "board": board},
        scaling_config=ScalingConfig(
            num_workers=settings.cluster.workers, use_gpu=settings.cluster.gpus, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name=settings.cluster.name,
            storage_path=settings.cluster.storage,
            failure_config=FailureConfig(max_failures=settings.cluster.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=settings.train.keep_checkpoints),
        ),
    )
    _fit(trainer, board, watch)
    last = latest(folder, watch.say)
    assert last is not None
    finish(folder, last, settings.model_dump(mode="json"), dataset)
    return folder


def run_worker(config: dict[str, Any]) -> None:
    """One rank of a training run, from its last whole checkpoint if there is one; runs in a Ray Train worker."""
    settings = build(RunSettings, config["settings"])
    processes = ray.train.get_context().get_local_world_size()
    dataset = open_dataset(settings.data.uri, cache=settings.data, processes=processes)
    order = make_order(dataset.manifest, settings.data, settings.train)
    plan = make_plan(order, settings.train, settings.masking)
    objective = make_objective(dataset.manifest, settings.model, settings.loss, seed=settings.train.seed)
    engine = make_engine(objective, settings)
    voice = Voice(config["board"], quiet=engine.rank != 0)
    start, history, attempt = _resume(Path(config["folder"]), engine, voice)
    voice.say(_opening(settings, order.num_groups, plan, start))

    def record(made: Record) -> None:
        history.append(made)
        voice.record(made)

    def checkpoint(step: int) -> None:
        state = State(
            step=step,
            run_fingerprint=identity(settings),
            data_fingerprint=dataset.manifest.fingerprint,
            world_size=engine.world_size,
            generator=torch.get_rng_state().tolist(),
        )
        _report(engine, objective, state, history, attempt)

    feed = Feed(
        dataset,
        order,
        rank=engine.rank,
        world_size=engine.world_size,
        start=position_of(plan, start),
        settings=settings.data.feed,
        device=engine.device,
    )
    try:
        train(objective, engine, feed, plan=plan, start_step=start, record=record, checkpoint=checkpoint)
    except NotFiniteError as error:
        voice.fail(str(error))  # and end in peace: Ray would start the workers again, to the same end
    finally:
        feed.close()


def make_engine(objective: FusionObjective, settings: RunSettings) -> Engine:
    """The engine that the settings name, on the device that Ray gave this worker."""
    device = ray.train.torch.get_device()
    kind = DeepSpeedEngine if settings.engine.kind == "deepspeed" else TorchEngine
    return kind(objective, settings.train, settings.engine, device)


class Board:
    """What workers have to say, kept until the driver fetches it."""

    def __init__(self) -> None:
        self.posts: list[tuple[str, Any]] = []
        self.failure: str | None = None

    def post(self, kind: str, content: Any) -> None:
        self.posts.append((kind, content))

    def fail(self, text: str) -> None:
        self.failure = text

    def failed(self) -> str | None:
        return self.failure

    def take(self) -> list[tuple[str, Any]]:
        taken, self.posts = self.posts, []
        return taken


@dataclass(frozen=True)
class Voice:
    """A worker's end of the board; only rank 0 speaks."""

    board: Any
    quiet: bool

    def record(self, made: Record) -> None:
        if not self.quiet:
            self.board.post.remote("record", made)

    def say(self, text: str) -> None:
        if not self.quiet:
            self.board.post.remote("say", text)

    def fail(self, text: str) -> None:
        """What ended the run for good; returns once the board has it."""
        if not self.quiet:
            ray.get(self.board.fail.remote(text))


def _fit(trainer: TorchTrainer, board: Any, watch: Watch) -> None:
    """`trainer.fit()` while the board is read; a worker's ValueError comes out as it went in."""
    done = threading.Event()

    def show() -> None:
        while not done.wait(POLL_SECONDS):
            _take(board, watch)

    reader = threading.Thread(target=show, name="board-reader", daemon=True)
    reader.start()
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
    finally:
        done.set()
        reader.join()
        _take(board, watch)
    failure = ray.get(board.failed.remote())
    if failure is not None:
        raise NotFiniteError(failure)


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _take(board: Any, watch: Watch) -> None:
    for kind, content in ray.get(board.take.remote()):
        (watch.record if kind == "record" else watch.say)(content)


def _resume(folder: Path, engine: Engine, voice: Voice) -> tuple[int, list[Record], int]:
    """(first step to do, history so far, number of this attempt), the same on every rank."""
    found = None
    if engine.rank == 0:
        whole = latest(folder, voice.say)
        attempts = [int(path.name.rsplit("-", 1)[1]) for path in folder.glob("checkpoint-*-*")]
        found = (str(whole) if whole else None, 1 + max(attempts, default=0))
    path, attempt = broadcast_from_rank_zero(found)
    if path is None:
        return 0, [], attempt
    state, history = load_checkpoint(Path(path), engine)
    voice.say(f"continuing from {path} at step {state.step}")
    if state.world_size != engine.world_size:
        voice.say(f"with {engine.world_size} workers, it was {state.world_size}: the same batches, weights to rounding")
    return state.step, history, attempt


def _report(engine: Engine, objective: FusionObjective, state: State, history: list[Record], attempt: int) -> None:
    """Save this rank's part and hand it to Ray, which merges the ranks' parts in the run's folder."""
    part = Path(tempfile.mkdtemp(prefix="dynfusion-checkpoint-"))
    try:
        save_checkpoint(part, engine, objective.network, state, history)
        ray.train.report(
            {"step": state.step, "loss": history[-1]["loss"]},
            checkpoint=Checkpoint.from_directory(str(part)),
            checkpoint_dir_name=f"checkpoint-{state.step:08d}-{attempt:03d}",
        )
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _check(settings: RunSettings, manifest: Manifest) -> None:
    """Everything that workers would refuse, refused before there are any and before the run's folder is touched."""
    order = make_order(manifest, settings.data, settings.train)
    check_shares(order, settings.train, settings.cluster.workers)
    if settings.engine.kind == "deepspeed":
        configuration(settings.train, settings.engine)


def _check_world_size(settings: RunSettings, last: Path | None) -> None:
    """DeepSpeed's ZeRO stages write one optimizer part per worker and load no other number of them."""
    saved = read_state(last).world_size if last is not None else settings.cluster.workers
    if settings.engine.zero_stage > 0 and saved != settings.cluster.workers:
        raise ValueError(
            f"setting cluster.workers: found {settings.cluster.workers}, the run's last checkpoint was written by "
            f"{saved} workers at ZeRO stage {settings.engine.zero_stage}, which only {saved} can continue; stage 0 "
            "continues on any number"
        )


def _opening(settings: RunSettings, groups: int, plan: Plan, start: int) -> str:
    workers = settings.cluster.workers
    text = (
        f"{plan.total_steps - start} steps of {settings.train.global_batch_rows} molecules to go on {workers} workers, "
        f"{settings.engine.kind} engine, {groups} contrast groups of {plan.group_rows} rows"
    )
    if groups < 4 * workers:
        text += "; fewer than 4 groups a worker: a smaller data.group_rows or fewer workers would balance better"
    return text


def _resources(settings: RunSettings) -> dict[str, float]:
    resources = {"CPU": float(settings.cluster.cpus_per_worker)}
    return {**resources, "GPU": 1.0} if settings.cluster.gpus else resources


def _with_absolute_paths(settings: RunSettings) -> RunSettings:
    """Workers run in a folder of their own, so paths leave the driver absolute."""
    data = settings.data
    if not is_s3(data.uri):
        data = data.model_copy(update={"uri": str(local_folder(data.uri).absolute())})
    if data.cache_dir is not None:
        data = data.model_copy(update={"cache_dir": str(Path(data.cache_dir).expanduser().absolute())})
    cluster = settings.cluster.model_copy(update={"storage": str(local_folder(settings.cluster.storage).absolute())})
    return settings.model_copy(update={"data": data, "cluster": cluster})
