"""What stands around a training step, and what it costs: DeepSpeed, the feed, a second worker, Ray Train.

    python -m tests.bench.bench_train [rows] [--only PART ...]

* `deepspeed_over_torch`: seconds of a step with DeepSpeed at stage 0 over those with the plain torch engine.
* `end_to_end_over_step`: rows a second of the training loop, fed from a packed set in the page cache, over those of the
  same steps on one batch that is already there.
* `two_over_one_vs_gemm`: what two workers of one thread reach over one, as a share of what two processes reach over one
  when they run nothing but the step's matrix products.
* `ray_over_loop`: rows a second of a Ray Train worker over those of the same loop in a plain process, one thread each.

Contestants take turns and figures come from medians over rounds; Ray Train, which cannot be paused, runs between two
plain loops. A part whose library is not installed is left out, and the line says so under `left_out`.
"""

import argparse
import json
import multiprocessing
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from dynfusion.fusion.losses import LossSettings
from dynfusion.fusion.masking import MaskingSettings
from dynfusion.fusion.model import ModelSettings
from dynfusion.store.dataset import Dataset, open_dataset
from dynfusion.store.feed import Feed, FeedSettings
from dynfusion.training.assemble import make_objective, make_order, make_plan
from dynfusion.training.config import DataSettings, EngineSettings, TrainSettings
from dynfusion.training.engine import Engine, TorchEngine
from dynfusion.training.loop import Plan, Record, train
from tests.bench.bench_feed import _pack_noise
from tests.bench.bench_step import (
    DIMS,
    PRESENT_SHARE,
    Recorder,
    hardware,
    make_batch,
    make_step,
    product_runner,
    take_turns,
    train_step,
)
from tests.training.ranks import run_ranks

ROUNDS = 5
LIBRARIES = {"deepspeed": ("deepspeed",), "feed": (), "two": (), "ray": ("ray", "deepspeed")}
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def main(
    size: int = 32_768,
    *,
    batch_rows: int = 2048,
    rounds: int = ROUNDS,
    parts: tuple[str, ...] = tuple(LIBRARIES),
    dims: dict[str, int] = DIMS,
) -> dict[str, Any]:
    """Measure with `size` packed rows in a temporary folder; print one JSON line and return what it says."""
    missing = {part: [n for n in LIBRARIES[part] if find_spec(n) is None] for part in parts}
    measured: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        uri = str(_pack_noise(folder, size).uri) if {"feed", "ray"} & set(parts) else ""
        work: dict[str, Callable[[], dict[str, float]]] = {
            "deepspeed": partial(alone, folder / "deepspeed", deepspeed_and_torch, batch_rows, dims, rounds),
            "feed": partial(loop_and_steps, uri, batch_rows, rounds),
            "two": partial(one_and_two, folder / "two", batch_rows, dims, rounds),
            "ray": partial(ray_and_loop, uri, folder / "runs", batch_rows, rounds),
        }
        for part in parts:
            if not missing[part]:
                measured[part] = work[part]()
    result = {
        "benchmark": "train",
        "figures": figures(measured),
        "ceilings": {key: value for found in measured.values() for key, value in found.items()},
        "left_out": {part: f"{' and '.join(names)} not installed" for part, names in missing.items() if names},
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "hardware": hardware(DEVICE),
        "settings": {"rows": size, "batch_rows": batch_rows, "present_share": PRESENT_SHARE, "rounds": rounds},
    }
    print(json.dumps(result))
    return result


def figures(measured: dict[str, dict[str, float]]) -> dict[str, float]:
    """The ratios of whatever was measured."""
    found = {}
    if seconds := measured.get("deepspeed"):
        found["deepspeed_over_torch"] = seconds["deepspeed_seconds"] / seconds["torch_seconds"]
    if seconds := measured.get("feed"):
        found["end_to_end_over_step"] = seconds["step_only_seconds"] / seconds["end_to_end_seconds"]
    if seconds := measured.get("two"):
        steps = 2 * seconds["one_worker_seconds"] / seconds["two_workers_seconds"]
        products = 2 * seconds["one_gemm_seconds"] / seconds["two_gemm_seconds"]
        found |= {"two_over_one": steps, "two_over_one_gemm": products, "two_over_one_vs_gemm": steps / products}
    if rates := measured.get("ray"):
        found["ray_over_loop"] = rates["ray_rows_per_second"] / rates["loop_rows_per_second"]
    return found


def alone(folder: Path, work: Callable[..., dict[str, float]], *given: Any) -> dict[str, float]:
    """`work(*given)` in a process of its own with a process group of one rank."""
    return run_ranks(1, folder, work, *given)[0]


def deepspeed_and_torch(rows: int, dims: dict[str, int], rounds: int) -> dict[str, float]:
    """Seconds of a step with each engine."""
    from dynfusion.edges.deepspeed_engine import DeepSpeedEngine

    plain = make_step(rows, dims, EngineSettings(kind="torch"), DEVICE)
    other, _, batch = make_step(rows, dims, EngineSettings(kind="torch"), DEVICE)
    engine = DeepSpeedEngine(other, TrainSettings(), EngineSettings(), DEVICE)
    turns = {"torch": partial(train_step, *plain), "deepspeed": partial(train_step, other, engine, batch)}
    seconds, _ = take_turns(turns, rounds, DEVICE)
    return {f"{name}_seconds": taken for name, taken in seconds.items()}


