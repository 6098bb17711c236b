"""The tasks of an evaluation: packed data sets or tables of SMILES, with what RDKit says of their molecules."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from dynfusion.edges.datasets import open_dataset
from dynfusion.edges.ray_tasks import map_on_ray
from dynfusion.encoders.structure import StructureArrays, structure_arrays
from dynfusion.evaluation.settings import EvaluationSettings
from dynfusion.evaluation.tasks.structure import Structure
from dynfusion.evaluation.tasks.task import TaskData, read_task

MOLECULES_AT_ONCE = 1024
PARTS: tuple[Literal["train", "holdout", "dropped"], ...] = ("train", "holdout", "dropped")


def check_task(name: str, uri: str | Path, dims: Mapping[str, int], settings: EvaluationSettings) -> None:
    """Raises ValueError where a packed data set cannot be a task of a model with these modalities, before any work."""
    dataset = open_dataset(uri)
    found = {spec.name: spec.dim for spec in dataset.manifest.modalities}
    if found != dict(dims):
        raise ValueError(
            f"task {name}: {uri} has the modalities {_widths(found)}, allowed are the model's: {_widths(dims)}"
        )
    folded = settings.extent != "quick" and settings.split.kind != "given"
    texts = (text for part in PARTS for text in dataset.table(part)["smiles"].to_pylist())
    if folded and not any(texts):
        raise ValueError(
            f"task {name}: {uri} has no SMILES, and evaluation.split.kind={settings.split.kind} needs them; allowed is "
            "evaluation.split.kind=given, or packing with a --table that has a column smiles"
        )


def _widths(dims: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {dim}" for name, dim in dims.items())


def read_structured(name: str, uri: str | Path) -> TaskData:
    """The task of a packed data set; with the structure of its molecules where it has SMILES.

    The caller has initialised Ray. Raises ValueError as `read_task` does.
    """
    task = read_task(name, open_dataset(uri))
    return replace(task, structure=_structure(task.smiles)) if (task.smiles != "").any() else task


def _structure(smiles: np.ndarray) -> Structure:
    chunks = [
        (smiles[start : start + MOLECULES_AT_ONCE].tolist(),) for start in range(0, len(smiles), MOLECULES_AT_ONCE)
    ]
    found: dict[int, StructureArrays] = {}
    map_on_ray(structure_arrays, chunks, finished=found.__setitem__)
    return Structure(*(np.concatenate(parts) for parts in zip(*(found[n] for n in range(len(chunks))), strict=True)))


def shares_known(task: TaskData, part: str) -> float:
    """Share of known labels in a part of the task's split, 0..1; NaN where it has no row."""
    labels = task.labels[task.rows(part)]
    return float((~np.isnan(labels)).mean()) if len(labels) else float("nan")


def describe(task: TaskData) -> Mapping[str, float]:
    """Share of molecules that have each modality, 0..1."""
    return {name: float(task.present[:, column].mean()) for column, name in enumerate(task.modalities)}
