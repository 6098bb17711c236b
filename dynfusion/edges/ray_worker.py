"""One rank of a training run, inside a Ray Train worker.

    last whole checkpoint --> engine, history --> training.loop --> records to the board
                                  ^                    |
                    score of the check before       checkpoints to the run's folder, uploaded behind the training's back
                                  |                    |
                                  +-- ray_validation --+

What all ranks must do alike (resume, record, save, end) is in `Run`.
"""

import resource
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from ray.train import Checkpoint, CheckpointUploadMode, PreemptionInfo
from ray.train.collective import broadcast_from_rank_zero

from dynfusion.edges.datasets import open_sources
from dynfusion.edges.deepspeed_engine import DeepSpeedEngine
from dynfusion.edges.ray_board import Voice, ended_by
from dynfusion.edges.ray_failures import final_sentence
from dynfusion.edges.ray_validation import Validator, make_checks, patience, unscored, wait_for_release, wait_for_score
from dynfusion.edges.retry import FAILURES, one_line
from dynfusion.edges.s3_storage import load_model, open_storage
from dynfusion.fusion.objective import FusionObjective
from dynfusion.run_settings import RunSettings, identity
from dynfusion.settings import build
from dynfusion.store.feed import Feed
from dynfusion.store.order import Position
from dynfusion.training.assemble import begin, make_mixture, make_objective, make_plan, start_from
from dynfusion.training.checkpoint import (
    LISTS,
    State,
    checkpoint_name,
    latest,
    load_checkpoint,
    save_checkpoint,
    take_attempt,
)
from dynfusion.training.checks import VALIDATION, Checks, trained, validated
from dynfusion.training.engine import Engine, TorchEngine, precision_note
from dynfusion.training.loop import NotFiniteError, Plan, Record, train
from dynfusion.training.mixture import MixedFeed
from dynfusion.training.run_folder import Identity
from dynfusion.training.scratch import new_scratch_folder
from dynfusion.training.storage import Storage


@dataclass
class Run:
    """What one rank of a run has in hand between two steps."""

    settings: RunSettings
    identity: Identity
    storage: Storage
    engine: Engine
    objective: FusionObjective
    voice: Voice
    checks: Checks
    validator: Validator
    attempt: int = 0
    start: int = 0
    saved: int = 0
    notice: PreemptionInfo | None = None
    history: list[Record] = field(default_factory=list)
    upload: threading.Event = field(default_factory=threading.Event)
    """Set while no checkpoint is on its way."""

    def __post_init__(self) -> None:
        self.upload.set()

    def resume(self) -> None:
        """Take up the last whole checkpoint, the same on every rank."""
        found: tuple[str | None, int] | None = None
        if self.engine.rank == 0:
            with latest(self.storage, self.voice.say) as whole:
                found = (whole[0] if whole else None, take_attempt(self.storage))
        name, self.attempt = broadcast_from_rank_zero(found)
        if name is None:
            return
        with self.storage.local(name) as folder:
            state, self.history = load_checkpoint(folder, self.engine)
        self.start = self.saved = state.step
        self.voice.say(f"continuing from {self.storage.address}/{name} at step {state.step}")
        if self.checks.due(state.step):  # saved in haste, it may lack a score that the end of the run depends on
            self._take_score(self.checks.before(state.step))
        if state.step in self.validator.held:
            self._wait_here_again(state.step)
        now = self.engine.world_size
        if state.world_size != now:
            self.voice.say(f"with {now} workers, it was {state.world_size}: the same batches, weights to rounding")

    def record(self, made: Record) -> None:
        """Keep and show a record; called on all ranks. A node that is about to be taken away means: save now."""
        made = {**made, "memory_bytes": memory_bytes(self.engine.device)}
        self.history.append(made)
        self.voice.record(made)
        notice = ray.train.get_preemption_info()
        if notice is not None and notice != self.notice:
            self.notice = notice
            self.voice.say(f"a node of this run is being taken away: saving step {made['step']}")
            self.save(made["step"])  # at a check before its score is waited for: `resume` takes it again

    def checkpoint(self, step: int) -> bool:
        """Save, and at a check decide from the checks before it whether the run ends here; the same on all ranks."""
        if self.checks.due(step):
            self._take_score(self.checks.before(step))
        self.save(step)
        if step in self.validator.held:
            if self.engine.rank == 0:
                wait_for_release(self.validator, step)
            broadcast_from_rank_zero(None)
        return self.enough()

    def _wait_here_again(self, step: int) -> None:
        """At a held check that a killed attempt may have left before anybody had decided whether the run goes on."""
        ray.train.report({"step": step})  # the run can be ended from outside from here on, see `ray_halt`
        if self.engine.rank == 0 and wait_for_score(self.validator, step, self.voice.say):
            wait_for_release(self.validator, step)
        broadcast_from_rank_zero(None)

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
            self.voice.record(self.history[-1])

    def save(self, step: int) -> None:
        """Write this rank's part of a checkpoint here; its upload goes on while training does."""
        if step == self.saved:
            return
        self.saved = step
        state = State(
            step=step,
            run_fingerprint=self.identity.run,
            data_fingerprint=self.identity.data,
            world_size=self.engine.world_size,
            generator=torch.get_rng_state().tolist(),
        )
        self.upload.wait()  # one at a time, so that a slow store cannot fill the disk
        self.upload.clear()
        part = new_scratch_folder("checkpoint")
        save_checkpoint(part, self.engine, self.objective.network, state, self.history)
        ray.train.report(
            {"step": step, "loss": trained(self.history)[-1]["loss"], **unscored(self.settings)},
            checkpoint=Checkpoint.from_directory(str(part)),
            checkpoint_dir_name=checkpoint_name(step, self.attempt),
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
            checkpoint_upload_fn=self._put,
            validation=self.checks.due(step),
        )

    def _put(self, checkpoint: Checkpoint, name: str) -> Checkpoint:
        """Copy this rank's part to the run's folder, its list of files last, so that a torn one is seen to be torn."""
        try:
            self.storage.put(Path(checkpoint.path), name, last=LISTS)
        finally:
            self.upload.set()
        ray_storage = ray.train.get_context().get_storage()
        return Checkpoint(f"{ray_storage.experiment_fs_path}/{name}", ray_storage.storage_filesystem)


