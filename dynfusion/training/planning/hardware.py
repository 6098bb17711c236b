"""What machines reach: data sheets of GPUs with assumed shares of them, and the calibration of a CPU.

Of the GPUs here no training step has been measured by this project. Peaks are those of the data sheets, dense (the
sheets of H100, H200 and L4 print bf16 with sparsity, twice as much); what a step reaches of them is assumed, and every
forecast says so.
"""

from collections.abc import Callable
from dataclasses import dataclass

from dynfusion.training.engine import WITHOUT_BF16
from dynfusion.training.planning.calibration import Calibration
from dynfusion.training.planning.work import Product

STORE_CONNECTION_BYTES = 100e6
"""Bytes a second of one connection to an object store; 100 MB is usual for S3. Assumed."""
NODE_NETWORK_BYTES = 12.5e9
"""Bytes a second between two nodes, each way: 100 Gbit/s. Assumed."""
COPY_BYTES = 8e9
"""Bytes a second that one thread copies into pinned memory. Assumed; 10 to 13 GB were measured on a CPU machine."""
LAUNCH_SECONDS = 6e-6
"""The host's time for one operation on a GPU, autograd and Python included. Assumed; 5 us were measured on a CPU."""
GPUS_PER_NODE = 8

ACHIEVED_COMPUTE = 0.35
ACHIEVED_MEMORY = 0.7
ACHIEVED_LINK = 0.7
GPU_PROCESS_BYTES = 1e9
"""What CUDA, its libraries and NCCL take of a GPU's memory. Assumed."""

CPU_PROCESS_BYTES = 750e6
"""Resident memory of a Ray Train worker with torch and DeepSpeed beside what is counted. Taken from four runs,
in which it was between 640 and 790 MB (tests/bench/results/plan_avx2_2026-11.md)."""
CPU_EXCHANGE_BYTES = 1.0e9
"""Bytes a second that gloo sends from one process to another of the same machine. Assumed."""
CPU_EXCHANGE_SECONDS = 5e-4
"""The least that a sum over processes takes there. Assumed."""


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU as its data sheet has it; rates are each way, in operations or bytes a second."""

    flops: dict[str, float]
    """Of matrix products by precision; fp32 without TF32, which torch leaves off."""
    memory_bytes: float
    memory_rate: float
    link_rate: float
    """To another GPU of the node."""
    host_rate: float
    """From the machine's memory."""
    source: str


GPUS = {
    "h200": Gpu({"bf16": 989e12, "fp32": 67e12}, 141e9, 4.8e12, 450e9, 64e9, "NVIDIA H200 data sheet, SXM"),
    "h100": Gpu({"bf16": 989e12, "fp32": 67e12}, 80e9, 3.35e12, 450e9, 64e9, "NVIDIA H100 data sheet, SXM"),
    "a100": Gpu({"bf16": 312e12, "fp32": 19.5e12}, 80e9, 2.039e12, 300e9, 32e9, "NVIDIA A100 data sheet, SXM 80 GB"),
    "l4": Gpu({"bf16": 121e12, "fp32": 30.3e12}, 24e9, 300e9, 32e9, 32e9, "NVIDIA L4 data sheet, links by PCIe"),
}


@dataclass(frozen=True)
class Machine:
    """What one worker has of a machine. Rates are in bytes a second."""

    name: str
    on_gpu: bool
    product_seconds: Callable[[Product, str], float]
    """Seconds of a matrix product at a precision."""
    pass_rate: float
    call_seconds: float
    feed_rate: float
    feed_takes_turns: bool
    """The feed's threads and the step share the same cores."""
    exchange_rate: float
    exchange_seconds: float
    """The least that a sum over workers takes."""
    store_rate: float
    """Of a node."""
    memory_bytes: float
    """Of a GPU, or of the node."""
    process_bytes: float
    basis: tuple[str, ...]
    """Where these figures come from, in sentences: what was measured and what is assumed."""


