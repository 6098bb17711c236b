"""One rank of a training run, inside a Ray Train worker.

last whole checkpoint --> engine, history --> training.loop --> records to the board
                              ^                    |
                score of the check before       checkpoints to the run's folder, uploaded behind the training's back
                              |                    |
                              +-- ray_validation --+
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
from ray.train import Checkpoint, CheckpointUploadMode
from ray.train.collective import broadcast_from_rank_zero

from dynfusion.edges.datasets import open_dataset
from dynfusion.edges.deepspeed_engine import DeepSpeedEngine
from dynfusion.edges.ray_board import Voice
from dynfusion.edges.ray_validation import Validator, make_checks, patience, unscored, wait_for_score
from dynfusion.edges.s3_storage import open_storage
from dynfusion.fusion.objective import FusionObjective
from dynfusion.run_settings import RunSettings, identity
from dynfusion.settings import build
from dynfusion.store.feed import Feed
from dynfusion.training.assemble import make_objective, make_order, make_plan, position_of
from dynfusion.training.checkpoint import (
    LISTS,
    State,
    checkpoint_name,
    latest,
    load_checkpoint,
    next_attempt,
    save_checkpoint,
)
from dynfusion.training.checks import VALIDATION, Checks, trained, validated
from dynfusion.training.engine import Engine, TorchEngine
from dynfusion.training.loop import NotFiniteError, Plan, Record, train
from dynfusion.training.storage import Storage


@dataclass
class Run:
    """What one rank of a run has in hand between two steps."""

    settings: RunSettings
    data_fingerprint: str
    storage: Storage
    engine: Engine
    objective: FusionObjective
    voice: Voice
    checks: Checks
    validator: Validator
    attempt: int = 0
    start: int = 0
    saved: int = 0
    saved_for_preemption: bool = False
    history: list[Record] = field(default_factory=list)

    def resume(self) -> None:
        """Take up the last whole checkpoint, the same on every rank."""
        found: tuple[str | None, int] | None = None
        if self.engine.rank == 0:
            with latest(self.storage, self.voice.say) as whole:
                found = (whole[0] if whole else None, next_attempt(self.storage))
        name, self.attempt = broadcast_from_rank_zero(found)
        if name is None:
            return
        with self.storage.local(name) as folder:
            state, self.history = load_checkpoint(folder, self.engine)
        self.start = self.saved = state.step
        self.voice.say(f"continuing from {self.storage.address}/{name} at step {state.step}")
        now = self.engine.world_size
        if state.world_size != now:
            self.voice.say(f"with {now} workers, it was {state.world_size}: the same batches, weights to rounding")

    def record(self, made: Record) -> None:
        """Keep and show a record; called on all ranks. A node that is about to be taken away means: save now."""
        self.history.append(made)
        self.voice.record(made)
        if ray.train.get_preemption_info() is not None and not self.saved_for_preemption:
            self.saved_for_preemption = True
            self.voice.say(f"a node of this run is being taken away: saving step {made['step']}")
            if not self.checks.due(made["step"]):  # the loop saves that one next, with what it decides there
                self.save(made["step"])

    def checkpoint(self, step: int) -> bool:
        """Save, and at a check decide from the checks before it whether the run ends here; the same on all ranks."""
        if self.checks.due(step):
            self._take_score(self.checks.before(step))
        self.save(step)
        return self.enough()

    def enough(self) -> bool:
        """Whether the run's history says that it has ended early; a function of the history alone."""
        why = patience(self.settings).ended_by(validated(self.history))
        if why is not None and self.saved < self.checks.total_steps:
            self.voice.say(f"stopping early at step {self.saved}: {why}")
        return why is not None

    def _take_score(self, check: int | None) -> None:
        """Put the score of an earlier check into the history; rank 0 waits for it, and all ranks get the same."""
        if check is None or any(record["step"] == check for record in validated(self.history)):
            return
        found = wait_for_score(self.validator, check, self.voice.say) if self.engine.rank == 0 else None
        metrics = broadcast_from_rank_zero(found)
        if metrics:
            self.history.append({"step": check, VALIDATION: metrics})

    def save(self, step: int) -> None:
        """Write this rank's part of a checkpoint here; its upload goes on while training does."""
        if step == self.saved:
            return
        self.saved = step
        state = State(
            step=step,
            run_fingerprint=identity(self.settings),
            data_fingerprint=self.data_fingerprint,
            world_size=self.engine.world_size,
            generator=torch.get_rng_state().tolist(),
        )
        part = Path(tempfile.mkdtemp(prefix="dynfusion-checkpoint-"))
        save_checkpoint(part, self.engine, self.objective.network, state, self.history)
        ray.train.report(
            {"step": step, "loss": trained(self.history)[-1]["loss"], **unscored(self.settings)},
            checkpoint=Checkpoint.from_directory(str(part)),
            checkpoint_dir_name=checkpoint_name(step, self.attempt),
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
            checkpoint_upload_fn=uploader(self.storage),
            validation=self.checks.due(step),
        )


