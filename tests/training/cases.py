"""Short training runs without a cluster: the loop, an engine, a checkpoint folder."""

from collections.abc import Callable
from pathlib import Path

import torch

from dynfusion.fusion.losses import LossSettings
from dynfusion.fusion.masking import MaskingSettings
from dynfusion.fusion.model import ModelSettings
from dynfusion.store.dataset import Dataset
from dynfusion.store.feed import Feed, FeedSettings
from dynfusion.training.assemble import make_objective, make_order, make_plan, position_of
from dynfusion.training.checkpoint import State, load_checkpoint, save_checkpoint
from dynfusion.training.config import DataSettings, EngineSettings, TrainSettings
from dynfusion.training.engine import Engine, TorchEngine
from dynfusion.training.loop import Record, train

TRAIN = TrainSettings(epochs=3, global_batch_rows=128, log_every_steps=2, checkpoint_every_steps=4, learning_rate=1e-2)
MODEL = ModelSettings(dim=8, gate_hidden=6, decoder_hidden=8, score_hidden=4)
MASKING = MaskingSettings(ramp_share=0.5)


class StoppedError(Exception):
    """Raised in place of the SIGKILL that a process would die of."""


def run(
    dataset: Dataset,
    folder: Path,
    *,
    settings: TrainSettings = TRAIN,
    resume: Path | None = None,
    stop_after: int | None = None,
    double: bool = False,
    check: bool = True,
    make_engine: Callable[..., Engine] = TorchEngine,
) -> tuple[dict[str, torch.Tensor], list[Record]]:
    """(weights, history) of a run that leaves a checkpoint folder per save in `folder`; `check`: of checksums."""
    data = DataSettings(uri=dataset.uri)
    order = make_order(dataset.manifest, data, settings)
    plan = make_plan(order, settings, MASKING)
    objective = make_objective(dataset.manifest.modalities, MODEL, LossSettings(), seed=settings.seed)
    objective = objective.double() if double else objective
    engine = make_engine(objective, settings, EngineSettings(), torch.device("cpu"))
    start, history = 0, []
    if resume is not None:
        state, history = load_checkpoint(resume, engine)
        start = state.step

    def checkpoint(step: int) -> None:
        state = State(step, "run", dataset.manifest.fingerprint, engine.world_size, torch.get_rng_state().tolist())
        target = folder / f"checkpoint-{step:08d}-001" if engine.rank == 0 else folder / f"rank-{engine.rank}-{step}"
        save_checkpoint(target, engine, objective.network, state, history)
        if step == stop_after:
            raise StoppedError

    with Feed(
        dataset,
        order,
        rank=engine.rank,
        world_size=engine.world_size,
        start=position_of(plan, start),
        settings=FeedSettings(threads=1, check=check),
    ) as feed:
        train(objective, engine, feed, plan=plan, start_step=start, record=history.append, checkpoint=checkpoint)
    return engine.weights(), history


def untimed(history: list[Record]) -> list[Record]:
    """The records without what a clock measured."""
    timings = ("rows_per_second", "step_seconds", "wait_share", "memory_bytes")
    return [{name: value for name, value in record.items() if name not in timings} for record in history]
