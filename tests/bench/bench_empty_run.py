"""How long a run of Ray Train and DeepSpeed takes that trains nothing: the floor under what a trial costs.

    python -m tests.bench.bench_empty_run [--rounds N]

One worker, one CPU, a cluster and a driver that are warm, as a sweep's are: the worker imports torch and DeepSpeed,
makes an engine of one small layer, takes one step and reports it with a checkpoint of a few bytes. Nothing of
dynfusion's runs in it but the start of the local cluster. Prints one JSON line with the seconds of every round; the
first one, in which Ray's own agents may still be starting, is left out of the median.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train import Checkpoint, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from dynfusion.edges.ray_cluster import cluster

CONFIG = {"train_micro_batch_size_per_gpu": 1}


def train_nothing() -> None:
    """One step of one layer, by one rank."""
    import deepspeed

    model = torch.nn.Linear(8, 8)
    engine, *_ = deepspeed.initialize(model=model, optimizer=torch.optim.AdamW(model.parameters()), config=CONFIG)
    engine.backward(engine(torch.ones(1, 8)).sum())
    engine.step()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "step").write_text("1")
        ray.train.report({"step": 1}, checkpoint=Checkpoint(folder))


def main(rounds: int = 6) -> dict[str, Any]:
    """Measure, print one JSON line and return what it says."""
    taken = []
    with tempfile.TemporaryDirectory() as storage, cluster(cpus=2):
        for number in range(rounds):
            started = time.perf_counter()
            TorchTrainer(
                train_nothing,
                scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1}),
                run_config=RunConfig(name=f"empty-{number}", storage_path=storage),
            ).fit()
            taken.append(round(time.perf_counter() - started, 1))
    result = {
        "benchmark": "empty run",
        "seconds": taken,
        "median_of_warm": statistics.median(taken[1:]),
        "hardware": {"cores": os.cpu_count(), "machine": platform.machine()},
        "versions": {name: version(name) for name in ("torch", "ray", "deepspeed")},
    }
    print(json.dumps(result))
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    main(parser.parse_args().rounds)
