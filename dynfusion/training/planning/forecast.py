"""What a run will take: seconds of a step by what they are spent on, and what follows from them.

    on a CPU    compute + memory + host + network + feed            one after another on the same cores
    on a GPU    max(compute + memory, host) + network, or feed      the host runs ahead, and so does the feed

A store is read ahead of both, so a step never takes less than its bytes from there. Each part alone is a ceiling of the
rows a second; the lowest one binds.
"""

from dataclasses import dataclass

from dynfusion.training.config import EngineSettings
from dynfusion.training.planning.hardware import NODE_NETWORK_BYTES, Machine
from dynfusion.training.planning.job import Job, RunParts
from dynfusion.training.planning.memory import keeps_all, memory
from dynfusion.training.planning.passes import calls, pass_bytes
from dynfusion.training.planning.reading import Reading, reading
from dynfusion.training.planning.work import parameter_sizes, parameters, products, step_flops

ZERO_SECONDS = {0: 5.8e-5, 1: 9.1e-5, 2: 1.2e-4, 3: 2.5e-4}
"""DeepSpeed's own time for one parameter and step, by stage. Measured with 16 parameters on one CPU thread: 0.92, 1.45
and 1.92 ms a step more than plain torch at stages 0 to 2; stage 3 is assumed."""


@dataclass(frozen=True)
class Forecast:
    """What a run is expected to take."""

    machine: str
    workers: int
    nodes: int
    worker_rows: int
    """Of the busiest worker, a step."""
    global_batch_rows: int
    steps: int
    steps_per_epoch: int
    skipped_rows: int
    rows_per_second: float
    """Over the whole run, by all workers."""
    step_seconds: float
    """Of an epoch that waits for no store."""
    hours: float
    """Of all steps; starting, checkpoints and validation come on top."""
    binds: str
    """The lowest ceiling."""
    ceilings: dict[str, float]
    """Rows a second if a step consisted of nothing else, by part; parts that take no time are left out."""
    flops_per_row: float
    bytes_per_row: float
    """In the shards."""
    parameters: int
    memory_bytes: dict[str, float]
    """Of one worker, by part."""
    memory_limit_bytes: float
    """Of its GPU, or of the node that it shares with others."""
    reading: Reading
    read_bytes: float
    """From the store in the whole run, by all nodes."""
    basis: tuple[str, ...]
    """What was measured and what is assumed, in sentences."""

    @property
    def memory_total_bytes(self) -> float:
        return sum(self.memory_bytes.values())

    @property
    def fits(self) -> bool:
        """Whether the workers of a node find room. Mapped data do not count: the system takes them back."""
        needed = self.memory_total_bytes - self.memory_bytes.get("mapped data", 0.0)
        sharing = 1 if self.machine != "cpu" else -(-self.workers // self.nodes)
        return sharing * needed <= self.memory_limit_bytes


def forecast(job: Job, run: RunParts, machine: Machine) -> Forecast:
    """The forecast of a job on workers of this machine."""
    read, resident = reading(job, run.data), run.data.feed.resident
    parts = step_parts(job, run.engine, machine, feeds=not keeps_all(job, resident, machine, read))
    step = step_seconds(parts, machine)
    first, later = (_store_seconds(job, size, machine) for size in (read.first_epoch_bytes, read.later_epoch_bytes))
    seconds = job.steps_per_epoch * (max(step, first) + (job.epochs - 1) * max(step, later))
    parts["store"] = (first + (job.epochs - 1) * later) / job.epochs
    ceilings = {name: job.global_rows / taken for name, taken in parts.items() if taken}
    return Forecast(
        machine=machine.name,
        workers=job.place.workers,
        nodes=job.place.nodes,
        worker_rows=job.worker_rows,
        global_batch_rows=job.global_rows,
        steps=job.steps,
        steps_per_epoch=job.steps_per_epoch,
        skipped_rows=job.skipped_rows,
        rows_per_second=job.steps * job.global_rows / seconds,
        step_seconds=step,
        hours=seconds / 3600,
        binds=min(ceilings, key=ceilings.__getitem__),
        ceilings=ceilings,
        flops_per_row=step_flops(job.shape) / job.shape.rows,
        bytes_per_row=sum(stored.shards_bytes for stored in job.stored) / sum(stored.rows for stored in job.stored),
        parameters=parameters(job.shape.dims, job.shape.model),
        memory_bytes=memory(job, run.engine, resident, machine, read),
        memory_limit_bytes=machine.memory_bytes,
        reading=read,
        read_bytes=read.total_bytes(job.epochs),
        basis=(*machine.basis, *_left_out(run)),
    )


def step_parts(job: Job, engine: EngineSettings, machine: Machine, *, feeds: bool) -> dict[str, float]:
    """Seconds that the busiest worker spends on each part of a step, each taken alone."""
    full = job.worker_rows / job.shape.rows  # micro-batches of the largest one's size
    multiplied = sum(machine.product_seconds(product, job.shape.precision) for product in products(job.shape))
    dispatched = job.micro_batches * calls(job.shape) * machine.call_seconds
    return {
        "compute": full * multiplied,
        "memory bandwidth": full * pass_bytes(job.shape) / machine.pass_rate,
        "host": dispatched + _engine_seconds(job, engine),
        "feed": job.worker_rows * job.row_bytes / machine.feed_rate if feeds else 0.0,
        "network": exchange_seconds(job, engine, machine),
    }


def step_seconds(parts: dict[str, float], machine: Machine) -> float:
    """The step that these parts make up, when nothing has to come from a store."""
    worked = parts["compute"] + parts["memory bandwidth"]
    if machine.on_gpu:
        return max(max(worked, parts["host"]) + parts["network"], parts["feed"])
    alone = worked + parts["host"] + parts["network"]
    return alone + parts["feed"] if machine.feed_takes_turns else max(alone, parts["feed"])


def exchange_seconds(job: Job, engine: EngineSettings, machine: Machine) -> float:
    """Summing gradients over workers: a ring passes nearly twice their bytes through every worker.

    At stage 3 parameters are gathered once more. Among nodes, each passes as much through its one connection.
    """
    workers, nodes = job.place.workers, job.place.nodes
    if workers == 1:
        return 0.0
    rounds = 3 if engine.zero_stage == 3 else 2
    size = rounds * 4 * parameters(job.shape.dims, job.shape.model)
    seconds = size * (workers - 1) / workers / machine.exchange_rate if nodes < workers else 0.0
    if nodes > 1:
        seconds += size * (nodes - 1) / nodes / NODE_NETWORK_BYTES
    return seconds + 2 * machine.exchange_seconds


def _engine_seconds(job: Job, engine: EngineSettings) -> float:
    if engine.kind == "torch":
        return 0.0
    return ZERO_SECONDS[engine.zero_stage] * len(parameter_sizes(job.shape.dims, job.shape.model))


def _store_seconds(job: Job, epoch_bytes: float, machine: Machine) -> float:
    """Of a step's share of what all nodes bring in an epoch."""
    return epoch_bytes / job.place.nodes / machine.store_rate / job.steps_per_epoch


def _left_out(run: RunParts) -> list[str]:
    said = ["not in it: starting (about 20 s), checkpoints and validation"]
    if run.engine.compile:
        said.append("engine.compile: not modelled, the step is planned as without it")
    offloads = run.engine.deepspeed.get("zero_optimization", {})
    if isinstance(offloads, dict) and any(name.startswith("offload") for name in offloads):
        said.append("engine.deepspeed: offloading is not modelled")
    return said
