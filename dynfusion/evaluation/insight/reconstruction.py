"""How well absent embeddings are filled in: from every visible subset to every modality outside it.

Scored on the test molecules that really have the target and at least one of the visible modalities. Errors are in
standardised units (imputers.py), over dimensions whose pool standard deviation is above 1e-3. Raw cosine never
stands alone: for some encoders a constant already scores above 0.95. Its rivals see the same pool rows as the model.

    visible modalities --model, ridge, nearest pool rows--> guess --squared error--> skill over each rival
                                                                  \\--cosine with true embeddings--> retrieval
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64

from dynfusion.evaluation.hiding.patterns import subsets
from dynfusion.evaluation.insight.molecules import Molecules, Record, evenly_spaced, scored_molecules
from dynfusion.evaluation.insight.retrieval import Ranks, ranks, row_cosines
from dynfusion.evaluation.representations.fused import Model
from dynfusion.evaluation.representations.imputers import (
    STD_FLOOR,
    Imputers,
    Statistics,
    impute,
    standardise,
    standardise_present,
)
from dynfusion.evaluation.representations.knn_imputer import KnnImputer, Pair, impute_by_neighbours, nearest_rows
from dynfusion.evaluation.scores.resampling import interval, resample_counts
from dynfusion.evaluation.settings import InsightSettings, StatisticsSettings
from dynfusion.evaluation.tasks.task import TaskData
from dynfusion.evaluation.threads import one_thread


@dataclass(frozen=True)
class Rivals:
    """What else fills in an absent modality."""

    ridge: Imputers
    neighbours: KnnImputer


@dataclass(frozen=True)
class _Prepared:
    """What all records of a task share."""

    molecules: Molecules
    scaled: dict[str, np.ndarray]
    """Per modality standardised, zero where absent."""
    statistics: Statistics
    rivals: Rivals
    nearest: Mapping[Pair, np.ndarray]
    candidates: dict[str, np.ndarray]
    """Per modality the molecules that have it, then pool rows; standardised, dimensions that vary."""
    counts: Float[np.ndarray, "resamples rows"]
    confidence: float


@dataclass(frozen=True)
class _Guesses:
    """One target of some molecules."""

    model: Float[np.ndarray, "rows dim"]
    """Original units."""
    ridge: Float[np.ndarray, "rows dim"]
    """Standardised, as is the next."""
    neighbours: Float[np.ndarray, "rows dim"]


def reconstruction_records(
    model: Model, task: TaskData, rivals: Rivals, *, settings: InsightSettings, statistics: StatisticsSettings
) -> list[Record]:
    """One record for every (visible subset, absent modality) of a task in original units; same numbers on any cores.

    Cosines are means over molecules, -1..1. `r2` is 1 for perfect and 0 for the best constant of these molecules,
    `r2_median` the same of the median dimension. `skill_mean`, `skill_ridge` and `skill_knn` are 1 - MSE of the model /
    MSE of the pool mean, of ridge regression and of the nearest pool rows: 1 is perfect, 0 level, negative worse.
    `recall_1`, `recall_10` and `mrr`, 0..1: how surely the standardised reconstruction finds its true embedding by
    cosine among `candidates`, all these molecules and as many pool rows as fill `settings.candidates`. `ridge_recall_1`
    and so on are the same of ridge, `mrr_over_ridge` is the difference. Skills and retrieval of the model have
    bootstrap intervals over molecules (`_low`, `_high`). `molecules` are scored, of `test_molecules`.
    """
    with one_thread():
        prepared = _prepare(model, task, rivals, settings=settings, statistics=statistics)
        molecules, records = prepared.molecules, []
        for shown in subsets(task.modalities)[1:]:
            rows = np.flatnonzero(molecules.visible(shown).any(axis=1))
            visible = molecules.visible(shown)[rows]
            rebuilt = model.reconstruct(*molecules.inputs(rows, visible))
            by_ridge = impute(rivals.ridge, {name: values[rows] for name, values in prepared.scaled.items()}, visible)
            nearest = {pair: found[rows] for pair, found in prepared.nearest.items()}
            for target in (name for name in task.modalities if name not in shown):
                known = molecules.present[rows, molecules.column(target)]
                near = impute_by_neighbours(rivals.neighbours, nearest, target, visible)
                guesses = _Guesses(rebuilt[target][known], by_ridge[target][known], near[known])
                record = {"task": task.name, "target": target, "visible": list(shown)}
                scores = _scores(prepared, target, rows[known], guesses)
                records.append({**record, **scores, "test_molecules": len(task.rows("test"))})
        return records


def skill_over_mean(
    truth: Float[np.ndarray, "rows dim"],
    guess: Float[np.ndarray, "rows dim"],
    statistics: tuple[np.ndarray, np.ndarray],
) -> float:
    """`skill_mean` alone, of arrays in original units; NaN where the pool mean makes no error."""
    scaled, guessed = standardise(truth, statistics), standardise(guess, statistics)
    return float(_skill(np.ones((1, len(truth))), _squared(scaled - guessed), _squared(scaled))[0])


def _prepare(
    model: Model, task: TaskData, rivals: Rivals, *, settings: InsightSettings, statistics: StatisticsSettings
) -> _Prepared:
    molecules = scored_molecules(task, settings.reconstruction_rows)
    measured, pool = model.statistics(), rivals.neighbours
    scaled = standardise_present(
        molecules.values, molecules.present, modalities=molecules.modalities, statistics=measured
    )
    candidates = {}
    for name in molecules.modalities:
        varied = measured[name][1] > STD_FLOOR
        own = scaled[name][molecules.present[:, molecules.column(name)]][:, varied]
        there = np.flatnonzero(pool.present[:, pool.modalities.index(name)])
        others = there[evenly_spaced(len(there), max(settings.candidates - len(own), 0))]
        candidates[name] = np.concatenate([own, pool.values[name][others][:, varied]])
    counts = _counts(task, settings=statistics)[:, molecules.positions]
    nearest = nearest_rows(pool, scaled)
    return _Prepared(molecules, scaled, measured, rivals, nearest, candidates, counts, statistics.confidence)


def _counts(task: TaskData, *, settings: StatisticsSettings) -> Float[np.ndarray, "resamples rows"]:
    """How often each test molecule is drawn in each resample; once in the first."""
    return resample_counts(task.name, len(task.ids), settings=settings)[task.rows("test")].T.astype(np.float64)


def _scores(prepared: _Prepared, target: str, rows: Int64[np.ndarray, " rows"], guesses: _Guesses) -> dict[str, object]:
    mean, std = prepared.statistics[target]
    varied = std > STD_FLOOR
    original, truth = prepared.molecules.values[target][rows], prepared.scaled[target][rows][:, varied]
    guess, ridge = standardise(guesses.model, prepared.statistics[target])[:, varied], guesses.ridge[:, varied]
    counts = prepared.counts[:, rows]
    error = _squared(truth - guess)
    rivals = {"mean": truth, "ridge": truth - ridge, "knn": truth - guesses.neighbours[:, varied]}
    resampled = {f"skill_{name}": _skill(counts, error, _squared(rival)) for name, rival in rivals.items()}
    found, by_ridge = (_retrieve(prepared, target, rows, values) for values in (guess, ridge))
    for name, values in found.placements().items():
        resampled[name] = _weighted_mean(counts, values)
    resampled["mrr_over_ridge"] = _weighted_mean(counts, found.reciprocal() - by_ridge.reciprocal())
    scores: dict[str, object] = {
        "cosine": _mean_cosine(original, guesses.model),
        "centred_cosine": _mean_cosine(original - mean, guesses.model - mean),
        **_explained(truth, guess),
        **{f"ridge_{name}": float(_weighted_mean(counts[:1], v)[0]) for name, v in by_ridge.placements().items()},
    }
    for name, values in resampled.items():
        low, high = interval(values, confidence=prepared.confidence)
        scores |= {name: float(values[0]), f"{name}_low": low, f"{name}_high": high}
    return {**scores, "candidates": found.candidates, "molecules": len(rows)}


def _retrieve(prepared: _Prepared, target: str, rows: np.ndarray, guess: np.ndarray) -> Ranks:
    """Where the true embeddings stand among the candidates of their modality."""
    number = np.cumsum(prepared.molecules.present[:, prepared.molecules.column(target)]) - 1
    return ranks(guess, prepared.candidates[target], own=number[rows])


def _explained(truth: np.ndarray, guess: np.ndarray) -> dict[str, float]:
    """R2 over all dimensions together, and of the median dimension among those that vary here; NaN without any."""
    if len(truth) == 0:
        return {"r2": float("nan"), "r2_median": float("nan")}
    left = np.square(truth - guess, dtype=np.float64).sum(axis=0)
    spread = np.square(truth - truth.mean(axis=0), dtype=np.float64).sum(axis=0)
    some = spread > 0
    if not some.any():
        return {"r2": float("nan"), "r2_median": float("nan")}
    return {"r2": float(1 - left.sum() / spread.sum()), "r2_median": float(np.median(1 - left[some] / spread[some]))}


def _squared(difference: np.ndarray) -> np.ndarray:
    """Sum of squares per molecule, float64."""
    return np.square(difference, dtype=np.float64).sum(axis=1)


def _skill(counts: np.ndarray, error: np.ndarray, rival: np.ndarray) -> np.ndarray:
    """1 - (error / rival) of every resample; NaN where the rival makes no error at all."""
    bottom = counts @ rival
    return 1 - np.divide(counts @ error, bottom, out=np.full(len(counts), np.nan), where=bottom > 0)


def _weighted_mean(counts: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Mean over the molecules of every resample; NaN where none was drawn."""
    drawn = counts.sum(axis=1)
    return np.divide(counts @ values, drawn, out=np.full(len(counts), np.nan), where=drawn > 0)


def _mean_cosine(first: np.ndarray, second: np.ndarray) -> float:
    """Mean over molecules; a zero vector has cosine 0 with everything; NaN without molecules."""
    if len(first) == 0:
        return float("nan")
    return float(row_cosines(first, second).mean())