def memory_bytes(device: torch.device) -> int:
    """The most memory that this process had so far, on its GPU if it has one."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def run_worker(config: dict[str, Any]) -> None:
    """One rank of a training run, from its last whole checkpoint if there is one; nothing where it failed for good.

    What a new start would only meet again is said to the board first: it ends the run, see `ray_failures`.
    """
    validator: Validator = config["validator"]
    if ended_by(validator.board) is not None:
        return
    rank = ray.train.get_context().get_world_rank()
    voice = Voice(validator.board, quiet=rank != 0)
    try:
        _run(validator, voice)
    except NotFiniteError as error:
        voice.fail(str(error))  # and end in peace, as all ranks do
    except (ValueError, torch.OutOfMemoryError) as error:
        final = final_sentence(error, rank)
        if final is not None:
            voice.fail(final)
        if isinstance(error.__cause__, FAILURES):  # a cause does not survive the way to the driver
            raise ConnectionError(str(error)) from error
        if final is None:  # the driver takes a ValueError for the reason why the run ended
            raise RuntimeError(one_line(error)) from error
        raise  # others may be waiting for this rank: only Ray can end them


def _run(validator: Validator, voice: Voice) -> None:
    settings = build(RunSettings, validator.settings)
    sources = open_sources(settings.data, processes=ray.train.get_context().get_local_world_size())
    mixture = make_mixture(sources, settings.data, settings.train)
    plan = make_plan(mixture, settings.train, settings.masking)
    objective = make_objective(sources.modalities, settings.model, settings.loss, seed=settings.train.seed)
    if settings.train.init is not None:
        start_from(objective.network, load_model(settings.train.init).network, settings.train.init)
    begin(objective.network, sources, settings.train)
    engine = make_engine(objective, settings)
    storage = open_storage(validator.folder)
    checks = make_checks(settings, sources.datasets[0].manifest, plan)
    mine = identity(settings, sources.fingerprint)
    run = Run(settings, mine, storage, engine, objective, voice, checks, validator)
    run.resume()
    if run.start and run.enough():
        return
    voice.say(_opening(settings, engine, mixture.num_groups, plan, run.start))

    def open_feed(source: int, start: Position) -> Feed:
        return Feed(
            sources.datasets[source],
            mixture.orders[source],
            rank=engine.rank,
            world_size=engine.world_size,
            start=start,
            settings=settings.data.feed.shared_by(len(mixture.orders)),
            device=engine.device,
        )

    feed = MixedFeed(mixture, run.start, open_feed)
    try:
        train(objective, engine, feed, plan=plan, start_step=run.start, record=run.record, checkpoint=run.checkpoint)
    finally:
        feed.close()


def make_engine(objective: FusionObjective, settings: RunSettings) -> Engine:
    """The engine that the settings name, on the device that Ray gave this worker."""
    device = ray.train.torch.get_device()
    kind = DeepSpeedEngine if settings.engine.kind == "deepspeed" else TorchEngine
    return kind(objective, settings.train, settings.engine, device)


def _opening(settings: RunSettings, engine: Engine, groups: int, plan: Plan, start: int) -> str:
    workers = engine.world_size
    text = (
        f"{plan.total_steps - start} steps of {settings.train.global_batch_rows} molecules to go on {workers} workers, "
        f"{settings.engine.kind} engine, {groups} contrast groups of {plan.group_rows} rows"
    )
    skipped = sum(order.skipped_rows for order in plan.mixture.orders)
    if skipped:
        rows = sum(order.layout.rows for order in plan.mixture.orders)
        text += f"; each epoch leaves out {skipped} of {rows} rows, other ones each time"
    if groups < 4 * workers:
        text += "; fewer than 4 groups a worker: a smaller data.group_rows or fewer workers would balance better"
    if note := precision_note(settings.engine.precision, engine.device):
        text += f"; {note}"
    return text
