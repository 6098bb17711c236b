"""What every probe is told: features, and what kind of labels it reads."""

from dataclasses import dataclass

import numpy as np

from dynfusion.evaluation.tasks.task import Kind, TaskData

Labelled = tuple[np.ndarray, np.ndarray]
"""Features [rows, dim] and labels float64 [rows, labels], NaN where missing."""


@dataclass(frozen=True)
class ProbeTask:
    """What the labels are."""

    kind: Kind
    classes: int = 0
    """Number of classes of a multiclass label, else 0."""


def probe_task(task: TaskData) -> ProbeTask:
    """What kind of labels the heads are fitted on."""
    return ProbeTask(task.kind, int(np.nanmax(task.labels)) + 1 if task.kind == "multiclass" else 0)


def indicators(labels: np.ndarray, target: ProbeTask) -> tuple[np.ndarray, np.ndarray]:
    """Labels without NaN (one-hot for classes), and where they are known."""
    known = ~np.isnan(labels)
    if target.kind != "multiclass":
        return np.where(known, labels, 0.0), known
    one_hot = labels == np.arange(target.classes)
    return one_hot.astype(np.float64), np.broadcast_to(known, one_hot.shape)
