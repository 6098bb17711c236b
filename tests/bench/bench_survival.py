"""Half an hour of training in which workers are killed at random: does it finish, does anything grow, is anything lost?

    python -m tests.bench.bench_survival RUN.toml STORAGE [--kill-every-seconds 120] [--set NAME=VALUE ...]

Trains the run twice, as `dynfusion train` does: once undisturbed, and once while a random worker gets SIGKILL at random
times, exponentially distributed about the given mean. Prints one JSON line: kills, seconds, whether the weights are the
same bytes, whether the same steps are recorded, and memory and open files of the driver's processes early and late.
Ends with a sentence and exit code 1 when weights or recorded steps differ.
"""

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

SAMPLE_SECONDS = 5.0
LASTING = ("raylet", "gcs_server", "ray::TrainController")
"""Processes that live as long as the run, beside the driver itself."""


@dataclass
class Watcher:
    """Samples the lasting processes of a driver, and kills a worker now and then."""

    driver: int
    kill_every_seconds: float | None
    kills: list[float] = field(default_factory=list)
    samples: list[dict[str, tuple[int, int]]] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        chance = random.Random(0)
        started = time.monotonic()
        next_kill = started + (chance.expovariate(1 / self.kill_every_seconds) if self.kill_every_seconds else 1e9)
        while not self.done.wait(SAMPLE_SECONDS):
            children = descendants(self.driver)
            self.samples.append(sample([psutil.Process(self.driver), *children]))
            workers = [child for child in children if name_of(child).startswith("ray::RayTrainWorker")]
            if workers and time.monotonic() >= next_kill:
                os.kill(chance.choice(workers).pid, signal.SIGKILL)
                self.kills.append(round(time.monotonic() - started, 1))
                next_kill = time.monotonic() + chance.expovariate(1 / self.kill_every_seconds)

    def growth(self, part: int) -> dict[str, list[int]]:
        """Per process name: the median of the first and of the last fifth of the samples (0 memory, 1 open files)."""
        found = {}
        for name in sorted({name for taken in self.samples for name in taken}):
            series = [taken[name][part] for taken in self.samples if name in taken]
            fifth = max(len(series) // 5, 1)
            found[name] = [int(statistics.median(series[:fifth])), int(statistics.median(series[-fifth:]))]
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("storage", type=Path)
    parser.add_argument("--kill-every-seconds", type=float, default=120.0)
    parser.add_argument("--set", dest="overrides", nargs="*", default=[])
    arguments = parser.parse_args()
    report: dict[str, object] = {"benchmark": "survival", "settings": [str(arguments.run), *arguments.overrides]}
    weights: dict[str, bytes] = {}
    steps: dict[str, list[int]] = {}
    for name, every in (("undisturbed", None), ("disturbed", arguments.kill_every_seconds)):
        started = time.monotonic()
        watcher = train(arguments, name, every)
        folder = arguments.storage / name
        weights[name] = (folder / "model" / "model.safetensors").read_bytes()
        records = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
        steps[name] = [record["step"] for record in records if "loss" in record]
        report[name] = {
            "seconds": round(time.monotonic() - started),
            "kills_at_seconds": watcher.kills,
            "records": len(steps[name]),
            "last_step": steps[name][-1] if steps[name] else None,
            "memory_mb_early_late": {n: [v >> 20 for v in pair] for n, pair in watcher.growth(0).items()},
            "open_files_early_late": watcher.growth(1),
        }
    lost = difference(steps["undisturbed"], steps["disturbed"], weights["undisturbed"] == weights["disturbed"])
    report |= {"nothing_is_lost": lost is None}
    print(json.dumps(report))
    if lost is not None:
        sys.exit(lost)


def difference(undisturbed: list[int], disturbed: list[int], equal_weights: bool) -> str | None:
    """What the disturbed run lost, as a sentence; None when its recorded steps and its weights are the other's."""
    if not undisturbed or undisturbed != sorted(set(undisturbed)):
        return f"the undisturbed run recorded {len(undisturbed)} steps, expected are some, each once and in order"
    if disturbed != undisturbed:
        missing, extra = sorted(set(undisturbed) - set(disturbed)), sorted(set(disturbed) - set(undisturbed))
        again = sorted({step for step in disturbed if disturbed.count(step) > 1})
        return (
            f"the disturbed run recorded other steps: {len(missing)} missing {missing[:5]}, "
            f"{len(extra)} more {extra[:5]}, {len(again)} repeated {again[:5]}"
        )
    return None if equal_weights else "the weights of the disturbed run are not those of the undisturbed one"


def train(arguments: argparse.Namespace, name: str, kill_every_seconds: float | None) -> Watcher:
    """Run `dynfusion train` to its end under a watcher. Raises CalledProcessError when it fails."""
    settings = [f"cluster.name={name}", f"cluster.storage={arguments.storage}", "cluster.max_failures=1000"]
    command = [sys.executable, "-m", "dynfusion", "train", str(arguments.run), *settings, *arguments.overrides]
    with (arguments.storage / f"{name}.log").open("w") as log:
        driver = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        watcher = Watcher(driver.pid, kill_every_seconds)
        thread = threading.Thread(target=watcher.watch)
        thread.start()
        try:
            code = driver.wait()
        finally:
            watcher.done.set()
            thread.join()
    if code != 0:
        raise subprocess.CalledProcessError(code, command)
    return watcher


def descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def name_of(process: psutil.Process) -> str:
    try:
        return process.name() if not process.name().startswith("ray::") else process.cmdline()[0]
    except (psutil.NoSuchProcess, IndexError):
        return ""


def sample(processes: list[psutil.Process]) -> dict[str, tuple[int, int]]:
    """(unshared memory in bytes, open files) of the driver and of the processes that last."""
    found = {}
    for number, process in enumerate(processes):
        name = "driver" if number == 0 else next((n for n in LASTING if name_of(process).startswith(n)), None)
        if name is None:
            continue
        try:
            memory = process.memory_info()
            found[name] = (memory.rss - memory.shared, process.num_fds())
        except psutil.NoSuchProcess:
            continue
    return found


if __name__ == "__main__":
    main()
