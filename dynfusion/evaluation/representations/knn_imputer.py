"""The third rival that fills in an absent modality: the mean of the molecules that look alike in the visible ones.

    visible modalities, standardised, side by side --cosine--> k nearest pool rows --mean of their target--> guess

Nothing is fitted but k, one for every (visible subset, absent modality), on held pool rows. What is searched are the
pool rows that the fusion model was trained on and that have the visible modalities and the target all present. A
cosine of modalities side by side is a sum over modalities, so each is multiplied once and serves every subset.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_array
from threadpoolctl import threadpool_limits

from dynfusion.evaluation.representations.imputers import Pool, ridge_plan
from dynfusion.evaluation.settings import ImputerSettings
from dynfusion.settings import fingerprint

Pair = tuple[tuple[str, ...], str]
"""A visible subset and an absent modality."""
_ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Neighbours:
    """How many neighbours are averaged for one absent modality, and what that was chosen on."""

    visible: tuple[str, ...]
    target: str
    k: int
    rows: int
    """Pool rows that are searched."""
    held_rows: int
    held_mse: tuple[float, ...]
    """Mean squared error on the held rows for every number of the grid; k belongs to the smallest."""


@dataclass(frozen=True)
class KnnImputer:
    """Pool rows to search and how many neighbours to average."""

    modalities: tuple[str, ...]
    values: dict[str, np.ndarray]
    """Per modality float32 [rows, dim], standardised, zero where absent."""
    present: Bool[np.ndarray, "rows modalities"]
    choices: dict[Pair, Neighbours]
    fingerprint: str


def choose_neighbours(pool: Pool, *, settings: ImputerSettings) -> list[Neighbours]:
    """The best number of neighbours of the grid for every pair of `ridge_plan`; same numbers on any number of cores.

    Raises ValueError when no pool row, or no held one, has a pair's modalities all present.
    """
    plan = ridge_plan(pool.modalities)
    held = np.flatnonzero(pool.held)
    held = held[np.unique(np.linspace(0, len(held) - 1, min(len(held), settings.neighbour_queries)).astype(np.int64))]
    searched = {name: values[~pool.held] for name, values in pool.values.items()}
    present, queried = pool.present[~pool.held], pool.present[held]
    allowed = {pair: _complete(present, pool.modalities, pair) for pair in plan}
    usable = {pair: _complete(queried, pool.modalities, pair) for pair in plan}
    for pair in plan:
        if not (allowed[pair].any() and usable[pair].any()):
            raise ValueError(
                f"pool: {int(allowed[pair].sum())} rows to search and {int(usable[pair].sum())} held rows have "
                f"{', '.join(pair[0])} and {pair[1]} all present, imputation by neighbours needs at least 1 and 1"
            )
    queries = {name: values[held] for name, values in pool.values.items()}
    found = _nearest(searched, queries, allowed, most=max(settings.neighbours))
    final = {pair: _complete(pool.present[pool.trained], pool.modalities, pair) for pair in plan}
    chosen = []
    for pair in plan:
        nearest, truth = found[pair][usable[pair]], queries[pair[1]][usable[pair]]
        errors = [
            float(np.mean((truth - _mean(searched[pair[1]], nearest[:, :k])) ** 2, dtype=np.float64))
            for k in settings.neighbours
        ]
        k = settings.neighbours[int(np.argmin(errors))]
        chosen.append(Neighbours(*pair, k, int(final[pair].sum()), int(usable[pair].sum()), tuple(errors)))
    return chosen


def collect_neighbours(pool: Pool, choices: Sequence[Neighbours], *, settings: ImputerSettings) -> KnnImputer:
    """The pool's trained rows with the numbers chosen, and the fingerprint of what they follow from."""
    key = hashlib.sha256(f"neighbours|{pool.fingerprint()}|{fingerprint(settings)}".encode()).hexdigest()[:16]
    values = {name: array[pool.trained] for name, array in pool.values.items()}
    named = {(choice.visible, choice.target): choice for choice in choices}
    return KnnImputer(pool.modalities, values, pool.present[pool.trained], named, key)


