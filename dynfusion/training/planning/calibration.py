"""What this machine reaches, measured in about two seconds, and kept as JSON so that others can plan for it.

products of the run and of a few sizes --as many workers at once as will be--> operations a second
a product of two large arrays, number by number ------------------------------> bytes a second of a pass
rows gathered in random order ------------------------------------------------> bytes a second of the feed
a step with next to no numbers in it -----------------------------------------> seconds of a call
"""

import math
import os
import statistics
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Final, Literal

import psutil
import torch
from pydantic import Field
from torch import Tensor

from dynfusion.fusion.batch import Batch
from dynfusion.fusion.losses import LossSettings
from dynfusion.fusion.model import FusionNetwork, ModelSettings
from dynfusion.fusion.objective import FusionObjective
from dynfusion.settings import Settings, build, parse_json
from dynfusion.training.config import EngineSettings, TrainSettings
from dynfusion.training.engine import TorchEngine
from dynfusion.training.host_memory import keep_freed_memory
from dynfusion.training.planning.passes import calls
from dynfusion.training.planning.work import Product, Shape

FORMAT: Final = "dynfusion-calibration-1"
USUAL = tuple(
    Product(512, inner, columns) for inner, columns in ((16, 16), (64, 64), (128, 512), (512, 128), (512, 512))
)
"""Sizes that are measured whatever the run's are, so that a kept calibration serves other runs."""
MOST_ROWS = 1024
SMALLEST_SHARE = 0.01
REPEATS = 5
PASS_NUMBERS = 1 << 22

Precision = Literal["fp32", "bf16"]


class ProductRate(Settings):
    """How fast one product of these sizes was: operations a second of one worker."""

    rows: int = Field(ge=1)
    inner: int = Field(ge=1)
    columns: int = Field(ge=1)
    precision: Precision
    flops_per_second: float = Field(gt=0)

    def distance(self, product: Product) -> float:
        """How unlike the sizes are: a factor of e in one of them counts 1."""
        pairs = ((self.rows, product.rows), (self.inner, product.inner), (self.columns, product.columns))
        return sum(abs(math.log(mine / other)) for mine, other in pairs)


class Calibration(Settings):
    """What one worker of `threads` threads reached while `workers` of them worked at once."""

    format: Literal["dynfusion-calibration-1"] = FORMAT
    processor: str
    """Its instructions, as torch names them."""
    cores: int = Field(ge=1)
    memory_bytes: int = Field(ge=1)
    threads: int = Field(ge=1)
    workers: int = Field(ge=1)
    products: tuple[ProductRate, ...] = Field(min_length=1)
    pass_rate: float = Field(gt=0)
    """Bytes a second that one worker reads and writes in operations on large arrays."""
    gather_rate: float = Field(gt=0)
    """Bytes a second that one thread gathers in random rows."""
    call_seconds: float = Field(gt=0)

    def product_rate(self, product: Product, precision: str) -> float:
        """Operations a second of the measured product that is most like this one.

        Raises ValueError when none was measured at this precision.
        """
        known = [rate for rate in self.products if rate.precision == precision]
        if not known:
            raise ValueError(f"calibration: holds no products in {precision}, make it again with this run")
        return min(known, key=lambda rate: rate.distance(product)).flops_per_second


def read_calibration(path: Path) -> Calibration:
    """A kept calibration. Raises ValueError when the file is not one."""
    try:
        tree = parse_json(path.read_bytes(), "it")
        if not isinstance(tree, dict) or tree.get("format") != FORMAT:
            raise ValueError(f"expected a JSON object with format {FORMAT!r}")
        return build(Calibration, tree)
    except (OSError, ValueError) as error:
        raise ValueError(f"calibration {path}: not readable, {error}") from None


def write_calibration(calibration: Calibration, path: Path) -> None:
    """Keep it for `read_calibration`."""
    path.write_text(calibration.model_dump_json(indent=1) + "\n", encoding="utf-8")


