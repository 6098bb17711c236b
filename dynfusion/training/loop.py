"""One flat loop, the same for every engine and every number of ranks.

    feed --> hide --> counts over all ranks --> per micro-batch: forward, combine, backward --> step
                                                     |
                        every few steps: record (sums over ranks, divided once); checkpoint

Everything it depends on is its arguments; its only state is the step. Timing is measured and changes nothing.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dynfusion.fusion.batch import Batch
from dynfusion.fusion.masking import MaskingSettings, hidden_rate, hide, subset_share
from dynfusion.fusion.metrics import read_observations
from dynfusion.fusion.objective import FusionObjective
from dynfusion.store.feed import FeedBatch
from dynfusion.training.config import TrainSettings
from dynfusion.training.engine import Engine
from dynfusion.training.schedule import learning_rate

Record = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What one run does, known before its first step."""

    train: TrainSettings
    masking: MaskingSettings
    steps_per_epoch: int
    group_rows: int

    @property
    def total_steps(self) -> int:
        return self.train.epochs * self.steps_per_epoch

    def progress(self, step: int) -> float:
        """Share of all samples seen before step `step`, in [0, 1]."""
        return step / self.total_steps


class NotFiniteError(ValueError):
    """The loss or its gradient is not finite; raised on all ranks together, and a new start would meet it again."""


class Meter:
    """Sums since the last record: totals, observations and their counts are additive, so nothing is averaged twice."""

    def __init__(self) -> None:
        self.started_seconds = time.perf_counter()
        self.wait_seconds = 0.0
        self.rows = 0
        self.steps = 0
        self.sums: list[Tensor] | None = None

    def add(self, *vectors: Tensor) -> None:
        doubles = [vector.detach().to(torch.float64) for vector in vectors]
        self.sums = doubles if self.sums is None else [old + new for old, new in zip(self.sums, doubles, strict=True)]


def train(
    objective: FusionObjective,
    engine: Engine,
    feed: Iterator[FeedBatch],
    *,
    plan: Plan,
    start_step: int,
    record: Callable[[Record], None],
    checkpoint: Callable[[int], bool | None],
) -> None:
    """Run steps `start_step` to `plan.total_steps`.

    `record` gets one dictionary every `log_every_steps` and before every checkpoint; `checkpoint` gets the number of
    steps done, every `checkpoint_every_steps` and at the end, and may say that it is enough (True, on all ranks). Both
    are called on all ranks. Raises NotFiniteError when the loss is not finite, on all ranks together, before such a
    state is saved.
    """
    settings = plan.train
    meter = Meter()
    for step in range(start_step, plan.total_steps):
        waiting = time.perf_counter()
        fed = next(feed)
        meter.wait_seconds += time.perf_counter() - waiting
        batch = to_batch(fed, plan, step).to(engine.device)
        counts = engine.sum(objective.counts(batch))
        coefficients = objective.coefficients(counts)
        for micro in batch.micro_batches(settings.accumulation):
            totals, observations = engine.forward(micro)
            engine.backward(engine.world_size * (coefficients.to(totals.dtype) * totals).sum())
            meter.add(totals, observations, objective.counts(micro), objective.observation_counts(micro))
        rate = learning_rate(settings, step, plan.total_steps)
        norm = engine.step(rate)
        meter.rows += settings.global_batch_rows
        meter.steps += 1
        done = step + 1
        saving = done % settings.checkpoint_every_steps == 0 or done == plan.total_steps
        if saving or done % settings.log_every_steps == 0:
            record(_read(objective, engine, meter, _where(plan, step, rate, norm)))
            meter = Meter()
        if saving and checkpoint(done):
            return


def to_batch(fed: FeedBatch, plan: Plan, step: int) -> Batch:
    """The fed rows with this step's share of cells hidden."""
    progress = plan.progress(step)
    hidden = hide(
        fed.present,
        fed.row_ids,
        seed=plan.train.seed,
        epoch=fed.position.epoch,
        rate=hidden_rate(plan.masking, progress),
        subsets=subset_share(plan.masking, progress),
    )
    return Batch(fed.values, fed.present, hidden, fed.row_ids, plan.group_rows)


def _where(plan: Plan, step: int, rate: float, norm: float) -> Record:
    return {
        "step": step + 1,
        "rows": (step + 1) * plan.train.global_batch_rows,
        "epoch": step // plan.steps_per_epoch,
        "learning_rate": rate,
        "hidden_rate": hidden_rate(plan.masking, plan.progress(step)),
        "gradient_norm": norm,
    }


def _read(objective: FusionObjective, engine: Engine, meter: Meter, where: Record) -> Record:
    assert meter.sums is not None
    lengths = [len(vector) for vector in meter.sums]
    totals, observations, counts, observed = engine.sum(torch.cat(meter.sums)).cpu().split(lengths)
    reading = objective.read(totals, counts)
    if not math.isfinite(reading.loss) or not math.isfinite(where["gradient_norm"]):
        raise NotFiniteError(
            f"training stopped at step {where['step']}: the loss is {reading.loss} with gradient norm "
            f"{where['gradient_norm']}, allowed are finite numbers; a lower train.learning_rate is the usual cure"
        )
    seconds = time.perf_counter() - meter.started_seconds
    return {
        **where,
        "loss": reading.loss,
        **reading.terms,
        **read_observations(observations, observed, objective.network.modalities),
        "rows_per_second": meter.rows / seconds,
        "step_seconds": seconds / meter.steps,
        "wait_share": meter.wait_seconds / seconds,
    }
