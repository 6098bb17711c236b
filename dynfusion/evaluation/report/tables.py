"""Tables: representations down, how much is absent across; what is best is bold, and ties are said."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from dynfusion.evaluation.protocol.outcome import TaskOutcome
from dynfusion.evaluation.report.curves import (
    ABLATIONS,
    TABLE_SECTIONS,
    Curves,
    Record,
    column_subsets,
    mean_estimate,
    stack_folds,
    valued,
)
from dynfusion.evaluation.representations.features import FUSED
from dynfusion.evaluation.scores.comparison import Estimate, best_of
from dynfusion.evaluation.scores.metrics import METRICS
from dynfusion.evaluation.settings import StatisticsSettings


def build_tables(
    found: Iterable[Curves], *, settings: StatisticsSettings, ablated: Collection[str] = ()
) -> list[Record]:
    """One table over all tasks and one for every task, for every line and metric.

    A cell is null where the representation has no number for some subset of the column. It is bold when it is the best
    of its column and every other one can be told from it, over molecules and over folds; those that cannot are ties
    with it, and so is then the best itself.

    Fusion models of the names `ablated` are ranked in tables of their own, section "ablations", with the whole model
    and nothing else.
    """
    return [table for curves in found for table in _tables(curves, ablated, settings)]


def _tables(curves: Curves, ablated: Collection[str], settings: StatisticsSettings) -> Iterator[Record]:
    removed = [name for name, model in curves.models.items() if model in ablated]
    main = [name for name in curves.models if name not in removed]
    whole = [name for name in main if name.split(" ")[0] == FUSED]
    for section, names in ((curves.line.section, main), (ABLATIONS, [*whole, *removed] if removed else [])):
        if names:
            yield from (_table(curves, section, task, names, settings) for task in curves.scopes())


def _table(
    curves: Curves, section: str, task: str | None, names: Sequence[str], settings: StatisticsSettings
) -> Record:
    columns = {
        column: _column(_only(names, curves.estimates(task, chosen)), curves.metric, settings)
        for column, chosen in column_subsets(curves.modalities).items()
    }
    rows = [
        {"representation": name, "cells": {column: cells.get(name) for column, cells in columns.items()}}
        for name in names
        if any(name in cells for cells in columns.values())
    ]
    return {
        "section": section,
        "split": curves.split() if task is None else curves.splits[task],
        "probe": curves.line.probe,
        "fitting": curves.line.fitting,
        "metric": curves.metric,
        "task": task,
        "tasks": list(curves.tasks),
        "columns": list(columns),
        "rows": rows,
    }


def _only(names: Collection[str], estimates: Mapping[str, Estimate]) -> dict[str, Estimate]:
    return {name: estimate for name, estimate in estimates.items() if name in names}


def _column(estimates: Mapping[str, Estimate], metric: str, settings: StatisticsSettings) -> dict[str, Record]:
    confidence = settings.confidence
    ranks = best_of(estimates, confidence=confidence, higher_is_better=METRICS[metric].higher_is_better)
    bold = ranks.best if ranks is not None and not ranks.ties else None
    ties = (ranks.best, *ranks.ties) if ranks is not None and ranks.ties else ()
    return {
        name: {**valued(estimate.resampled, confidence=confidence), "tie": name in ties, "bold": name == bold}
        for name, estimate in estimates.items()
    }


def subset_records(outcomes: Sequence[TaskOutcome], *, settings: StatisticsSettings) -> list[Record]:
    """The mean over folds of every cell in which a subset is visible."""
    cells = [
        (
            (outcome.name, group.section, group.probe, group.fitting, group.representation, pattern.visible, metric),
            group.fold,
            resampled,
        )
        for outcome in outcomes
        for group, result in ((result.group, result) for result in outcome.results)
        if group.section in TABLE_SECTIONS
        for metric, values in result.resampled.items()
        for pattern, resampled in zip(group.patterns, values, strict=True)
    ]
    records = []
    for (task, section, probe, fitting, representation, visible, metric), folds in stack_folds(cells).items():
        mean = mean_estimate([folds], [1]).resampled
        records.append(
            {
                "section": section,
                "probe": probe,
                "fitting": fitting,
                "task": task,
                "representation": representation,
                "visible": list(visible),
                "metric": metric,
                **valued(mean, confidence=settings.confidence),
                "folds": len(folds),
            }
        )
    return records
