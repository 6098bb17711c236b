"""Rivals of the fusion model that fill in an absent modality: the pool's mean, and ridge regression from the visible.

Everything lives in standardised units: x~ = clip((x - mean) / max(std, 1e-3), -8, 8) with the pool's training
statistics, exactly what the fusion model sees. The mean imputation is then zero. Ridge regressions are fitted on the
same pool rows as the fusion model, one for every (visible subset, absent modality), on the rows where all of them are
present; the penalty is chosen on rows left out of the fit.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.linalg import cho_factor, cho_solve
from threadpoolctl import threadpool_limits

from dynfusion.evaluation.hiding.patterns import subsets
from dynfusion.evaluation.settings import ImputerSettings
from dynfusion.settings import fingerprint

STD_FLOOR = 1e-3
CLIP = 8.0
MIN_HELD_ROWS = 200
Statistics = Mapping[str, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Pool:
    """Rows of the fusion model's own training data, standardised."""

    modalities: tuple[str, ...]
    values: dict[str, np.ndarray]
    """Per modality float32 [rows, dim], zero where absent."""
    present: Bool[np.ndarray, "rows modalities"]
    held: Bool[np.ndarray, "rows"]
    """Rows that penalties and numbers of neighbours are chosen on."""
    trained: Bool[np.ndarray, "rows"]
    """Rows that the fusion model was trained on, which the final fit uses."""

    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with any value."""
        digest = hashlib.sha256("\0".join(self.modalities).encode())
        for array in (self.present, self.held, self.trained, *(self.values[name] for name in self.modalities)):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Ridge:
    """A linear map from the visible modalities (side by side) to one absent modality, in standardised units."""

    visible: tuple[str, ...]
    target: str
    weight: Float[np.ndarray, "inputs outputs"]
    intercept: Float[np.ndarray, "outputs"]
    alpha: float
    rows: int
    held_rows: int
    held_mse: tuple[float, ...]
    """Mean squared error on the held rows for every penalty of the grid; alpha belongs to the smallest."""


@dataclass(frozen=True)
class Imputers:
    """One ridge for every visible subset and absent modality."""

    modalities: tuple[str, ...]
    dims: dict[str, int]
    ridges: dict[tuple[tuple[str, ...], str], Ridge]
    fingerprint: str


def standardise(
    values: Float[np.ndarray, "rows dim"], statistics: tuple[np.ndarray, np.ndarray]
) -> Float[np.ndarray, "rows dim"]:
    """float32 in units of the pool's standard deviation, clipped to -8..8; zero where that is at most 1e-3.

    The rule of `dynfusion.fusion.model.Tower.standardise`, so that rivals see what the fusion model sees.
    """
    mean, std = statistics
    units = np.clip((values - mean) / np.maximum(std, STD_FLOOR), -CLIP, CLIP)
    return np.where(std > STD_FLOOR, units, 0).astype(np.float32)


def standardise_present(
    values: Mapping[str, np.ndarray],
    present: Bool[np.ndarray, "rows modalities"],
    *,
    modalities: tuple[str, ...],
    statistics: Statistics,
) -> dict[str, np.ndarray]:
    """Every modality standardised, exactly zero where it is absent."""
    return {
        name: np.where(present[:, [column]], standardise(values[name], statistics[name]), np.float32(0))
        for column, name in enumerate(modalities)
    }


def hold_rows(rows: int, held_out: int) -> Bool[np.ndarray, "rows"]:
    """Marks the rows for choosing the penalty: the `held_out` last ones, or the last tenth when those are too few."""
    held = np.zeros(rows, dtype=bool)
    held[rows - (held_out if held_out >= MIN_HELD_ROWS else max(rows // 10, 1)) :] = True
    return held


def ridge_plan(modalities: tuple[str, ...]) -> list[tuple[tuple[str, ...], str]]:
    """Every (visible subset, absent modality), subsets of many modalities first because they take longest."""
    return [(chosen, name) for chosen in subsets(modalities) for name in modalities if name not in chosen]


def fit_ridge(pool: Pool, visible: tuple[str, ...], target: str, *, settings: ImputerSettings) -> Ridge:
    """Ridge regression with an intercept, the penalty chosen on the held rows; same numbers on any number of cores.

    Minimises |Y - XB|^2 + alpha * rows * |B|^2 over the pool rows where `visible` and `target` are all present.

    Raises ValueError when fewer than two pool rows have them all.
    """
    needed = [pool.modalities.index(name) for name in (*visible, target)]
    complete = pool.present[:, needed].all(axis=1)
    fit, held = complete & ~pool.held, complete & pool.held
    if fit.sum() < 2 or held.sum() < 1:
        raise ValueError(
            f"pool: {int(fit.sum())} rows to fit and {int(held.sum())} held rows have {', '.join(visible)} and {target}"
            " all present, ridge imputation needs at least 2 and 1"
        )
    with threadpool_limits(limits=1):
        return _fit_ridge(pool, fit, held, visible, target, settings.alphas)


def _fit_ridge(
    pool: Pool, fit: np.ndarray, held: np.ndarray, visible: tuple[str, ...], target: str, alphas: tuple[float, ...]
) -> Ridge:
    inputs, outputs = _side_by_side(pool, visible, fit), pool.values[target][fit].astype(np.float64)
    held_inputs, held_outputs = _side_by_side(pool, visible, held), pool.values[target][held]
    input_mean, output_mean = inputs.mean(axis=0), outputs.mean(axis=0)
    inputs -= input_mean
    outputs -= output_mean
    gram, cross = inputs.T @ inputs, inputs.T @ outputs
    errors = []
    for alpha in alphas:
        weight = _solve(gram, cross, alpha * len(inputs))
        errors.append(float(np.mean((held_outputs - output_mean - (held_inputs - input_mean) @ weight) ** 2)))
    alpha = alphas[int(np.argmin(errors))]
    final = (fit | held) & pool.trained
    weight, intercept = _refit(pool, final, visible, target, alpha)
    return Ridge(visible, target, weight, intercept, alpha, int(final.sum()), int(held.sum()), tuple(errors))


def _refit(
    pool: Pool, rows: np.ndarray, visible: tuple[str, ...], target: str, alpha: float
) -> tuple[np.ndarray, np.ndarray]:
    """(weight, intercept) on the rows that the fusion model was trained on, the penalty's held ones among them."""
    inputs, outputs = _side_by_side(pool, visible, rows), pool.values[target][rows].astype(np.float64)
    input_mean, output_mean = inputs.mean(axis=0), outputs.mean(axis=0)
    inputs -= input_mean
    weight = _solve(inputs.T @ inputs, inputs.T @ (outputs - output_mean), alpha * len(inputs))
    return weight.astype(np.float32), (output_mean - input_mean @ weight).astype(np.float32)


