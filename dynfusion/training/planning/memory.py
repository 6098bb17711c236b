"""What a worker holds at most: on its GPU, or as resident memory on a CPU. Bytes by part.

Parameters, gradients and Adam's two moments are fp32 at either precision: bf16 is autocast, whose copies of the weights
are among the activations. ZeRO splits the moments (stage 1), the gradients (2) and the parameters (3) among workers,
and from stage 1 on each has its part of the parameters once more. Source: Rajbhandari, Rasley, Ruwase and He 2020
(arXiv:1910.02054); the buckets and the second copy are those of DeepSpeed 0.19.8, `runtime/zero`.
"""

from collections.abc import Mapping

from dynfusion.store.feed import RESIDENT_SHARE
from dynfusion.training.config import EngineSettings
from dynfusion.training.planning.hardware import Machine
from dynfusion.training.planning.job import Job
from dynfusion.training.planning.passes import held_bytes
from dynfusion.training.planning.reading import Reading
from dynfusion.training.planning.work import parameter_sizes, parameters

BUCKET_NUMBERS = 500_000_000
"""DeepSpeed's default of `reduce_bucket_size`."""
PERSISTENT_NUMBERS = 100_000
"""DeepSpeed's default of `stage3_param_persistence_threshold`: smaller parameters are not split."""
START_BYTES = 12
"""A principal start holds every value in float16 twice and in float32 twice."""


def memory(job: Job, engine: EngineSettings, resident: str, machine: Machine, read: Reading) -> dict[str, float]:
    """Bytes of every part; `resident` is the feed's setting. Their sum is what a worker needs.

    `mapped data` on a CPU are pages of shards that a worker has read: the system takes them back when it needs them.
    """
    parts = {
        **state(job, engine, on_gpu=machine.on_gpu),
        "activations": held_bytes(job.shape),
        "batch buffers": float(job.buffers * job.worker_rows * job.row_bytes),
    }
    if machine.on_gpu:
        parts["resident data"] = _on_gpu(job, resident, machine, read)
    else:
        if resident == "always":
            parts["resident data"] = float(sum(stored.blocks_bytes for stored in job.stored))
        parts["mapped data"] = _mapped(job, read)
        parts["start"] = max(0.0, _start(job) - parts["activations"] - parts["batch buffers"] - parts["mapped data"])
    parts["process"] = machine.process_bytes
    return {name: size for name, size in parts.items() if size}


def state(job: Job, engine: EngineSettings, *, on_gpu: bool) -> dict[str, float]:
    """Parameters, gradients, optimizer state and what is set aside to exchange them, by ZeRO stage."""
    workers, stage = job.place.workers, engine.zero_stage
    whole = 4.0 * parameters(job.shape.dims, job.shape.model)
    part = whole / workers
    small = _persistent_bytes(job) if stage == 3 else 0.0
    copies = 0.0 if stage == 0 else part
    return {
        "parameters": {3: small + (whole - small) / workers}.get(stage, whole) + copies,
        "gathered parameters": whole - small if stage == 3 and workers > 1 else 0.0,
        "gradients": part if stage >= 2 else whole,
        "optimizer": 2 * (part if stage >= 1 else whole),
        "exchange": _exchange(whole, engine, workers, on_gpu=on_gpu),
    }


def _exchange(whole: float, engine: EngineSettings, workers: int, *, on_gpu: bool) -> float:
    """Gradients side by side, to be summed. DeepSpeed's bucket takes a GPU's memory whole, a CPU's as it is used."""
    if engine.zero_stage == 0:
        return whole if workers > 1 else 0.0
    zero = engine.deepspeed.get("zero_optimization", {})
    numbers = zero.get("reduce_bucket_size", BUCKET_NUMBERS) if isinstance(zero, Mapping) else BUCKET_NUMBERS
    bucket = 4.0 * float(numbers)
    return bucket if on_gpu else min(bucket, whole)


def _persistent_bytes(job: Job) -> float:
    sizes = parameter_sizes(job.shape.dims, job.shape.model)
    return 4.0 * sum(size for size in sizes if size < PERSISTENT_NUMBERS)


def _on_gpu(job: Job, resident: str, machine: Machine, read: Reading) -> float:
    """All rows where they are kept on the GPU, else two slabs."""
    if keeps_all(job, resident, machine, read):
        return float(sum(stored.blocks_bytes for stored in job.stored))
    return float(sum(2 * stored.slab_blocks * stored.block_bytes for stored in job.stored))


def keeps_all(job: Job, resident: str, machine: Machine, read: Reading) -> bool:
    """Whether every row stays on the GPU after it has come once; blocks that are streamed do not."""
    if not machine.on_gpu or resident == "never" or read.streaming_bytes:
        return False
    needed = sum(stored.blocks_bytes for stored in job.stored)
    return resident == "always" or needed <= RESIDENT_SHARE * (machine.memory_bytes - machine.process_bytes)


def _mapped(job: Job, read: Reading) -> float:
    """Pages of the blocks that a worker has had by the end; another part of them every epoch. Streamed ones are few."""
    local = [stored for stored in job.stored if not (stored.far and read.streaming_bytes)]
    seen = [1 - (1 - 1 / job.place.workers) ** (job.epochs * stored.epoch_share) for stored in local]
    pages = sum(share * stored.blocks_bytes for share, stored in zip(seen, local, strict=True))
    return pages + read.streaming_bytes


def _start(job: Job) -> float:
    """What a principal start holds, before anything else is there."""
    return float(job.start_rows * (START_BYTES * sum(job.shape.dims) + 12 * job.shape.model.dim))
