"""`dynfusion train`: one training run on Ray, from a run file."""

import math
import time
from collections.abc import Iterable
from pathlib import Path

from dynfusion.edges.datasets import open_sources
from dynfusion.edges.ray_board import Watch
from dynfusion.edges.ray_cluster import cluster
from dynfusion.edges.ray_train import train_on_ray
from dynfusion.edges.s3_storage import below
from dynfusion.run_settings import RunSettings, read_run
from dynfusion.training.assemble import make_mixture, make_plan
from dynfusion.training.checkpoint import MODEL
from dynfusion.verbs.display import console, progress, training_line


def train(run: str | Path, overrides: Iterable[str] = (), *, debug: bool = False) -> str:
    """Train, or continue, the run of a run file; returns the model's folder.

    Raises ValueError for wrong settings, data or a folder of another run.
    """
    return train_settings(read_run(run, overrides), debug=debug)


def train_settings(settings: RunSettings, *, debug: bool = False) -> str:
    """The same from a settings tree."""
    started = time.monotonic()
    mixture = make_mixture(open_sources(settings.data), settings.data, settings.train)
    plan = make_plan(mixture, settings.train, settings.masking)
    cpus = math.ceil(settings.cluster.workers[1] * settings.cluster.cpus_per_worker)
    with cluster(cpus=cpus, debug=debug), progress(f"train {settings.cluster.name}", lines=False) as advance:

        def show(record: dict) -> None:
            advance(record["step"], plan.total_steps)
            console.print(training_line(record, plan.total_steps))

        folder = train_on_ray(settings, Watch(record=show, say=console.print))
    model = below(folder, MODEL)
    console.print(f"model: {model}  ({time.monotonic() - started:.0f} s)")
    return model
