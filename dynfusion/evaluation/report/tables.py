"""From finished groups to what a person reads: columns by how much is absent, paired differences, ties said.

A column averages over the subsets with that many modalities absent, then over seeds, then over tasks. The average is
taken inside every resample, so the interval of a column or of a difference is that of the averaged number.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from dynfusion.evaluation.protocol.plan import GroupResult
from dynfusion.evaluation.representations.features import FUSED
from dynfusion.evaluation.scores.resampling import StatisticsSettings, interval

ALL_PRESENT = "all present"
ANY_ABSENT = "any absent"
NUMBER_WORDS = ("all", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
OVER_TASKS = None
Record = dict[str, object]


@dataclass(frozen=True)
class Curves:
    """Resampled columns of every representation, for one metric; the first entry is the value itself."""

    metric: str
    modalities: tuple[str, ...]
    tasks: tuple[str, ...]
    representations: tuple[str, ...]
    found: dict[tuple[str, str, str], np.ndarray]
    """By (task, representation, column), float64 [1 + resamples]."""

    def get(self, task: str | None, representation: str, column: str) -> Float[np.ndarray, "resamples"] | None:
        """One task's resamples, or their mean over tasks (`task=None`); None where some task has no such cell."""
        wanted = [(name, representation, column) for name in (self.tasks if task is None else (task,))]
        if not all(key in self.found for key in wanted):
            return None
        return np.mean([self.found[key] for key in wanted], axis=0)


def column_names(num_modalities: int) -> list[str]:
    """Names of the columns: all present, one absent, ... and the mean over every subset with something absent."""
    counted = [f"{NUMBER_WORDS[k] if k < len(NUMBER_WORDS) else k} absent" for k in range(1, num_modalities)]
    return [ALL_PRESENT, *counted, *([ANY_ABSENT] if num_modalities > 2 else [])]


def display_name(result: GroupResult, models: Sequence[str]) -> str:
    """A representation's name in a table; several fusion models are told apart."""
    group = result.group
    return f"{group.representation} ({group.model})" if group.model and len(models) > 1 else group.representation


def curves(
    results: Sequence[GroupResult], *, metric: str, modalities: tuple[str, ...], models: Sequence[str]
) -> Curves:
    """Averages the cells of `results` into columns; single modalities only fill the column where all are present."""
    by_cell: dict[tuple[str, str, str], list[np.ndarray]] = {}
    columns = column_names(len(modalities))
    for result in results:
        name = display_name(result, models)
        single = result.group.representation in modalities
        for row, pattern in enumerate(result.patterns):
            absent = len(modalities) - len(pattern.visible)
            targets = [columns[absent], *([ANY_ABSENT] if absent and ANY_ABSENT in columns else [])]
            for column in targets if not (single and absent) else []:
                by_cell.setdefault((result.group.task, name, column), []).append(result.resampled[metric][row])
    tasks = tuple(dict.fromkeys(result.group.task for result in results))
    names = tuple(dict.fromkeys(display_name(result, models) for result in results))
    return Curves(metric, modalities, tasks, names, {key: np.mean(found, axis=0) for key, found in by_cell.items()})


def build_tables(found: Iterable[Curves], *, settings: StatisticsSettings) -> list[Record]:
    """One table over all tasks and one for every task, per metric.

    A cell is bold when it is the best of its column and its paired interval excludes the next best; the cells that
    cannot be told apart from the best are marked as ties.
    """
    return [
        _table(curve, task, settings)
        for curve in found
        for task in ([OVER_TASKS, *curve.tasks] if len(curve.tasks) > 1 else curve.tasks)
    ]


def _table(curve: Curves, task: str | None, settings: StatisticsSettings) -> Record:
    columns = column_names(len(curve.modalities))
    marks = {column: _marks(curve, task, column, settings) for column in columns}
    rows = []
    for representation in curve.representations:
        cells = {}
        for column in columns:
            resampled = curve.get(task, representation, column)
            cells[column] = (
                None
                if resampled is None
                else {**_value(resampled, settings), **marks[column].get(representation, {"bold": False, "tie": False})}
            )
        rows.append({"representation": representation, "cells": cells})
    return {"metric": curve.metric, "task": task, "tasks": list(curve.tasks), "columns": columns, "rows": rows}


def _value(resampled: np.ndarray, settings: StatisticsSettings) -> Record:
    low, high = interval(resampled, confidence=settings.confidence)
    return {"value": float(resampled[0]), "low": low, "high": high}


def _marks(curve: Curves, task: str | None, column: str, settings: StatisticsSettings) -> dict[str, Record]:
    """Marks of the best of one column and of those whose paired difference from it includes zero."""
    found = {
        name: resampled for name in curve.representations if (resampled := curve.get(task, name, column)) is not None
    }
    found = {name: resampled for name, resampled in found.items() if np.isfinite(resampled[0])}
    if len(found) < 2:
        return {}
    best = max(found, key=lambda name: float(found[name][0]))
    ties = [
        name
        for name in found
        if name != best and not interval(found[best] - found[name], confidence=settings.confidence)[0] > 0
    ]
    return {best: {"bold": not ties, "tie": bool(ties)}, **{name: {"bold": False, "tie": True} for name in ties}}


def build_comparisons(found: Iterable[Curves], *, settings: StatisticsSettings) -> list[Record]:
    """Paired difference of every fused representation from every other one, per column, over tasks and per task.

    `tie` says that the interval includes zero.
    """
    records = []
    for curve in found:
        fused = [name for name in curve.representations if name.split(" ")[0] == FUSED]
        pairs = [(ours, other) for ours in fused for other in curve.representations if other != ours]
        for task in [OVER_TASKS, *curve.tasks]:
            for column in column_names(len(curve.modalities)):
                records += [_comparison(curve, task, column, pair, settings) for pair in pairs]
    return [record for record in records if record is not None]


def _comparison(
    curve: Curves, task: str | None, column: str, pair: tuple[str, str], settings: StatisticsSettings
) -> Record | None:
    ours, other = (curve.get(task, name, column) for name in pair)
    if ours is None or other is None:
        return None
    low, high = interval(ours - other, confidence=settings.confidence)
    return {
        "metric": curve.metric,
        "task": task,
        "column": column,
        "representation": pair[0],
        "against": pair[1],
        "difference": float(ours[0] - other[0]),
        "low": low,
        "high": high,
        "tie": not (low > 0 or high < 0),
    }


def all_curves(results: Sequence[GroupResult], *, modalities: tuple[str, ...], models: Sequence[str]) -> list[Curves]:
    """The curves of every metric that the results hold."""
    metrics = dict.fromkeys(metric for result in results for metric in result.resampled)
    return [curves(results, metric=metric, modalities=modalities, models=models) for metric in metrics]
