"""Metrics under resampling: one sort per cell, then every bootstrap resample is a column of counts.

Molecules are resampled, never single labels, and with the same counts for every representation of a task, so that the
difference of two representations is paired. Counts are drawn once for all molecules of a task; a fold takes the rows of
its test part, so folds are paired too. Tasks are resampled independently of one another.

Source: percentile bootstrap, Efron and Tibshirani (1993), chapter 13; the mean over several labels by the rule of OGB's
evaluator (Hu et al. 2020, ogb/graphproppred/evaluate.py).
"""

import zlib
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float, UInt8

from dynfusion.evaluation.scores.drawn import ratio
from dynfusion.evaluation.scores.metrics import METRICS
from dynfusion.evaluation.settings import StatisticsSettings


def resample_counts(
    task: str, molecules: int, *, settings: StatisticsSettings
) -> UInt8[np.ndarray, "molecules resamples"]:
    """How often each molecule is drawn in each resample; column 0 is the sample itself (every count 1).

    Equal for every call with the same task name, number of molecules and settings: this is what pairs representations.
    """
    draws = np.random.default_rng([settings.seed, zlib.crc32(task.encode()), molecules])
    counts = np.ones((settings.resamples + 1, molecules), np.uint8)
    for row in range(1, settings.resamples + 1):
        counts[row] = np.bincount(draws.integers(0, molecules, molecules), minlength=molecules)
    return np.ascontiguousarray(counts.T)


def once(molecules: int) -> UInt8[np.ndarray, "molecules 1"]:
    """Counts of the sample itself, for a value without resamples."""
    return np.ones((molecules, 1), np.uint8)


def metrics_resamples(
    metrics: Sequence[str],
    scores: Float[np.ndarray, "rows outputs"],
    labels: Float[np.ndarray, "rows labels"],
    counts: UInt8[np.ndarray, "rows resamples"],
) -> dict[str, Float[np.ndarray, "resamples"]]:
    """Each metric of every resample, averaged over outputs; NaN where it is defined for no output.

    Several labels: mean over those for which the metric is defined among the drawn molecules (both classes, or labels
    that differ), missing labels (NaN) left out (OGB). One label of several classes: macro mean over classes, each
    against the rest (`outputs` is their number).

    Raises ValueError for a score that is no number.
    """
    if np.isnan(scores).any():
        raise ValueError(f"scores: {int(np.isnan(scores).any(axis=1).sum())} of {len(scores)} rows are NaN, allowed: 0")
    per_output: dict[str, list[np.ndarray]] = {name: [] for name in metrics}
    for output, target, known in outputs_of(scores, labels):
        drawn = counts if known.all() else counts[known]
        prepares = dict.fromkeys(METRICS[name].prepare for name in metrics)
        prepared = {prepare: prepare(output, target, drawn) for prepare in prepares}
        for name in metrics:
            per_output[name].append(METRICS[name].value(prepared[METRICS[name].prepare]))
    return {name: mean_of_defined(np.stack(found)) for name, found in per_output.items()}


def outputs_of(
    scores: Float[np.ndarray, "rows outputs"], labels: Float[np.ndarray, "rows labels"]
) -> Iterator[tuple[Float[np.ndarray, "known"], Float[np.ndarray, "known"], Bool[np.ndarray, "rows"]]]:
    """Each output's scores beside its labels, and the rows whose label is known, to which both are cut.

    One label of several classes gives one output for every class: 1 for the class, 0 for the rest.
    """
    one_against_rest = labels.shape[1] == 1 and scores.shape[1] > 1
    for output in range(scores.shape[1]):
        label = labels[:, 0 if one_against_rest else output]
        known = ~np.isnan(label)
        target = (label[known] == output).astype(np.float64) if one_against_rest else label[known]
        yield scores[known, output].astype(np.float64), target, known


def mean_of_defined(stacked: Float[np.ndarray, "values *rest"]) -> Float[np.ndarray, "*rest"]:
    """Mean over the first axis of what is not NaN; NaN where nothing is."""
    defined = ~np.isnan(stacked)
    return ratio(np.where(defined, stacked, 0).sum(axis=0), defined.sum(axis=0).astype(np.float64))


def metric_resamples(
    metric: str,
    scores: Float[np.ndarray, "rows outputs"],
    labels: Float[np.ndarray, "rows labels"],
    counts: UInt8[np.ndarray, "rows resamples"],
) -> Float[np.ndarray, "resamples"]:
    """`metrics_resamples` of one metric."""
    return metrics_resamples((metric,), scores, labels, counts)[metric]


def one_class_share(labels: Float[np.ndarray, "rows labels"], counts: UInt8[np.ndarray, "rows resamples"]) -> float:
    """Share of (label, resample) pairs in which only one class of a binary label is drawn, 0..1: it has no value."""
    drawn = counts[:, 1:] > 0
    both = [drawn[label == 1].any(axis=0) & drawn[label == 0].any(axis=0) for label in labels.T]
    return 1 - float(np.mean(both))


def interval(resampled: Float[np.ndarray, "resamples"], *, confidence: float) -> tuple[float, float]:
    """Percentile interval over the resamples after the first (the sample itself); NaN when none is defined."""
    drawn = resampled[1:][~np.isnan(resampled[1:])]
    if len(drawn) == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
