"""The gradient boosting probe: what a strong reader that is not linear finds.

Histogram gradient boosting of scikit-learn, one model for every label, small trees; the number of trees is chosen from
one fit for all of the grid, by looking at it on the way.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Float
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from threadpoolctl import threadpool_limits

from dynfusion.evaluation.probes.labelled import Labelled, ProbeTask
from dynfusion.evaluation.probes.prior import prior
from dynfusion.evaluation.probes.selection import best_of
from dynfusion.evaluation.settings import ProbeSettings

Model: TypeAlias = HistGradientBoostingClassifier | HistGradientBoostingRegressor
LEARNING_RATE = 0.1
LEAVES = 15
BINS = 63


@dataclass(frozen=True)
class BoostingHead:
    """A model for every label that could be fitted, a constant for the others."""

    models: tuple[Model | None, ...]
    prior: Float[np.ndarray, " outputs"]
    target: ProbeTask

    def scores(self, values: Float[np.ndarray, "rows dim"]) -> Float[np.ndarray, "rows outputs"]:
        """Probabilities 0..1 of the positive class or of every class, or predictions in units of the labels."""
        with threadpool_limits(limits=1):
            return self.curve(values, (max([1, *(model.n_iter_ for model in self.models if model is not None)]),))[-1]

    def curve(self, values: np.ndarray, rounds: tuple[int, ...]) -> Float[np.ndarray, "grid rows outputs"]:
        """Scores after each of these numbers of rounds, which are ascending."""
        found = np.tile(self.prior, (len(rounds), len(values), 1))
        for label, model in enumerate(self.models):
            if model is None:
                continue
            staged = model.staged_predict if self.target.kind == "regression" else model.staged_predict_proba
            stages = {number: stage for number, stage in enumerate(staged(values), start=1) if number in rounds}
            for place, number in enumerate(rounds):
                _put(found[place], stages[number], label, model, self.target)
        return found


def _put(scores: np.ndarray, stage: np.ndarray, label: int, model: Model, target: ProbeTask) -> None:
    """Writes a model's prediction into the columns that are its own."""
    if target.kind == "regression":
        scores[:, label] = stage
    elif target.kind == "binary":
        scores[:, label] = stage[:, 1]
    else:
        scores[:, model.classes_.astype(int)] = stage


class BoostingProbe:
    """Histogram gradient boosting; its hyper-parameter is `rounds`, the number of trees."""

    def choose(
        self, train: Labelled, valid: Labelled, *, target: ProbeTask, seed: int, settings: ProbeSettings
    ) -> dict[str, float]:
        """The number of trees that does best on validation rows, else over inner folds; ties to the smaller."""
        grid = settings.rounds

        def curve(fit: Labelled, check: np.ndarray) -> np.ndarray:
            return _head(fit, target, grid[-1], seed).curve(check, grid)

        with threadpool_limits(limits=1):
            best = best_of(
                tuple(float(number) for number in grid),
                curve,
                train,
                valid,
                target=target,
                folds=settings.folds,
                seed=seed,
            )
        return {"rounds": best}

    def fit(
        self, train: Labelled, *, target: ProbeTask, chosen: Mapping[str, float], seed: int, settings: ProbeSettings
    ) -> BoostingHead:
        """The head with the chosen number of trees; the same bytes on any number of cores."""
        with threadpool_limits(limits=1):
            return _head(train, target, int(chosen["rounds"]), seed)


def _head(train: Labelled, target: ProbeTask, rounds: int, seed: int) -> BoostingHead:
    values, labels = train
    kind = HistGradientBoostingRegressor if target.kind == "regression" else HistGradientBoostingClassifier
    models: list[Model | None] = []
    for label in labels.T:
        known = ~np.isnan(label)
        model = kind(
            max_iter=rounds,
            learning_rate=LEARNING_RATE,
            max_leaf_nodes=LEAVES,
            max_bins=BINS,
            early_stopping=False,
            random_state=seed,
        )
        models.append(model.fit(values[known], label[known]) if len(np.unique(label[known])) > 1 else None)
    return BoostingHead(tuple(models), prior(labels, target), target)
