"""What is lost as modalities disappear, in single numbers, and what each modality is worth."""

from collections.abc import Iterable

import numpy as np

from dynfusion.evaluation.hiding.patterns import subsets
from dynfusion.evaluation.report.curves import Curves, Record, column_subsets
from dynfusion.evaluation.representations.features import CONCAT_MEAN, CONCAT_RIDGE, LATE_FUSION
from dynfusion.evaluation.scores.metrics import METRICS, PRIMARY
from dynfusion.evaluation.scores.resampling import interval
from dynfusion.evaluation.scores.robustness import (
    chance_corrected_drop,
    curve_area,
    effective_robustness,
    relative_drop,
    shapley,
    worst_subset,
)
from dynfusion.evaluation.settings import StatisticsSettings

SECTIONS = ("folds", "given")


def robustness_records(found: Iterable[Curves], *, settings: StatisticsSettings) -> list[Record]:
    """Of every representation that has a number for all subsets; primary metrics, transferred heads.

    Drops are in per cent and from all present to the mean over the subsets with something absent; `area` is the mean
    metric over the share of absent modalities, 0 to 1 - 1 / M; `effective_robustness` is how much less is lost than by
    late fusion, None where that is not in the table. `chance_corrected_drop_undefined` is the share of
    resamples that are no better than chance with all present: they have no such drop and are in no interval.
    """
    records = []
    for curves in _main(found):
        if len(curves.modalities) > 1:
            for task in curves.scopes():
                late = _levels(curves, task, LATE_FUSION)
                for name in curves.models:
                    record = _record(curves, task, name, late, settings)
                    records += [record] if record is not None else []
    return records


def _record(
    curves: Curves, task: str | None, name: str, late: np.ndarray | None, settings: StatisticsSettings
) -> Record | None:
    levels, hidden = _levels(curves, task, name), subsets(curves.modalities)[1:]
    absent = curves.estimate(task, name, hidden)
    if levels is None or absent is None:
        return None
    chance = METRICS[curves.metric].chance
    assert chance is not None, "primary metrics have one"
    number = len(curves.modalities)
    corrected = chance_corrected_drop(levels[0], absent.resampled, chance)
    single = [curves.estimate(task, name, [subset]) for subset in hidden]
    worst, resampled = worst_subset(np.stack([one.resampled for one in single if one is not None]))
    return {
        "section": curves.line.section,
        "probe": curves.line.probe,
        "metric": curves.metric,
        "task": task,
        "representation": name,
        **_named("relative_drop", relative_drop(levels[0], absent.resampled), settings),
        **_named("chance_corrected_drop", corrected, settings),
        "chance_corrected_drop_undefined": float(np.isnan(corrected[1:]).mean()),
        **_named("area", curve_area(levels, np.arange(number) / number), settings),
        **_named("effective_robustness", None if late is None else effective_robustness(levels, late), settings),
        "worst_subset": {"visible": list(hidden[worst]), **_named("value", resampled, settings)},
    }


def _levels(curves: Curves, task: str | None, name: str) -> np.ndarray | None:
    """float64 [levels, 1 + resamples]: all present, one absent, and so on; None where one is missing."""
    columns = list(column_subsets(curves.modalities).values())[: len(curves.modalities)]
    found = [curves.estimate(task, name, chosen) for chosen in columns]
    levels = [estimate.resampled for estimate in found if estimate is not None]
    return np.stack(levels) if len(levels) == len(columns) else None


def _named(name: str, resampled: np.ndarray | None, settings: StatisticsSettings) -> Record:
    if resampled is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    low, high = interval(resampled, confidence=settings.confidence)
    return {name: float(resampled[0]), f"{name}_low": low, f"{name}_high": high}


def modality_value_records(found: Iterable[Curves], *, settings: StatisticsSettings) -> list[Record]:
    """Shapley value of every modality in units of the primary metric, as the fusion models and the imputers see it.

    Nothing visible is worth chance; the values of all modalities add up to the metric of all present less chance.
    """
    records = []
    for curves in _main(found):
        flexible = [name for name, model in curves.models.items() if model or name in (CONCAT_MEAN, CONCAT_RIDGE)]
        for task in curves.scopes():
            for name in flexible:
                for modality, resampled in _shapley(curves, task, name).items():
                    value = _named("shapley", resampled, settings)
                    records.append(
                        {
                            "section": curves.line.section,
                            "metric": curves.metric,
                            "task": task,
                            "representation": name,
                            "modality": modality,
                            "shapley": value["shapley"],
                            "low": value["shapley_low"],
                            "high": value["shapley_high"],
                        }
                    )
    return records


def _shapley(curves: Curves, task: str | None, name: str) -> dict[str, np.ndarray]:
    """By modality; empty where a subset has no cell."""
    found = {frozenset(chosen): curves.estimate(task, name, [chosen]) for chosen in subsets(curves.modalities)}
    values = {subset: estimate.resampled for subset, estimate in found.items() if estimate is not None}
    if len(values) < len(found):
        return {}
    chance = np.full_like(next(iter(values.values())), METRICS[curves.metric].chance)
    return shapley({frozenset(): chance, **values}, curves.modalities)


def _main(found: Iterable[Curves]) -> list[Curves]:
    return [
        curves
        for curves in found
        if curves.line.section in SECTIONS
        and curves.line.fitting == "transferred"
        and curves.metric in PRIMARY.values()
    ]
