"""The table of metrics: what each is for, what chance scores, and how its resamples are computed.

A metric has two steps, so that metrics of one sample share the first: `prepare` sorts and counts, `value` reduces. To
add one, write its function and its row.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float

from dynfusion.evaluation.scores.ranking import areas
from dynfusion.evaluation.scores.regression import Predictions, r2, rmse, spearman
from dynfusion.evaluation.tasks.task import Kind

CLASSES: tuple[Kind, ...] = ("binary", "multiclass")


@dataclass(frozen=True)
class Metric:
    """One number that is reported of scores beside labels."""

    name: str
    kinds: tuple[Kind, ...]
    """Tasks it belongs to."""
    chance: float | None
    """What a constant scores; None where that follows from the labels."""
    higher_is_better: bool
    prepare: Callable[..., Any]
    """(scores [rows], labels [rows], counts uint8 [rows, resamples]) to what `value` takes."""
    value: Callable[[Any], Float[np.ndarray, "resamples"]]
    """The metric of every resample, NaN where it is undefined."""


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            Metric("roc_auc", CLASSES, 0.5, True, areas, attrgetter("roc_auc")),
            Metric("pr_auc", CLASSES, None, True, areas, attrgetter("pr_auc")),
            Metric("r2", ("regression",), 0.0, True, Predictions, r2),
            Metric("rmse", ("regression",), None, False, Predictions, rmse),
            Metric("spearman", ("regression",), 0.0, True, Predictions, spearman),
        )
    }
)
PRIMARY: Mapping[Kind, str] = MappingProxyType({"binary": "roc_auc", "multiclass": "roc_auc", "regression": "r2"})


def metrics_of(kind: Kind) -> tuple[str, ...]:
    """Names of the metrics of a kind of task, the primary one first."""
    return tuple(name for name, metric in METRICS.items() if kind in metric.kinds)
