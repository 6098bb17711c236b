"""One flat loop, the same for every engine and every number of ranks.

    feed --> hide --> counts over all ranks --> per micro-batch: forward, combine, backward --> step
                                                     |
                        every few steps: record (sums over ranks, divided once); checkpoint

Everything it depends on is its arguments; its only state is the step. Timing is measured and changes nothing.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
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
from dynfusion.training.mixture import Mixture
from dynfusion.training.schedule import learning_rate

Record = dict[str, Any]
SHOWN_ROWS = 10


@dataclass(frozen=True)
class Plan:
    """What one run does, known before its first step."""

    train: TrainSettings
    masking: MaskingSettings
    mixture: Mixture

    @property
    def steps_per_epoch(self) -> int:
        return self.mixture.steps_per_epoch

    @property
    def group_rows(self) -> int:
        return self.mixture.rows_per_group

    @property
    def total_steps(self) -> int:
        return self.train.epochs * self.steps_per_epoch

    def progress(self, step: int) -> float:
        """Share of all samples seen before step `step`, in [0, 1]."""
        return step / self.total_steps


class NotFiniteError(ValueError):
    """The loss or its gradient is not finite; raised on all ranks together, and a new start would meet it again."""


class Meter:
    """What happened since the last record, on the device; reading it is the only time the host waits.

    Totals, observations and their counts are additive, so nothing is averaged twice. `norms` and `broken` have an entry
    a step: the gradient's norm, and 1 where it or this rank's loss is not finite.
    """

    def __init__(self) -> None:
        self.started_seconds = time.perf_counter()
        self.wait_seconds = 0.0
        self.rows = 0
        self.norms: list[Tensor] = []
        self.broken: list[Tensor] = []
        self.sums: list[Tensor] | None = None

    def add(self, *vectors: Tensor) -> None:
        doubles = [vector.detach().to(torch.float64) for vector in vectors]
        self.sums = doubles if self.sums is None else [old + new for old, new in zip(self.sums, doubles, strict=True)]

    def end_step(self, rows: int, losses: list[Tensor], norm: Tensor) -> None:
        self.rows += rows
        self.norms.append(norm)
        self.broken.append(~torch.stack([*losses, norm.to(losses[0].dtype)]).isfinite().all())


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
    are called on all ranks. Raises NotFiniteError when a loss or gradient was not finite since the last record: on all
    ranks together, before such a state is saved, naming the first such step and its rows.
    """
    settings = plan.train
    meter = Meter()
    for step in range(start_step, plan.total_steps):
        waiting = time.perf_counter()
        fed = next(feed)
        meter.wait_seconds += time.perf_counter() - waiting
        batch = to_batch(fed, plan, step, engine.device)
        counts = engine.sum(objective.counts(batch))
        coefficients = objective.coefficients(counts)
        losses = []
        for micro in batch.micro_batches(settings.accumulation):
            totals, observations = engine.forward(micro)
            loss = engine.world_size * (coefficients.to(totals.dtype) * totals).sum()
            engine.backward(loss)
            losses.append(loss.detach())
            meter.add(totals, observations, objective.counts(micro), objective.observation_counts(micro))
        rate = learning_rate(settings, step, plan.total_steps)
        meter.end_step(settings.global_batch_rows, losses, engine.step(rate))
        done = step + 1
        saving = done % settings.checkpoint_every_steps == 0 or done == plan.total_steps
        if saving or done % settings.log_every_steps == 0:
            record(_read(objective, engine, meter, plan, _where(plan, step, rate)))
            meter = Meter()
        if saving and checkpoint(done):
            return


def to_batch(fed: FeedBatch, plan: Plan, step: int, device: torch.device) -> Batch:
    """The fed rows on `device` with this step's share of cells hidden."""
    progress = plan.progress(step)
    batch = Batch(fed.values, fed.present, torch.zeros_like(fed.present), fed.row_ids, plan.group_rows).to(device)
    hidden = hide(
        batch.present,
        batch.row_ids,
        seed=plan.train.seed,
        epoch=fed.position.epoch,
        rate=hidden_rate(plan.masking, progress),
        subsets=subset_share(plan.masking, progress),
    )
    return replace(batch, hidden=hidden)


def _where(plan: Plan, step: int, rate: float) -> Record:
    return {
        "step": step + 1,
        "rows": (step + 1) * plan.train.global_batch_rows,
        "epoch": step // plan.steps_per_epoch,
        "learning_rate": rate,
        "hidden_rate": hidden_rate(plan.masking, plan.progress(step)),
    }


def _read(objective: FusionObjective, engine: Engine, meter: Meter, plan: Plan, where: Record) -> Record:
    assert meter.sums is not None
    steps = len(meter.broken)
    vectors = [*meter.sums, torch.stack(meter.broken).to(torch.float64)]
    summed = engine.sum(torch.cat(vectors)).cpu().split([len(vector) for vector in vectors])
    totals, observations, counts, observed, broken = summed
    norms = torch.stack(meter.norms).cpu()
    for number in broken.nonzero().flatten().tolist():
        raise NotFiniteError(_not_finite(plan, where["step"] - steps + number, float(norms[number])))
    reading = objective.read(totals, counts)
    seconds = time.perf_counter() - meter.started_seconds
    return {
        **where,
        "gradient_norm": float(norms[-1]),
        "loss": reading.loss,
        **reading.terms,
        **read_observations(observations, observed, objective.network.modalities),
        "rows_per_second": meter.rows / seconds,
        "step_seconds": seconds / steps,
        "wait_share": meter.wait_seconds / seconds,
    }


def _not_finite(plan: Plan, step: int, norm: float) -> str:
    source, rows = plan.mixture.rows(step)
    which = "the data set" if len(plan.mixture.orders) == 1 else f"data set {source} of data.uri"
    shown = ", ".join(str(row) for row in rows[:SHOWN_ROWS])
    return (
        f"training stopped at step {step + 1}, the first whose loss or gradient is not finite (gradient norm {norm}); "
        f"its batch holds {len(rows)} rows of {which}: {shown}{', ...' if len(rows) > SHOWN_ROWS else ''}; "
        "a lower train.learning_rate is the usual cure, and `dynfusion verify` says whether the data are damaged"
    )