def loop_and_steps(uri: str, batch_rows: int, rounds: int) -> dict[str, float]:
    """Seconds of an epoch of the loop with its feed, and of as many steps on one batch."""
    plan, objective, engine, feed = make_loop(uri, batch_rows)
    steps = plan.steps_per_epoch
    batch = replace(make_batch(batch_rows, DIMS), group_rows=plan.group_rows)
    batch = replace(batch, present=torch.ones_like(batch.present)).to(DEVICE)  # as the packed rows, which are all there
    epochs = iter(range(rounds + 2))

    def epoch() -> None:
        run_epoch(plan, objective, engine, feed, next(epochs))

    def same_steps() -> None:
        for _ in range(steps):
            train_step(objective, engine, batch)

    with feed:
        seconds, _ = take_turns({"end_to_end": epoch, "step_only": same_steps}, rounds, DEVICE)
    return {f"{name}_seconds": taken / steps for name, taken in seconds.items()}


def make_loop(uri: str, batch_rows: int) -> tuple[Plan, Any, Engine, Feed]:
    """The parts of a training loop with the plain engine over a packed set."""
    dataset = open_dataset(uri)
    settings = train_settings(dataset, batch_rows)
    order = make_order(dataset.manifest, DataSettings(uri=uri), settings)
    objective = make_objective(dataset.manifest.modalities, ModelSettings(), LossSettings(), seed=0)
    engine = TorchEngine(objective, settings, EngineSettings(kind="torch"), DEVICE)
    feed = Feed(dataset, order, rank=0, world_size=1, settings=FeedSettings(threads=1), device=DEVICE)
    return make_plan(order, settings, MaskingSettings()), objective, engine, feed


def train_settings(dataset: Dataset, batch_rows: int) -> TrainSettings:
    """One epoch with one record, at its end."""
    steps = dataset.manifest.rows // batch_rows
    return TrainSettings(epochs=1, global_batch_rows=batch_rows, log_every_steps=steps, checkpoint_every_steps=steps)


def run_epoch(plan: Plan, objective: Any, engine: Engine, feed: Feed, epoch: int) -> Record:
    """The record of one epoch of the loop; the feed goes on where it stands, checkpoints are not written."""
    records: list[Record] = []
    longer = replace(plan, train=plan.train.model_copy(update={"epochs": epoch + 1}))
    start = epoch * plan.steps_per_epoch
    train(objective, engine, feed, plan=longer, start_step=start, record=records.append, checkpoint=lambda step: None)
    return records[-1]


def one_and_two(folder: Path, rows: int, dims: dict[str, int], rounds: int) -> dict[str, float]:
    """Seconds of a step and of its products, by one worker and by two at once, `rows` each."""
    return run_ranks(2, folder, alternate, rows, dims, rounds)[0]


def alternate(rows: int, dims: dict[str, int], rounds: int) -> dict[str, float]:
    """One of two ranks: rank 1 waits while rank 0 works alone, and works along where two are measured."""
    device = torch.device("cpu")
    together = make_step(rows, dims, EngineSettings(kind="torch"), device)
    objective, engine, batch = make_step(rows, dims, EngineSettings(kind="torch"), device)
    engine.world_size = 1
    with Recorder() as recorder:
        train_step(objective, engine, batch)
    products = product_runner(recorder.products, device)
    lonely = partial(train_step, objective, engine, batch)
    joint = partial(train_step, *together)
    turns = {"one_gemm": (products, 1), "two_gemm": (products, 2), "one_worker": (lonely, 1), "two_workers": (joint, 2)}
    taken: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(-1, rounds):
        for name, (turn, workers) in turns.items():
            distributed.barrier()
            started = time.perf_counter()
            if distributed.get_rank() < workers:
                turn()
            distributed.barrier()
            if number >= 0:
                taken[name].append(time.perf_counter() - started)
    return {f"{name}_seconds": statistics.median(found) for name, found in taken.items()}


def ray_and_loop(uri: str, storage: Path, batch_rows: int, rounds: int) -> dict[str, float]:
    """Rows a second: a Ray Train worker's, and the mean of the loop's before and after it."""
    from dynfusion.edges.ray_cluster import cluster
    from dynfusion.edges.ray_train import Watch, train_on_ray
    from dynfusion.run_settings import RunSettings
    from dynfusion.settings import build

    steps = open_dataset(uri).manifest.rows // batch_rows
    settings = build(
        RunSettings,
        {
            "data": {"uri": uri, "feed": {"threads": 1}},
            "train": {
                "epochs": rounds,
                "global_batch_rows": batch_rows,
                "log_every_steps": steps,
                "checkpoint_every_steps": rounds * steps,
            },
            "engine": {"kind": "torch"},
            "cluster": {"name": "bench", "storage": str(storage), "workers": 1},
        },
    )
    before = in_new_process(plain_rates, uri, batch_rows, rounds)
    records: list[Record] = []
    with cluster(cpus=2):
        train_on_ray(settings, Watch(records.append, lambda text: None))
    after = in_new_process(plain_rates, uri, batch_rows, rounds)
    return {
        "ray_rows_per_second": statistics.median(record["rows_per_second"] for record in records),
        "loop_rows_per_second": statistics.median([*before, *after]),
    }


def plain_rates(uri: str, batch_rows: int, rounds: int) -> list[float]:
    """Rows a second of each epoch of the loop in this process, one thread."""
    torch.set_num_threads(1)
    plan, objective, engine, feed = make_loop(uri, batch_rows)
    with feed:
        return [run_epoch(plan, objective, engine, feed, n)["rows_per_second"] for n in range(rounds)]


def in_new_process(work: Callable[..., Any], *given: Any) -> Any:
    """`work(*given)` in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, given)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("rows", nargs="?", type=int, default=32_768)
    parser.add_argument("--only", nargs="+", choices=tuple(LIBRARIES), default=tuple(LIBRARIES))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    given = parser.parse_args()
    main(given.rows, parts=tuple(given.only), rounds=given.rounds)
