"""Paired differences of the fusion models from everything else, over molecules and over folds."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict

from dynfusion.evaluation.hiding.patterns import subsets
from dynfusion.evaluation.report.curves import Curves, Record, column_subsets
from dynfusion.evaluation.scores.comparison import Estimate, compare
from dynfusion.evaluation.scores.metrics import PRIMARY
from dynfusion.evaluation.settings import StatisticsSettings


def build_comparisons(found: Iterable[Curves], *, settings: StatisticsSettings) -> list[Record]:
    """Every representation of a fusion model less every other one, by column, over tasks and by task.

    `low` and `high` are the interval over molecules, `fold_low` and `fold_high` the corrected one over folds, None
    without cross-validation; `p` belongs to the latter. `tie` says that one of them includes zero.
    """
    return [
        {**_line(curves, task), "column": column, **record}
        for curves in found
        for task in curves.scopes()
        for column, chosen in column_subsets(curves.modalities).items()
        for record in _differences(curves.estimates(task, chosen), curves.models, settings=settings)
    ]


def build_subset_comparisons(found: Iterable[Curves], *, settings: StatisticsSettings) -> list[Record]:
    """The same for every single visible subset, of the primary metrics and transferred heads.

    Here a single modality, or some of them side by side, meets the fusion model that sees no more than they do.
    """
    return [
        {**_line(curves, task), "visible": list(chosen), **record}
        for curves in found
        if curves.metric in PRIMARY.values() and curves.line.fitting == "transferred"
        for task in curves.scopes()
        for chosen in subsets(curves.modalities)
        for record in _differences(curves.estimates(task, [chosen]), curves.models, settings=settings)
    ]


def _differences(
    estimates: Mapping[str, Estimate], models: Mapping[str, str | None], *, settings: StatisticsSettings
) -> Iterator[Record]:
    """Of every pair whose first is a fusion model's."""
    for ours, first in estimates.items():
        for other, second in estimates.items() if models[ours] is not None else ():
            if other != ours:
                verdict = compare(first, second, confidence=settings.confidence)
                yield {"representation": ours, "against": other, **asdict(verdict)}


def _line(curves: Curves, task: str | None) -> Record:
    line = curves.line
    return {
        "section": line.section,
        "probe": line.probe,
        "fitting": line.fitting,
        "metric": curves.metric,
        "task": task,
    }
