"""How much each setting decides the score: what a forest's prediction loses when that setting is shuffled.

Where a scheduler stopped trials, which have seen less than others then, all are compared at one number of molecules
seen, the most that every one of them has reached; else each at its end. A forest learns the score from the settings of
some trials and predicts it for the others; shuffling one setting among these raises its squared error, and half of
that, as a share of the score's variance, is the setting's importance: what it explains alone or together with others (a
total Sobol index). A setting that is in force only under a condition is shuffled among trials that fulfil it.

Source: permutation importance, Breiman (2001), Random Forests, section 10, on held-out folds; the half, Gregorutti,
Michel and Saint-Pierre (2017), Correlation and variable importance in random forests, proposition 1; the interval over
repeated folds, whose training parts overlap, Nadeau and Bengio (evaluation/scores/folds.py).
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from sklearn.ensemble import RandomForestRegressor
from sklearn.inspection import partial_dependence, permutation_importance
from sklearn.model_selection import RepeatedKFold

from dynfusion.evaluation.scores.folds import FoldDifferences, corrected_difference
from dynfusion.tuning.records import Point, Trial
from dynfusion.tuning.report.contents import Contents
from dynfusion.tuning.report.encoding import Encoded, encode, value_at
from dynfusion.tuning.report.seeds import CONFIDENCE

LEAST_TRIALS = 10
FOLDS, REPEATS, SHUFFLES, TREES = 5, 4, 3, 40
GRID = 10
SLICES = 3
"""Settings whose response is shown, from the most important on."""


def comparable(contents: Contents) -> tuple[list[Trial], list[float], int | None]:
    """Trials that can be held against one another, their first objective, and at how many molecules seen.

    Where none was stopped: the finished ones, each at its end, and no number. Else finished and stopped trials decide
    the number; running ones take part if they have come so far.
    """
    name = contents.sweep.objectives[0].name
    ended = [t for t in contents.trials if t.state in ("finished", "stopped") and contents.curves.get(t.id)]
    if all(trial.state == "finished" for trial in ended):
        return ended, [contents.curves[trial.id][-1].objectives[name] for trial in ended], None
    budget = min(contents.curves[trial.id][-1].samples_seen for trial in ended)
    trials, scores = [], []
    for trial in contents.trials:
        reached = _at(contents.curves.get(trial.id, ()), budget)
        if reached is not None and trial.state in ("finished", "stopped", "running"):
            trials.append(trial)
            scores.append(reached.objectives[name])
    return trials, scores, budget


def _at(points: Sequence[Point], budget: int) -> Point | None:
    """The last report up to a number of molecules seen, if the trial went as far."""
    if not points or points[-1].samples_seen < budget:
        return None
    return next((point for point in reversed(points) if point.samples_seen <= budget), None)


def importance_record(contents: Contents) -> dict[str, Any]:
    """`settings` (name, value, low, high, trials; the most important first), `r2` of the forest, `trials`, `samples`.

    `settings` is empty with fewer than LEAST_TRIALS trials, or where the score or no setting varies. A value is a share
    of the score's variance: 0 nothing, 1 all of it; an estimate from few trials can lie a little outside.
    `responses` are one-dimensional, `surface` is that of the first two; see `_response`.
    """
    trials, scores, budget = comparable(contents)
    empty: dict[str, Any] = {
        "settings": [],
        "r2": None,
        "trials": len(trials),
        "samples": budget,
        "responses": [],
        "surface": None,
    }
    target = np.array(scores)
    encoded = encode(trials, contents.sweep.space, seed=contents.sweep.seed)
    if len(trials) < LEAST_TRIALS or not encoded.names or np.ptp(target) == 0:
        return empty
    losses, explained = _shuffled(encoded, target, seed=contents.sweep.seed)
    records = []
    for column, name in enumerate(encoded.names):
        interval = _interval(losses[:, column] / 2)
        records.append({"name": name, **interval, "trials": int(encoded.in_force[:, column].sum())})
    records.sort(key=lambda r: -np.inf if r["value"] is None else r["value"], reverse=True)
    wanted = [record["name"] for record in records if record["value"] is not None][:SLICES]
    forest = _forest(contents.sweep.seed).fit(encoded.positions, target)
    responses = [_response(forest, encoded, target, [name], contents) for name in wanted]
    pair = _pair(encoded, wanted)
    surface = _response(forest, encoded, target, pair, contents) if pair else None
    return {**empty, "settings": records, "r2": _interval(explained), "responses": responses, "surface": surface}


def _pair(encoded: Encoded, names: Sequence[str]) -> tuple[str, ...]:
    """The two most important settings that enough trials have in force together; () where there are none."""
    for pair in combinations(names, 2):
        if encoded.in_force[:, [encoded.names.index(name) for name in pair]].all(axis=1).sum() >= LEAST_TRIALS:
            return pair
    return ()


def _interval(values: Float[np.ndarray, " folds"]) -> dict[str, Any]:
    found = corrected_difference([FoldDifferences(values, 1 / FOLDS)], confidence=CONFIDENCE)
    numbers = {"value": found.difference, "low": found.low, "high": found.high}
    return {key: None if np.isnan(number) else float(number) for key, number in numbers.items()}


def _forest(seed: int) -> RandomForestRegressor:
    return RandomForestRegressor(n_estimators=TREES, min_samples_leaf=2, random_state=seed)


def _shuffled(
    encoded: Encoded, target: Float[np.ndarray, " trials"], *, seed: int
) -> tuple[Float[np.ndarray, "folds settings"], Float[np.ndarray, " folds"]]:
    """What shuffling each setting costs on every held-out fold, and R2 there; NaN where it is in force too seldom.

    Both are shares of the variance of the score over all trials.
    """
    variance = float(target.var())
    folds = RepeatedKFold(n_splits=FOLDS, n_repeats=REPEATS, random_state=seed)
    losses, explained = [], []
    for number, (train, held) in enumerate(folds.split(target)):
        forest = _forest(seed + number).fit(encoded.positions[train], target[train])
        explained.append(1 - float(np.mean((forest.predict(encoded.positions[held]) - target[held]) ** 2)) / variance)
        losses.append(_losses_of_fold(forest, encoded, target, held, seed=seed + number) / variance)
    return np.array(losses), np.array(explained)


def _losses_of_fold(
    forest: RandomForestRegressor,
    encoded: Encoded,
    target: Float[np.ndarray, " trials"],
    held: Int[np.ndarray, " rows"],
    *,
    seed: int,
) -> Float[np.ndarray, " settings"]:
    """Rise of the squared error over all held trials; settings in force in the same ones are shuffled in one pass."""
    found = np.full(len(encoded.names), np.nan)
    patterns: dict[bytes, list[int]] = {}
    for column in range(len(encoded.names)):
        patterns.setdefault(encoded.in_force[held, column].tobytes(), []).append(column)
    for columns in patterns.values():
        rows = held[encoded.in_force[held, columns[0]]]
        if len(rows) < 2:
            continue
        whole = encoded.positions[rows]

        def minus_error(fitted: Any, part: Any, wanted: Any, whole: Any = whole, columns: list[int] = columns) -> float:
            """Of rows whose other settings stay as they are."""
            filled = whole.copy()
            filled[:, columns] = part
            return -float(np.mean((fitted.predict(filled) - wanted) ** 2))

        found[columns] = permutation_importance(
            forest,
            whole[:, columns],
            target[rows],
            scoring=minus_error,
            n_repeats=SHUFFLES,
            random_state=np.random.RandomState(seed),
        ).importances_mean * (len(rows) / len(held))
    return found


def _response(
    forest: RandomForestRegressor,
    encoded: Encoded,
    target: Float[np.ndarray, " trials"],
    names: Sequence[str],
    contents: Contents,
) -> dict[str, Any]:
    """Mean prediction of the forest over one or two settings (partial dependence, Friedman 2001).

    `names`, `grid` (values of each), `score` (nested as the grid), and `points`: the trials' values and scores.
    """
    columns = [encoded.names.index(name) for name in names]
    rows = encoded.in_force[:, columns].all(axis=1)
    found: Mapping[str, Any] = partial_dependence(
        forest,
        encoded.positions[rows],
        columns,
        kind="average",
        method="brute",
        grid_resolution=GRID,
        percentiles=(0.0, 1.0),
    )
    space = [contents.sweep.space[name] for name in names]
    grid = [[value_at(float(p), s) for p in axis] for axis, s in zip(found["grid_values"], space, strict=True)]
    places = encoded.positions[rows][:, columns]
    points = [
        [*(value_at(float(p), s) for p, s in zip(place, space, strict=True)), float(score)]
        for place, score in zip(places, target[rows], strict=True)
    ]
    return {"names": list(names), "grid": grid, "score": found["average"][0].tolist(), "points": points}
