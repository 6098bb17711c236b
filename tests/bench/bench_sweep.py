"""What a sweep costs beside its trials, what ASHA saves, and whether anything grows over many trials.

    python -m tests.bench.bench_sweep PACK STORAGE [--only compare seeds long many] [--set NAME=VALUE ...]

`compare` runs the same samples with the same seed twice, FIFO and then ASHA: the best of each, the molecules that ASHA
trained on as a share of FIFO's (by the histories of the runs, whatever the sweep says), and the median seconds that a
trial took beside its training. `seeds` runs the best two of the FIFO sweep and the default again with five seeds: the
standard deviation over seeds, and the winner less the default, on the objective and on the test split. `replay` lets
ASHA judge the curves of that FIFO sweep, in its order and in 1,000 random ones, one trial after the other. `long` is
two trials of `--long-epochs` epochs: what share the seconds beside training are. `many` runs trials of a tiny model for
a few steps: the memory of what lasts (driver, head, all trials' processes) after 20 trials and at the end, and how many
of the sweep's processes are alive ten seconds after it.
Prints one JSON line a part; every sweep is an ordinary `dynfusion tune` on a cluster of its own.
"""

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from dynfusion.edges.tune_schedulers import make_judge
from dynfusion.training.storage import LocalStorage
from dynfusion.tuning.records import Point, Sweep, Trial, read_curves, read_sweep, read_trials

LASTING = ("gcs_server", "raylet", "dashboard", "ResourceTrainable")
EARLY = 20
SECONDS, LEAVING_SECONDS = 5.0, 10.0
TINY = {
    "model.dim": 8,
    "model.gate_hidden": 4,
    "model.decoder_hidden": 8,
    "model.score_hidden": 4,
    "train.epochs": 1,
    "engine.kind": "torch",
    "validation.rows": 64,
}
ENDED = ("finished", "stopped", "failed")
PARTS = ("compare", "seeds", "replay", "long", "many")
ORDERS = 1000


@dataclass(frozen=True)
class Bench:
    """What all parts share: the data, where sweeps are kept, and how they are asked for."""

    pack: str
    storage: Path
    space: str = "tune_spaces/joint.toml"
    run: str = "jobs/runs/pretrained.toml"
    samples: int = 48
    many: int = 200
    long_epochs: int = 10
    at_once: int | None = None
    overrides: tuple[str, ...] = ()

    def options(self, samples: int, *others: str) -> list[str]:
        """Of a sweep of so many trials; no finals unless `others` ask for them."""
        at_once = () if self.at_once is None else ("--at-once", str(self.at_once))
        return ["--samples", str(samples), *(others or ("--top-k", "0")), *at_once]


def main(bench: Bench, parts: Sequence[str] = PARTS) -> dict[str, Any]:
    """Run the parts and print a line for each; what the lines say comes back by part."""
    measured = {"compare": compare, "seeds": fresh_seeds, "replay": replay, "long": long_trials, "many": many_trials}
    found = {}
    for part in parts:
        head = {
            "benchmark": f"sweep {part}",
            "cpus": os.cpu_count(),
            "ray": version("ray"),
            "space": bench.space,
            "run": bench.run,
            "at_once": bench.at_once,
        }
        found[part] = head | measured[part](bench)
        print(json.dumps(found[part]))
    return found


def compare(bench: Bench) -> dict[str, Any]:
    """FIFO and then ASHA over the same samples."""
    figures: dict[str, Any] = {"samples": bench.samples, "overrides": list(bench.overrides)}
    trained = {}
    for scheduler in ("fifo", "asha"):
        options = bench.options(bench.samples, "--scheduler", scheduler, "--top-k", "0")
        seconds, _, _ = sweep(bench, f"bench-{scheduler}", options)
        folder = bench.storage / f"bench-{scheduler}"
        trials = of_sweep(folder)
        trained[scheduler] = sum(trained_samples(folder / trial.run) for trial in trials)
        spread = {"standard_deviations": standard_deviations(folder)}
        figures[scheduler] = (
            summary(trials) | spread | {"trained_samples": trained[scheduler], "seconds": round(seconds)}
        )
    return figures | {"asha_trained_over_fifo": round(trained["asha"] / trained["fifo"], 3)}