def nearest_rows(imputer: KnnImputer, values: Mapping[str, np.ndarray]) -> dict[Pair, Int[np.ndarray, "rows _"]]:
    """For every pair the k pool rows nearest to each of these standardised rows, nearest first.

    What stands for a row that does not have all of the pair's visible modalities means nothing.
    """
    allowed = {pair: _complete(imputer.present, imputer.modalities, pair) for pair in imputer.choices}
    found = _nearest(imputer.values, values, allowed, most=max(choice.k for choice in imputer.choices.values()))
    return {pair: found[pair][:, : choice.k] for pair, choice in imputer.choices.items()}


def impute_by_neighbours(
    imputer: KnnImputer,
    nearest: Mapping[Pair, Int[np.ndarray, "rows _"]],
    target: str,
    visible: Bool[np.ndarray, "rows modalities"],
) -> Float[np.ndarray, "rows dim"]:
    """`target` of every row from exactly what it shows, given the `nearest_rows`; the pool mean where that is nothing.

    `target` itself must not be visible.
    """
    guess = np.zeros((len(visible), imputer.values[target].shape[1]), dtype=np.float32)
    for shown in np.unique(visible, axis=0):
        names = tuple(name for name, seen in zip(imputer.modalities, shown, strict=True) if seen)
        rows = np.flatnonzero((visible == shown).all(axis=1))
        if names:
            guess[rows] = _mean(imputer.values[target], nearest[names, target][rows])
    return guess


def _complete(present: np.ndarray, modalities: tuple[str, ...], pair: Pair) -> np.ndarray:
    """Rows that have the visible modalities and the target."""
    return np.asarray(present[:, [modalities.index(name) for name in (*pair[0], pair[1])]].all(axis=1))


def _nearest(
    searched: Mapping[str, np.ndarray],
    queries: Mapping[str, np.ndarray],
    allowed: Mapping[Pair, np.ndarray],
    *,
    most: int,
) -> dict[Pair, np.ndarray]:
    """int32 [queries, most] per pair: allowed rows by falling cosine; pairs with the same allowed rows share them."""
    wanted = {(pair[0], rows.tobytes()): rows for pair, rows in allowed.items()}
    number = {key: min(most, int(rows.sum())) for key, rows in wanted.items()}
    total = len(next(iter(queries.values())))
    found = {key: np.zeros((total, number[key]), dtype=np.int32) for key in wanted}
    squares = {name: np.square(values).sum(axis=1, dtype=np.float64) for name, values in searched.items()}
    scales = {key: _inverse(sum(squares[name] for name in key[0])) for key in wanted}
    with threadpool_limits(limits=1):
        for rows, products in _blocks(searched, queries, total):
            for key, scale in scales.items():
                similarity = _sum([products[name] for name in key[0]])
                similarity *= scale
                similarity[:, ~wanted[key]] = -np.inf
                found[key][rows] = _largest(similarity, number[key])
    return {pair: found[pair[0], rows.tobytes()] for pair, rows in allowed.items()}


def _blocks(
    searched: Mapping[str, np.ndarray], queries: Mapping[str, np.ndarray], total: int
) -> Iterator[tuple[slice, dict[str, np.ndarray]]]:
    """Products of some queries with all searched rows, one matrix a modality."""
    for start in range(0, total, _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        yield rows, {name: queries[name][rows] @ values.T for name, values in searched.items()}


def _sum(arrays: list[np.ndarray]) -> np.ndarray:
    total = arrays[0].copy()
    for array in arrays[1:]:
        total += array
    return total


def _inverse(squares: np.ndarray) -> np.ndarray:
    """1 / length as float32, 0 for a zero row. A query's own length changes no order and is left out."""
    return np.divide(1, np.sqrt(squares), out=np.zeros_like(squares), where=squares > 0).astype(np.float32)


def _largest(similarity: np.ndarray, number: int) -> np.ndarray:
    """Columns of the largest entries of each row, largest first, the smaller column first among equals."""
    columns = torch.topk(torch.from_numpy(similarity), number, dim=1, sorted=False).indices.numpy()
    order = np.lexsort((columns, -np.take_along_axis(similarity, columns, axis=1)), axis=1)
    return np.take_along_axis(columns, order, axis=1)


def _mean(values: np.ndarray, nearest: np.ndarray) -> np.ndarray:
    """Mean over each row's neighbours, float32 [rows, dim]."""
    rows, number = nearest.shape
    weights = np.full(nearest.size, np.float32(1 / number))
    starts = np.arange(0, nearest.size + 1, number)
    return csr_array((weights, nearest.reshape(-1), starts), shape=(rows, len(values))) @ values
