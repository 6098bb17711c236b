"""A task in the units every representation works in."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from dynfusion.evaluation.representations.imputers import standardise_present
from dynfusion.evaluation.tasks.task import TaskData


def standardised(task: TaskData, statistics: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> TaskData:
    """The task in units of the pool's standard deviation, floored and clipped as the fusion model sees it."""
    values = standardise_present(task.values, task.present, modalities=task.modalities, statistics=statistics)
    return replace(task, values=values)