def calibrate(products: Iterable[Product], precision: Precision, *, workers: int, threads: int) -> Calibration:
    """Measure this machine with as many workers at once as its cores hold, at most `workers`."""
    cores = available_cores()
    threads = min(threads, cores)
    at_once = max(1, min(workers, cores // threads))
    wanted = _worth_measuring(products)
    keep_freed_memory()  # as a worker does
    usual = torch.get_num_threads()
    together = Barrier(at_once)
    with ThreadPoolExecutor(at_once) as pool:
        jobs = [pool.submit(_one_worker, wanted, precision, threads, together) for _ in range(at_once)]
        found = [job.result() for job in jobs]
    torch.set_num_threads(threads)
    call_seconds = _call_seconds()
    torch.set_num_threads(usual)
    rates = [statistics.fmean(worker[number] for worker in found) for number in range(len(found[0]))]
    return Calibration(
        processor=torch.backends.cpu.get_cpu_capability(),
        cores=cores,
        memory_bytes=psutil.virtual_memory().total,
        threads=threads,
        workers=at_once,
        products=tuple(
            ProductRate(
                rows=product.rows,
                inner=product.inner,
                columns=product.columns,
                precision=precision,
                flops_per_second=rate,
            )
            for product, rate in zip(wanted, rates, strict=False)
        ),
        pass_rate=rates[-2],
        gather_rate=rates[-1],
        call_seconds=call_seconds,
    )


def available_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _worth_measuring(products: Iterable[Product]) -> list[Product]:
    """Each size once, with rows that a second holds many of, but for those that hardly count; and the usual ones."""
    listed = list(products)
    least = SMALLEST_SHARE * sum(product.flops for product in listed)
    cut = [_cut(product) for product in listed if product.flops >= least]
    return list(dict.fromkeys([*cut, *USUAL]))


def _cut(product: Product) -> Product:
    """One product of the same kind: neither rows nor, in a weight's gradient, the sum over rows longer than needed."""
    return Product(min(product.rows, MOST_ROWS), min(product.inner, MOST_ROWS), min(product.columns, MOST_ROWS))


def _one_worker(products: list[Product], precision: Precision, threads: int, together: Barrier) -> list[float]:
    """Rates of the products, of a pass and of a gather, measured at the same time as the other workers'."""
    torch.get_num_threads()  # the first call in a thread overwrites what was set before it
    torch.set_num_threads(threads)
    works = [(_product(one, precision), one.flops, threads) for one in products]
    works += [(_pass(), 3 * 4 * PASS_NUMBERS, threads), (_gather(), 2 * PASS_NUMBERS, 1)]
    found = []
    for work, amount, on in works:
        torch.set_num_threads(on)
        together.wait()
        found.append(amount / _seconds(work))
    return found


def _seconds(work: Callable[[], object]) -> float:
    """The median of a few times, after one to warm up: whatever else runs here now will run then too."""
    work()
    return statistics.median(_timed(work) for _ in range(REPEATS))


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _product(product: Product, precision: Precision) -> Callable[[], Tensor]:
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    left = torch.randn(product.rows, product.inner).to(kind)
    right = torch.randn(product.columns, product.inner).to(kind)
    return lambda: torch.nn.functional.linear(left, right)


def _pass() -> Callable[[], Tensor]:
    left, right = torch.randn(PASS_NUMBERS // 1024, 1024), torch.randn(PASS_NUMBERS // 1024, 1024)
    return lambda: left * right


def _gather() -> Callable[[], Tensor]:
    rows = PASS_NUMBERS // 1024
    source, order = torch.zeros(rows, 1024, dtype=torch.float16), torch.randperm(rows)
    out = torch.empty_like(source)
    return lambda: torch.index_select(source, 0, order, out=out)


def _call_seconds() -> float:
    """Of a training step whose tensors hold next to nothing, by its number of operations."""
    model = ModelSettings(dim=2, gate_hidden=1, decoder_hidden=1, score_hidden=1)
    dims, rows = {"first": 2, "second": 2, "third": 2}, 8
    present = torch.ones(rows, len(dims), dtype=torch.bool)
    with torch.random.fork_rng(devices=[]):
        objective = FusionObjective(FusionNetwork(dims, model), LossSettings())
    engine = TorchEngine(objective, TrainSettings(), EngineSettings(kind="torch"), torch.device("cpu"))
    hidden = present & (torch.arange(rows)[:, None] % len(dims) == torch.arange(len(dims)))
    values = tuple(torch.ones(rows, width, dtype=torch.float16) for width in dims.values())
    batch = Batch(values, present, hidden, torch.arange(rows), rows // 2)

    def step() -> None:
        coefficients = objective.coefficients(engine.sum(objective.counts(batch)))
        totals, _ = engine.forward(batch)
        engine.backward((coefficients.to(totals.dtype) * totals).sum())
        engine.step(1e-3)

    shape = Shape(tuple(dims.values()), model, LossSettings(), "fp32", rows, rows // 2, (1.0,) * len(dims))
    return _seconds(step) / calls(shape)