def _side_by_side(pool: Pool, names: tuple[str, ...], rows: np.ndarray) -> np.ndarray:
    return np.concatenate([pool.values[name][rows] for name in names], axis=1, dtype=np.float64)


def _solve(gram: np.ndarray, cross: np.ndarray, penalty: float) -> np.ndarray:
    penalised = gram.copy()
    penalised[np.diag_indices_from(penalised)] += penalty
    return cho_solve(cho_factor(penalised, lower=True, overwrite_a=True, check_finite=False), cross, check_finite=False)


def collect(pool: Pool, ridges: list[Ridge], *, settings: ImputerSettings) -> Imputers:
    """The fitted ridges of a pool in one table, with the fingerprint of what they follow from."""
    key = hashlib.sha256(f"{pool.fingerprint()}|{fingerprint(settings)}".encode()).hexdigest()[:16]
    dims = {name: pool.values[name].shape[1] for name in pool.modalities}
    return Imputers(pool.modalities, dims, {(ridge.visible, ridge.target): ridge for ridge in ridges}, key)


def impute(
    imputers: Imputers, values: Mapping[str, np.ndarray], visible: Bool[np.ndarray, "rows modalities"]
) -> dict[str, np.ndarray]:
    """Standardised values with every invisible cell predicted by the ridge of the modalities visible in that row.

    Visible cells are copied; a row with nothing visible gets the pool mean (zero).
    """
    filled = {
        name: np.where(visible[:, [column]], values[name], np.float32(0))
        for column, name in enumerate(imputers.modalities)
    }
    for shown in np.unique(visible, axis=0):
        names = tuple(name for name, seen in zip(imputers.modalities, shown, strict=True) if seen)
        rows = np.flatnonzero((visible == shown).all(axis=1))
        if not names or len(names) == len(imputers.modalities):
            continue
        inputs = np.concatenate([values[name][rows] for name in names], axis=1)
        for target in imputers.modalities:
            if target not in names:
                ridge = imputers.ridges[names, target]
                filled[target][rows] = np.clip(inputs @ ridge.weight + ridge.intercept, -CLIP, CLIP)
    return filled
