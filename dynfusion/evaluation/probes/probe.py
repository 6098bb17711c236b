"""The table of probes, and what a probe is.

    choose   training and validation rows   -> hyper-parameters, once for a dataset
    fit      training rows                  -> a head, as often as there are folds and ways of hiding
    scores   features of any rows           -> predictions

To add a probe, add a file beside this one and a row to the table.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol, runtime_checkable

import numpy as np

from dynfusion.evaluation.probes.boosting import BoostingProbe
from dynfusion.evaluation.probes.labelled import Labelled, ProbeTask
from dynfusion.evaluation.probes.linear import LinearProbe
from dynfusion.evaluation.probes.neighbours import NeighboursProbe
from dynfusion.evaluation.probes.xgboost_defaults import XGBoostProbe, installed
from dynfusion.evaluation.settings import ProbeSettings

__all__ = ["PROBES", "Head", "Labelled", "Probe", "ProbeSettings", "ProbeTask", "available_probes"]


@runtime_checkable
class Head(Protocol):
    """A fitted probe; plain data, so that it can be pickled."""

    def scores(self, values: np.ndarray) -> np.ndarray:
        """[rows, outputs]: probabilities of the positive class of every binary label or of every class of a label of
        several, or predictions in units of the labels."""
        ...


@runtime_checkable
class Probe(Protocol):
    """A way of reading labels from frozen features."""

    def choose(
        self, train: Labelled, valid: Labelled, *, target: ProbeTask, seed: int, settings: ProbeSettings
    ) -> dict[str, float]:
        """Hyper-parameters from training and validation rows alone; inner folds where no validation row is labelled."""
        ...

    def fit(
        self, train: Labelled, *, target: ProbeTask, chosen: Mapping[str, float], seed: int, settings: ProbeSettings
    ) -> Head:
        """The head of these training rows, the same bytes on any number of cores."""
        ...


PROBES: Mapping[str, Probe] = MappingProxyType(
    {"linear": LinearProbe(), "knn": NeighboursProbe(), "boosting": BoostingProbe(), "xgboost": XGBoostProbe()}
)
"""By the name that a cell of the report bears."""


def available_probes() -> tuple[str, ...]:
    """Names of the probes that can be fitted here: all, or all but XGBoost where that extra is not installed."""
    return tuple(name for name in PROBES if name != "xgboost" or installed())