def standard_deviations(sweep_folder: Path) -> dict[str, float]:
    """Of the parts of the objective over the finished trials' last checks."""
    storage = LocalStorage(sweep_folder)
    finished = {trial.id for trial in read_trials(storage) if trial.state == "finished"}
    last = [points[-1].metrics for name, points in read_curves(storage).items() if name in finished]
    parts = [part for part in ("over_ridge", "probe") if all(part in metrics for metrics in last)]
    return {part: statistics.stdev(metrics[part] for metrics in last) for part in parts} if len(last) > 1 else {}


def trained_samples(run: Path) -> int:
    """Molecules that a run was trained on, by its own history, to the last record that it left."""
    batch = json.loads((run / "run.json").read_text())["settings"]["train"]["global_batch_rows"]
    lines = (run / "history.jsonl").read_text().splitlines()
    return int(batch * max((json.loads(line)["step"] for line in lines), default=0))


def fresh_seeds(bench: Bench) -> dict[str, Any]:
    """The FIFO sweep of `compare`, extended by runs with fresh seeds."""
    options = bench.options(bench.samples, "--scheduler", "fifo", "--top-k", "2", "--seeds", "5")
    sweep(bench, "bench-fifo", options)
    report = json.loads((bench.storage / "bench-fifo" / "report.json").read_text())
    name = report["sweep"]["objectives"][0]["name"]
    records = {record["label"]: record for record in report["finals"]}
    scores = {label: [seed[name] for seed in record["seeds"]] for label, record in records.items()}
    return {
        "winner": report["winner"],
        "scores": scores,
        "seed_standard_deviations": {label: statistics.stdev(values) for label, values in scores.items()},
        "winner_less_default": records[report["winner"]]["differences"][name],
        "test": report["test"],
    }


def replay(bench: Bench) -> dict[str, Any]:
    """What ASHA would have made of the FIFO sweep of `compare`, whose runs do not depend on who is stopped."""
    folder = LocalStorage(bench.storage / "bench-fifo")
    curves = {name: points for name, points in read_curves(folder).items() if points}
    asha = replace(read_sweep(folder), scheduler="asha", grace=0.2, reduction=4)
    orders, draw = [sorted(curves)], random.Random(0)
    orders += [draw.sample(orders[0], len(curves)) for _ in range(ORDERS)]
    made = [judged(asha, curves, order) for order in orders]
    shares, bests = zip(*made[1:], strict=True)
    best = judged(replace(asha, scheduler="fifo"), curves, orders[0])[1]
    low, middle, high = (statistics.quantiles(shares, n=40)[at] for at in (0, 19, 38))
    return {
        "best_of_fifo": best,
        "this_order": dict(zip(("share", "best"), made[0], strict=True)),
        "random_orders": ORDERS,
        "share": {"median": round(middle, 3), "of_95_in_100": [round(low, 3), round(high, 3)]},
        "orders_at_most_0.4": round(sum(share <= 0.4 for share in shares) / ORDERS, 3),
        "orders_that_keep_the_best": round(sum(found == best for found in bests) / ORDERS, 3),
        "best_lost_by_when_lost": round(statistics.mean([best - found for found in bests if found < best] or [0.0]), 4),
    }


def judged(sweep: Sweep, curves: dict[str, tuple[Point, ...]], order: Sequence[str]) -> tuple[float, float]:
    """(share of all molecules that are trained on, best score of those that reach the end)."""
    name, longest = sweep.objectives[0].name, max(points[-1].samples_seen for points in curves.values())
    judge, seen, best = make_judge(sweep, longest), 0, -math.inf
    for trial in order:
        last = curves[trial][-1]
        stops = (p for p in curves[trial] if judge(trial, p.samples_seen, p.objectives[name]) and p is not last)
        ended = next(stops, last)
        seen += ended.samples_seen
        best = max(best, ended.objectives[name]) if ended is last else best
    return seen / sum(points[-1].samples_seen for points in curves.values()), best


def long_trials(bench: Bench) -> dict[str, Any]:
    """Two trials that last; each is checked five times."""
    sweep(bench, "bench-long", bench.options(2), [f"train.epochs={bench.long_epochs}"])
    trials = of_sweep(bench.storage / "bench-long")
    return summary(trials) | {
        "overhead_over_training": [round(trial.overhead_seconds / trial.seconds, 3) for trial in trials]
    }