def uploader(storage: Storage) -> Callable[[Checkpoint, str], Checkpoint]:
    """Puts a rank's part into the run's folder, its list of files last, so that a torn upload is seen to be one."""

    def upload(checkpoint: Checkpoint, name: str) -> Checkpoint:
        storage.put(Path(checkpoint.path), name, last=LISTS)
        context = ray.train.get_context().get_storage()
        return Checkpoint(f"{context.experiment_fs_path}/{name}", context.storage_filesystem)

    return upload


def run_worker(config: dict[str, Any]) -> None:
    """One rank of a training run, from its last whole checkpoint if there is one."""
    validator: Validator = config["validator"]
    settings = build(RunSettings, validator.settings)
    processes = ray.train.get_context().get_local_world_size()
    dataset = open_dataset(settings.data.uri, cache=settings.data, processes=processes)
    order = make_order(dataset.manifest, settings.data, settings.train)
    plan = make_plan(order, settings.train, settings.masking)
    objective = make_objective(dataset.manifest, settings.model, settings.loss, seed=settings.train.seed)
    engine = make_engine(objective, settings)
    voice = Voice(validator.board, quiet=engine.rank != 0)
    storage = open_storage(validator.folder)
    checks = make_checks(settings, dataset.manifest, plan)
    run = Run(settings, dataset.manifest.fingerprint, storage, engine, objective, voice, checks, validator)
    run.resume()
    if run.start and run.enough():
        return
    voice.say(_opening(settings, engine.world_size, order.num_groups, plan, run.start))
    feed = Feed(
        dataset,
        order,
        rank=engine.rank,
        world_size=engine.world_size,
        start=position_of(plan, run.start),
        settings=settings.data.feed,
        device=engine.device,
    )
    try:
        train(objective, engine, feed, plan=plan, start_step=run.start, record=run.record, checkpoint=run.checkpoint)
    except NotFiniteError as error:
        voice.fail(str(error))  # and end in peace: Ray would start the workers again, to the same end
    finally:
        feed.close()


def make_engine(objective: FusionObjective, settings: RunSettings) -> Engine:
    """The engine that the settings name, on the device that Ray gave this worker."""
    device = ray.train.torch.get_device()
    kind = DeepSpeedEngine if settings.engine.kind == "deepspeed" else TorchEngine
    return kind(objective, settings.train, settings.engine, device)


def _opening(settings: RunSettings, workers: int, groups: int, plan: Plan, start: int) -> str:
    text = (
        f"{plan.total_steps - start} steps of {settings.train.global_batch_rows} molecules to go on {workers} workers, "
        f"{settings.engine.kind} engine, {groups} contrast groups of {plan.group_rows} rows"
    )
    if groups < 4 * workers:
        text += "; fewer than 4 groups a worker: a smaller data.group_rows or fewer workers would balance better"
    return text
