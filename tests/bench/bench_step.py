"""How long a training step takes beside nothing but its own matrix products.

    python -m tests.bench.bench_step [rows] [--threads N] [--compile]

The step is the plain torch engine's: masking, forward, losses, backward, clipping, fused AdamW, for the default model
and losses over modalities of 768 + 1024 + 1024 numbers. Its products are found by recording every matrix product that
torch dispatches while one step runs, forward and backward, and are then run again alone: same shapes, strides and
dtype, results into memory that is already there. All contestants take turns; figures are ratios of medians over rounds.
`busy_cores` says what share of its threads each really got: where it is well below their number, other work ran.
"""

import argparse
import json
import math
import os
import platform
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dynfusion.fusion.batch import Batch
from dynfusion.fusion.losses import LossSettings
from dynfusion.fusion.masking import MaskingSettings, hidden_rate, hide, subset_share
from dynfusion.fusion.model import FusionNetwork, ModelSettings
from dynfusion.fusion.objective import FusionObjective
from dynfusion.training.config import EngineSettings, TrainSettings
from dynfusion.training.engine import Engine, TorchEngine

DIMS = {"first": 768, "second": 1024, "third": 1024}
PRESENT_SHARE = 0.85  # as in the demo's pool
PROGRESS = 0.3  # half-way up the default masking ramp
ROUNDS = 7
PRECISIONS: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")
PRODUCTS = {
    torch.ops.aten.mm.default: 0,
    torch.ops.aten.bmm.default: 0,
    torch.ops.aten.addmm.default: 1,
    torch.ops.aten.baddbmm.default: 1,
}


@dataclass(frozen=True)
class Product:
    """Two operands of one matrix product, [m, k] and [k, n] or the same in batches."""

    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    strides: tuple[tuple[int, ...], tuple[int, ...]]
    dtype: torch.dtype

    @property
    def flop(self) -> int:
        first, second = self.shapes
        return 2 * math.prod(first) * second[-1]


class Recorder(TorchDispatchMode):
    """Every matrix product that is dispatched while it is on."""

    def __init__(self) -> None:
        super().__init__()
        self.products: list[Product] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in PRODUCTS:
            first, second = args[PRODUCTS[func] : PRODUCTS[func] + 2]
            assert first.dtype == second.dtype
            shapes = (tuple(first.shape), tuple(second.shape))
            self.products.append(Product(shapes, (first.stride(), second.stride()), first.dtype))
        return func(*args, **(kwargs or {}))


def main(
    size: int = 2048, *, threads: int = 0, compiled: bool = False, rounds: int = ROUNDS, dims: dict[str, int] = DIMS
) -> dict[str, Any]:
    """Measure steps of `size` rows; print one JSON line and return what it says."""
    if threads:
        torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    turns: dict[str, Callable[[], object]] = {}
    products: dict[str, list[Product]] = {}
    for precision in PRECISIONS:
        settings = EngineSettings(kind="torch", precision=precision)
        step = partial(train_step, *make_step(size, dims, settings, device))
        step()
        with Recorder() as recorder:
            step()
        products[precision] = recorder.products
        turns[f"step_{precision}"] = step
        turns[f"gemm_{precision}"] = product_runner(recorder.products, device)
        if compiled:
            settings = settings.model_copy(update={"compile": True})
            turns[f"compiled_{precision}"] = partial(train_step, *make_step(size, dims, settings, device))
    seconds, busy = take_turns(turns, rounds, device)
    result = {
        "benchmark": "step",
        "figures": _figures(seconds, size),
        "ceilings": _ceilings(seconds, products, device),
        "busy_cores": busy,
        "products": {precision: _listed(found) for precision, found in products.items()},
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "hardware": hardware(device),
        "settings": {
            "rows": size,
            "dims": list(dims.values()),
            "present_share": PRESENT_SHARE,
            "rounds": rounds,
            "milliseconds": {name: round(1000 * taken, 2) for name, taken in seconds.items()},
        },
    }
    print(json.dumps(result))
    return result


def make_step(
    rows: int, dims: dict[str, int], settings: EngineSettings, device: torch.device
) -> tuple[FusionObjective, Engine, Batch]:
    """Objective, plain engine and one batch with a share of its cells absent, rows in groups of an eighth."""
    torch.manual_seed(0)
    objective = FusionObjective(FusionNetwork(dims, ModelSettings()), LossSettings())
    engine = TorchEngine(objective, TrainSettings(), settings, device)
    return objective, engine, make_batch(rows, dims).to(device)


