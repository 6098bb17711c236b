"""`dynfusion plan evaluate`: how long an evaluation will take, said before anything starts."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from dynfusion.edges.datasets import open_dataset
from dynfusion.evaluation.protocol.cost import Sizes, machine_speed, sizes_of, task_seconds
from dynfusion.evaluation.protocol.plan import Part, parts
from dynfusion.evaluation.report.assembly import FINGERPRINT_BITS
from dynfusion.evaluation.representations.features import (
    FINGERPRINT,
    FUSED,
    PROJECTION_MEAN,
    Contestant,
    Joined,
    Projected,
)
from dynfusion.evaluation.representations.fused import Fused
from dynfusion.evaluation.representations.imputers import Imputers
from dynfusion.evaluation.representations.table import lines
from dynfusion.evaluation.settings import EvaluationSettings
from dynfusion.evaluation.tasks.task import Kind, label_array, split_array
from dynfusion.verbs.display import console, duration
from dynfusion.verbs.evaluated_models import EvaluatedModel, open_models, parse_models
from dynfusion.verbs.evaluation_settings import read_settings
from dynfusion.verbs.labelled_table import TableColumns, is_table, parse_tasks, read_labelled


@dataclass(frozen=True)
class Expectation:
    """What an evaluation will cost."""

    groups: int
    """Heads, or sets of heads, that are fitted and scored."""
    cpu_seconds: Mapping[str, float]
    """By task; what comes before and after its cells is not in it."""
    kinds: Mapping[str, Kind]
    """What the labels of every task are read as."""
    cpus: int

    @property
    def seconds(self) -> float:
        """On all of the CPUs."""
        return sum(self.cpu_seconds.values()) / self.cpus

    def sentence(self) -> str:
        """The whole in one line."""
        shares = ", ".join(
            f"{name} {self.kinds[name]} {duration(found / self.cpus)}" for name, found in self.cpu_seconds.items()
        )
        return (
            f"probes take about {duration(self.seconds)} on {self.cpus} CPU{'s' if self.cpus > 1 else ''}: "
            f"{self.groups:,} groups of cells ({shares}), those already finished in the output folder nothing; the "
            "pool, imputers and embeddings come on top"
        )


def plan_evaluate(
    models: Sequence[str],
    *,
    tasks: str,
    ablations: Sequence[str] = (),
    columns: TableColumns | None = None,
    workers: int | None = None,
    overrides: Iterable[str] = (),
) -> Expectation:
    """Prints how long `evaluate` with the same arguments takes; nothing is fitted and no Ray started.

    The molecules of a CSV or Parquet file must be embedded besides, which is not part of it. Raises ValueError as
    `evaluate` does for what cannot be read.
    """
    settings = read_settings(overrides)
    opened = open_models(parse_models(models), parse_models(ablations))
    found = expectation(opened, parse_tasks(tasks), columns or TableColumns(), settings, workers)
    console.print(found.sentence())
    return found


def expectation(
    models: list[EvaluatedModel],
    tasks: Mapping[str, str],
    columns: TableColumns,
    settings: EvaluationSettings,
    workers: int | None,
) -> Expectation:
    """What it costs to evaluate models on tasks by name, on `workers` CPUs of the cluster or this machine, or all."""
    speed, here = machine_speed(), os.cpu_count() or 1
    plan = _plan(models, settings)
    widths = _widths(plan, models[0].model.dims, models[0].model.dim)
    sizes = [_sizes(name, uri, columns, settings) for name, uri in tasks.items()]
    return Expectation(
        groups=sum(one.number(part.given) for one in sizes for part in plan),
        cpu_seconds={one.name: task_seconds(one, plan, widths, speed, settings) for one in sizes},
        kinds={one.name: one.kind for one in sizes},
        cpus=workers or here if os.environ.get("RAY_ADDRESS") else min(workers or here, here),
    )


def _plan(models: list[EvaluatedModel], settings: EvaluationSettings) -> list[Part]:
    """The real plan of contestants that have not been fitted."""
    first = models[0].model
    axes = np.zeros((sum(first.dims.values()), first.dim), np.float32)
    rivals = lines(Imputers(first.modalities, dict(first.dims), {}, ""), axes, axes, structures=True)
    fused = [
        Contestant(kind, (Fused(kind, {}, {}),), one.name, one.seed)
        for one in models
        if not one.ablation
        for kind in (PROJECTION_MEAN, FUSED)
    ]
    ablated = [Contestant(FUSED, (Fused(FUSED, {}, {}),), one.name) for one in models if one.ablation]
    return parts(first.modalities, rivals, fused, ablated, settings=settings)


def _widths(plan: Iterable[Part], dims: Mapping[str, int], dim: int) -> dict[str, int]:
    """Of every member by its name."""
    total, found = sum(dims.values()), dict(dims)
    for member in (member for part in plan for member in part.contestant.members):
        if isinstance(member, Joined):
            found[member.name] = sum(dims[name] for name in member.parts)
        elif isinstance(member, Projected):
            found[member.name] = member.axes.shape[1]
        elif isinstance(member, Fused):
            found[member.name] = dim
        else:
            found.setdefault(member.name, FINGERPRINT_BITS if member.name == FINGERPRINT else total)
    return found


def _sizes(name: str, uri: str, columns: TableColumns, settings: EvaluationSettings) -> Sizes:
    if is_table(uri):
        table, labels, split = read_labelled(name, Path(uri), columns)
        ids = np.array([str(row) for row in range(table.num_rows)])
    else:
        dataset = open_dataset(uri)
        labels, split = list(dataset.manifest.label_columns), dataset.manifest.split_column
        table = pa.concat_tables([dataset.table(part) for part in ("train", "holdout", "dropped")])
        ids = np.array(table["id"].to_pylist(), dtype=str)
    found, kind, _ = label_array(name, table, tuple(labels))
    return sizes_of(name, found, kind, split_array(name, table, split, ids)[0], settings)
