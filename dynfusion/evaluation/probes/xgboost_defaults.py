"""The XGBoost probe with the library's defaults: the protocol of FM4M-kit, for comparison with published numbers.

Source: FM4M-kit, `DefaultClassifier` is `XGBClassifier()`. It reads one label; here every label has its model. For real
numbers FM4M-kit has another regressor, this probe `XGBRegressor()`. One thread.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from jaxtyping import Float

from dynfusion.evaluation.probes.labelled import Labelled, ProbeTask
from dynfusion.evaluation.probes.prior import prior
from dynfusion.evaluation.settings import ProbeSettings

TREES = 100
"""XGBoost's default number."""


@dataclass(frozen=True)
class XGBoostHead:
    """A model for every label that could be fitted, a constant for the others."""

    models: tuple[Any, ...]
    """XGBClassifier, XGBRegressor or None."""
    classes: tuple[np.ndarray, ...]
    """Of every label, ascending; empty for real numbers."""
    prior: Float[np.ndarray, " outputs"]
    target: ProbeTask

    def scores(self, values: Float[np.ndarray, "rows dim"]) -> Float[np.ndarray, "rows outputs"]:
        """Probabilities 0..1 of the positive class or of every class, or predictions in units of the labels."""
        found = np.tile(self.prior, (len(values), 1))
        for label, (model, classes) in enumerate(zip(self.models, self.classes, strict=True)):
            if model is None:
                continue
            if self.target.kind == "regression":
                found[:, label] = model.predict(values)
            elif self.target.kind == "binary":
                found[:, label] = model.predict_proba(values)[:, 1]
            else:
                found[:, classes] = model.predict_proba(values)
        return found


class XGBoostProbe:
    """XGBoost as it comes; nothing is chosen."""

    def choose(
        self, train: Labelled, valid: Labelled, *, target: ProbeTask, seed: int, settings: ProbeSettings
    ) -> dict[str, float]:
        """No hyper-parameter."""
        return {}

    def fit(
        self, train: Labelled, *, target: ProbeTask, chosen: Mapping[str, float], seed: int, settings: ProbeSettings
    ) -> XGBoostHead:
        """The head; the same bytes on any number of cores.

        Raises ValueError where XGBoost is not installed.
        """
        if not installed():
            raise ValueError(
                "probe xgboost: the package is not installed, `pip install 'dynfusion[xgboost]'` brings it"
            )
        xgboost: Any = importlib.import_module("xgboost")
        kind = xgboost.XGBRegressor if target.kind == "regression" else xgboost.XGBClassifier
        values, labels = train
        models, classes = [], []
        for label in labels.T:
            known = ~np.isnan(label)
            seen, number = np.unique(label[known], return_inverse=True)
            answer = label[known] if target.kind == "regression" else number
            fitted = kind(n_jobs=1, random_state=seed).fit(values[known], answer) if len(seen) > 1 else None
            models.append(fitted)
            classes.append(np.zeros(0, dtype=int) if target.kind == "regression" else seen.astype(int))
        return XGBoostHead(tuple(models), tuple(classes), prior(labels, target), target)


def installed() -> bool:
    """Whether the extra is there."""
    return find_spec("xgboost") is not None