def gpu_machine(kind: str, *, threads: int) -> Machine:
    """A worker on a GPU of this kind, fed by so many threads.

    Raises ValueError for a kind that is not in the table.
    """
    if kind not in GPUS:
        raise ValueError(f"--gpu: found {kind!r}, allowed is {', '.join(GPUS)}")
    gpu = GPUS[kind]

    def product_seconds(product: Product, precision: str) -> float:
        return product.flops / (ACHIEVED_COMPUTE * gpu.flops[precision])

    return Machine(
        name=kind,
        on_gpu=True,
        product_seconds=product_seconds,
        pass_rate=ACHIEVED_MEMORY * gpu.memory_rate,
        call_seconds=LAUNCH_SECONDS,
        feed_rate=min(ACHIEVED_LINK * gpu.host_rate, threads * COPY_BYTES),
        feed_takes_turns=False,
        exchange_rate=ACHIEVED_LINK * gpu.link_rate,
        exchange_seconds=5e-5,
        store_rate=32 * STORE_CONNECTION_BYTES,
        memory_bytes=gpu.memory_bytes,
        process_bytes=GPU_PROCESS_BYTES,
        basis=(
            f"{kind}: not measured; peaks of the {gpu.source}, of which {ACHIEVED_COMPUTE:.0%} (products), "
            f"{ACHIEVED_MEMORY:.0%} (memory) and {ACHIEVED_LINK:.0%} (links) are assumed",
            f"assumed: {LAUNCH_SECONDS * 1e6:.0f} us of the host for an operation, {COPY_BYTES / 1e9:.0f} GB/s for a "
            f"feed thread, {NODE_NETWORK_BYTES / 1e9:.1f} GB/s between nodes, {32 * STORE_CONNECTION_BYTES / 1e9:.1f} "
            "GB/s from the store to a node",
        ),
    )


def cpu_machine(calibration: Calibration, *, workers: int, threads: int) -> Machine:
    """One of `workers` workers of so many threads that share a machine like the calibrated one."""
    wanted = workers * threads
    crowd = max(1.0, wanted / calibration.cores)
    scale = threads / calibration.threads / crowd

    def product_seconds(product: Product, precision: str) -> float:
        return product.flops / (scale * calibration.product_rate(product, precision))

    connections = min(max(4 * calibration.cores, 8), 32)
    return Machine(
        name="cpu",
        on_gpu=False,
        product_seconds=product_seconds,
        pass_rate=scale * calibration.pass_rate,
        call_seconds=calibration.call_seconds * crowd,
        feed_rate=calibration.gather_rate / crowd,
        feed_takes_turns=wanted >= calibration.cores,
        exchange_rate=CPU_EXCHANGE_BYTES,
        exchange_seconds=CPU_EXCHANGE_SECONDS,
        store_rate=connections * STORE_CONNECTION_BYTES,
        memory_bytes=float(calibration.memory_bytes),
        process_bytes=CPU_PROCESS_BYTES,
        basis=(*_measured(calibration, threads, crowd), _ASSUMED_OF_CPUS.format(connections * 0.1)),
    )


_ASSUMED_OF_CPUS = (
    f"from runs elsewhere: {CPU_PROCESS_BYTES / 1e6:.0f} MB for a worker's process; assumed: "
    f"{CPU_EXCHANGE_BYTES / 1e9:.1f} GB/s between processes of a machine, "
    f"{NODE_NETWORK_BYTES / 1e9:.1f} GB/s between machines, {{:.1f}} GB/s from the store to one"
)


def _measured(calibration: Calibration, threads: int, crowd: float) -> list[str]:
    plural = "s" if calibration.threads > 1 else ""
    said = [
        f"measured: {calibration.processor}, {calibration.cores} cores, {calibration.workers} at once of "
        f"{calibration.threads} thread{plural}; passes {calibration.pass_rate / 1e9:.0f} GB/s, gather "
        f"{calibration.gather_rate / 1e9:.0f} GB/s, {calibration.call_seconds * 1e6:.1f} us an operation"
    ]
    if calibration.processor in WITHOUT_BF16 and any(rate.precision == "bf16" for rate in calibration.products):
        said.append("this processor has no instructions for bf16: a run was 2.5 times slower than planned, take fp32")
    if threads != calibration.threads:
        said.append(f"assumed: {threads} threads are {threads / calibration.threads:g} times as fast as those measured")
    if crowd > 1:
        said.append(f"assumed: more workers than cores, so that each is {crowd:.2g} times slower")
    return said