def many_trials(bench: Bench) -> dict[str, Any]:
    """Many trials that are next to nothing."""
    samples = bench.many
    tiny = [f"{name}={value}" for name, value in TINY.items()]
    seconds, memory, left = sweep(bench, "bench-many", bench.options(samples), tiny)
    trials = of_sweep(bench.storage / "bench-many")
    early = next((taken for done, taken in memory if done >= min(EARLY, samples)), {})
    late = memory[-1][1] if memory else {}
    grown = {name: [early.get(name, 0) >> 20, size >> 20] for name, size in late.items()}
    measured = {"seconds": round(seconds), f"mb_after_{EARLY}_and_at_the_end": grown, "processes_left": left}
    return summary(trials) | {"samples": samples} | measured


def sweep(
    bench: Bench, name: str, options: Sequence[str], overrides: Sequence[str] = ()
) -> tuple[float, list[tuple[int, dict[str, int]]], int]:
    """Seconds, memory of lasting processes by the number of trials done, processes left. Raises when it fails."""
    storage = bench.storage
    given = [f"data.uri={bench.pack}", f"cluster.storage={storage}", *bench.overrides, *overrides]
    command = [sys.executable, "-m", "dynfusion", "tune", bench.space, "--run", bench.run, "--name", name]
    command += [*options, *given]
    storage.mkdir(parents=True, exist_ok=True)
    taken: list[tuple[int, dict[str, int]]] = []
    seen: dict[int, psutil.Process] = {}
    ended = threading.Event()
    started = time.monotonic()
    with (storage / f"{name}.log").open("w") as log:
        driver = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

        def watch() -> None:
            while not ended.wait(SECONDS):
                seen.update({process.pid: process for process in family(driver.pid)})
                taken.append((number_done(storage, name), lasting(driver.pid)))

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            code = driver.wait()
        finally:
            ended.set()
            thread.join()
    if code != 0:
        raise subprocess.CalledProcessError(code, command)
    seconds = time.monotonic() - started
    until = time.monotonic() + LEAVING_SECONDS
    while (alive := [process for process in seen.values() if lives(process)]) and time.monotonic() < until:
        time.sleep(0.2)
    return seconds, [pair for pair in taken if pair[1]], len(alive)


def lives(process: psutil.Process) -> bool:
    """Whether it is there and no zombie."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def family(driver: int) -> list[psutil.Process]:
    """The driver and everything that it started; nothing once it is gone."""
    try:
        return [psutil.Process(driver), *psutil.Process(driver).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def lasting(driver: int) -> dict[str, int]:
    """Unshared memory in bytes of the driver and of the head's processes."""
    found: dict[str, int] = {}
    for number, process in enumerate(family(driver)):
        try:
            said = " ".join(process.cmdline())
            name = "driver" if number == 0 else next((n for n in LASTING if f"{n}" in said.split("--")[0]), None)
            memory = process.memory_info()
        except psutil.NoSuchProcess:
            continue
        if name is not None:
            found[name] = found.get(name, 0) + memory.rss - memory.shared
    return found


def number_done(storage: Path, name: str) -> int:
    """Trials that are over."""
    states = [json.loads(path.read_text())["state"] for path in (storage / name / "trials").glob("[!.]*.json")]
    return sum(state in ENDED for state in states)


def of_sweep(folder: Path) -> tuple[Trial, ...]:
    return read_trials(LocalStorage(folder))


def summary(trials: Sequence[Trial]) -> dict[str, Any]:
    """The best of the finished trials and what all of them took."""
    scores = [next(iter(t.objectives.values())) for t in trials if t.objectives and t.state == "finished"]
    return {
        "best": max(scores, default=None),
        "states": {state: sum(trial.state == state for trial in trials) for state in ENDED},
        "samples_seen": sum(trial.samples_seen for trial in trials),
        "median_training_seconds": round(statistics.median(trial.seconds for trial in trials), 1),
        "median_overhead_seconds": round(statistics.median(trial.overhead_seconds for trial in trials), 1),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack")
    parser.add_argument("storage", type=Path)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--space", default="tune_spaces/joint.toml")
    parser.add_argument("--run", default="jobs/runs/pretrained.toml")
    parser.add_argument("--samples", type=int, default=48)
    parser.add_argument("--many", type=int, default=200)
    parser.add_argument("--long-epochs", type=int, default=10)
    parser.add_argument("--at-once", type=int)
    parser.add_argument("--set", dest="overrides", nargs="*", default=[])
    told = vars(parser.parse_args())
    parts = told.pop("only")
    told |= {"storage": told["storage"].absolute(), "overrides": tuple(told["overrides"])}
    main(Bench(**told), parts)