def make_batch(rows: int, dims: dict[str, int]) -> Batch:
    """Random float16 rows, zero where absent, as the feed gives them."""
    draw = torch.Generator().manual_seed(0)
    present = torch.rand(rows, len(dims), generator=draw) < PRESENT_SHARE
    present[~present.any(dim=1), 0] = True
    values = [torch.randn(rows, width, generator=draw).half() for width in dims.values()]
    values = [value * present[:, column, None] for column, value in enumerate(values)]
    return Batch(tuple(values), present, torch.zeros_like(present), torch.arange(rows), rows // 8)


def train_step(objective: FusionObjective, engine: Engine, batch: Batch) -> Tensor:
    """What the loop does between two records; returns the gradient's norm, still on the device."""
    masking = MaskingSettings()
    rate, subsets = hidden_rate(masking, PROGRESS), subset_share(masking, PROGRESS)
    hidden = hide(batch.present, batch.row_ids, seed=0, epoch=0, rate=rate, subsets=subsets)
    batch = Batch(batch.values, batch.present, hidden, batch.row_ids, batch.group_rows)
    coefficients = objective.coefficients(engine.sum(objective.counts(batch)))
    totals, _ = engine.forward(batch)
    engine.backward(engine.world_size * (coefficients.to(totals.dtype) * totals).sum())
    return engine.step(1e-3)


def product_runner(products: list[Product], device: torch.device) -> Callable[[], None]:
    """A function that runs the products, one after another, into memory that is already there."""
    tensors: dict[Any, Tensor] = {}

    def tensor(shape: tuple[int, ...], stride: tuple[int, ...] | None, dtype: torch.dtype) -> Tensor:
        key = (shape, stride, dtype)
        if key not in tensors:
            made = torch.empty(shape, dtype=dtype, device=device)
            made = made if stride is None else torch.empty_strided(shape, stride, dtype=dtype, device=device)
            tensors[key] = made.copy_(torch.randn(shape, device=device))
        return tensors[key]

    calls = []
    for product in products:
        first, second = (
            tensor(shape, stride, product.dtype) for shape, stride in zip(product.shapes, product.strides, strict=True)
        )
        out = tensor((*first.shape[:-1], second.shape[-1]), None, product.dtype)
        calls.append(partial(torch.mm if first.ndim == 2 else torch.bmm, first, second, out=out))

    def run() -> None:
        for call in calls:
            call()

    return run


def take_turns(
    turns: dict[str, Callable[[], object]], rounds: int, device: torch.device
) -> tuple[dict[str, float], dict[str, float]]:
    """(median seconds, median cores kept busy) of each contestant, one call a round after two to warm up."""
    taken: dict[str, list[float]] = {name: [] for name in turns}
    busy: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(-2, rounds):
        for name, turn in turns.items():
            synchronise(device)
            started, used = time.perf_counter(), time.process_time()
            turn()
            synchronise(device)
            if number >= 0:
                spent = time.perf_counter() - started
                taken[name].append(spent)
                busy[name].append((time.process_time() - used) / spent)
    return (
        {name: statistics.median(found) for name, found in taken.items()},
        {name: round(statistics.median(found), 2) for name, found in busy.items()},
    )


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def hardware(device: torch.device) -> dict[str, Any]:
    """The machine without its name."""
    found = {"cores": os.cpu_count(), "threads": torch.get_num_threads(), "machine": platform.machine()}
    accelerator = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {**found, "instructions": torch.backends.cpu.get_cpu_capability(), "accelerator": accelerator}


def _figures(seconds: dict[str, float], rows: int) -> dict[str, float]:
    figures = {f"step_over_gemm_{p}": seconds[f"step_{p}"] / seconds[f"gemm_{p}"] for p in PRECISIONS}
    figures |= {f"rows_per_second_{p}": rows / seconds[f"step_{p}"] for p in PRECISIONS}
    for precision in PRECISIONS:
        if f"compiled_{precision}" in seconds:
            figures[f"compiled_over_eager_{precision}"] = (
                seconds[f"compiled_{precision}"] / seconds[f"step_{precision}"]
            )
    return figures


def _ceilings(seconds: dict[str, float], products: dict[str, list[Product]], device: torch.device) -> dict[str, float]:
    ceilings = {
        f"gemm_gflop_per_second_{p}": sum(product.flop for product in products[p]) / seconds[f"gemm_{p}"] / 1e9
        for p in PRECISIONS
    }
    source = torch.ones(1 << 26, dtype=torch.uint8, device=device)
    copies = {"memcpy": partial(torch.empty_like(source).copy_, source)}
    if device.type == "cuda":
        pinned = torch.ones(1 << 26, dtype=torch.uint8, pin_memory=True)
        copies["host_to_device"] = partial(source.copy_, pinned, non_blocking=True)
    copied, _ = take_turns(copies, ROUNDS, device)
    return ceilings | {f"{name}_gb_per_second": source.nbytes / taken / 1e9 for name, taken in copied.items()}


def _listed(products: list[Product]) -> list[dict[str, Any]]:
    counted = Counter((product.shapes, str(product.dtype).removeprefix("torch.")) for product in products)
    return [{"shapes": shapes, "dtype": dtype, "times": times} for (shapes, dtype), times in counted.items()]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("rows", nargs="?", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--compile", action="store_true")
    given = parser.parse_args()
    main(given.rows, threads=given.threads, compiled=given.compile)
