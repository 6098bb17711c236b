"""Metrics under resampling: one sort per cell, then every bootstrap resample is a row of counts.

Molecules are resampled, never single labels, and with the same counts for every representation of a task, so that the
difference of two representations is paired. Tasks are resampled independently of one another.

Source: percentile bootstrap, Efron and Tibshirani (1993), chapter 13; weighted ROC-AUC as the Mann-Whitney statistic
with ties counted half; average precision as scikit-learn defines it; multitask mean by the rule of OGB's evaluator.
"""

import zlib

import numpy as np
from jaxtyping import Bool, Float
from pydantic import Field

from dynfusion.settings import Settings


class StatisticsSettings(Settings):
    """How uncertain the numbers are said to be."""

    resamples: int = Field(1000, ge=1000, le=100_000, description="bootstrap resamples of the test molecules")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="coverage of every interval")
    seed: int = Field(0, ge=0, description="seed of the resampling")


METRICS = ("roc_auc", "pr_auc")


def resample_counts(task: str, molecules: int, *, settings: StatisticsSettings) -> Float[np.ndarray, "resamples rows"]:
    """How often each molecule is drawn in each resample; the first row is the sample itself (every count 1).

    Equal for every call with the same task name, number of molecules and settings: this is what pairs representations.
    """
    draws = np.random.default_rng([settings.seed, zlib.crc32(task.encode()), molecules])
    counts = np.ones((settings.resamples + 1, molecules))
    for row in range(1, settings.resamples + 1):
        counts[row] = np.bincount(draws.integers(0, molecules, molecules), minlength=molecules)
    return counts


def roc_auc(
    scores: Float[np.ndarray, "rows"], positive: Bool[np.ndarray, "rows"], counts: Float[np.ndarray, "resamples rows"]
) -> Float[np.ndarray, "resamples"]:
    """Area under the ROC curve, 0..1, chance 0.5, of every resample; NaN where a class was not drawn."""
    order = np.argsort(scores, kind="stable")
    first, last = _ties(scores[order])
    positives = counts[:, order] * positive[order]
    negatives = counts[:, order] * ~positive[order]
    below = np.concatenate([np.zeros((len(counts), 1)), np.cumsum(negatives, axis=1)], axis=1)
    wins = (positives * (below[:, first] + below[:, last + 1]) / 2).sum(axis=1)
    return _ratio(wins, positives.sum(axis=1) * negatives.sum(axis=1))


def average_precision(
    scores: Float[np.ndarray, "rows"], positive: Bool[np.ndarray, "rows"], counts: Float[np.ndarray, "resamples rows"]
) -> Float[np.ndarray, "resamples"]:
    """Area under the precision-recall curve, 0..1, chance the share of positives; NaN where a class was not drawn."""
    order = np.argsort(-scores, kind="stable")
    _, last = _ties(scores[order])
    positives = counts[:, order] * positive[order]
    found, drawn = np.cumsum(positives, axis=1)[:, last], np.cumsum(counts[:, order], axis=1)[:, last]
    precision = np.divide(found, drawn, out=np.zeros_like(found), where=drawn > 0)
    total = positives.sum(axis=1)
    one_class = (total == 0) | (total == counts.sum(axis=1))
    return _ratio((positives * precision).sum(axis=1), np.where(one_class, 0, total))


def _ties(ordered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and last position of the run of equal scores that every position belongs to."""
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    lengths = np.diff(np.append(starts, len(ordered)))
    return np.repeat(starts, lengths), np.repeat(starts + lengths - 1, lengths)


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    return np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom > 0)


FUNCTIONS = {"roc_auc": roc_auc, "pr_auc": average_precision}


def metric_resamples(
    metric: str, scores: Float[np.ndarray, "rows outputs"], labels: Float[np.ndarray, "rows labels"], counts: np.ndarray
) -> Float[np.ndarray, "resamples"]:
    """The metric of every resample, averaged over outputs; NaN where no output has both classes.

    Several binary labels: mean over those with both classes among the drawn molecules, missing labels (NaN) left out
    (OGB). One label of several classes: macro mean over classes, each against the rest (`outputs` is their number).
    """
    one_against_rest = labels.shape[1] == 1 and scores.shape[1] > 1
    per_output = []
    for output in range(scores.shape[1]):
        label = labels[:, 0 if one_against_rest else output]
        rows = ~np.isnan(label)
        positive = label[rows] == (output if one_against_rest else 1)
        per_output.append(FUNCTIONS[metric](scores[rows, output], positive, counts[:, rows]))
    stacked = np.stack(per_output)
    defined = ~np.isnan(stacked)
    return _ratio(np.where(defined, stacked, 0).sum(axis=0), defined.sum(axis=0).astype(np.float64))


def interval(resampled: Float[np.ndarray, "resamples"], *, confidence: float) -> tuple[float, float]:
    """Percentile interval over the resamples after the first (the sample itself); NaN when none is defined."""
    drawn = resampled[1:][~np.isnan(resampled[1:])]
    if len(drawn) == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
