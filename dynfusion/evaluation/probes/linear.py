"""The linear probe: how much a frozen representation says about a label to a linear reader.

    training rows --standardise--> (where dim > rows: coordinates on their row space) --> generalised linear model

Logistic regression for binary labels, multinomial for classes, ridge regression for real numbers (on standardised
labels). The row space changes nothing but the time: with an L2 penalty the optimal weights lie in the span of the
training rows (representer theorem), so `rows` coordinates predict the same as all of them. C comes from one grid shared
by all representations. All labels share one solver (generalised_linear.py); against scikit-learn's lbfgs with a warm
start, one label after another, on one thread and a grid of five C: 6,264 x 1,496 with 12 labels 18 s for 63 s, 33,000 x
1,496 with one label 15 s for 40 s, and at an optimum where lbfgs's tolerance leaves logits off by up to 4.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from scipy.linalg import qr
from scipy.special import expit, softmax
from threadpoolctl import threadpool_limits

from dynfusion.evaluation.probes.generalised_linear import Targets, path
from dynfusion.evaluation.probes.labelled import Labelled, ProbeTask, indicators
from dynfusion.evaluation.probes.prior import prior
from dynfusion.evaluation.probes.scaler import mean_and_scale
from dynfusion.evaluation.probes.selection import best_of
from dynfusion.evaluation.settings import ProbeSettings


@dataclass(frozen=True)
class Space:
    """Standardisation, and where there are more dimensions than rows an orthonormal basis of the rows' span."""

    mean: Float[np.ndarray, " dim"]
    scale: Float[np.ndarray, " dim"]
    basis: Float[np.ndarray, "dim rank"] | None

    def of(self, values: Float[np.ndarray, "rows dim"]) -> Float[np.ndarray, "rows rank"]:
        """The coordinates of some rows."""
        scaled = (values - self.mean) / self.scale
        return scaled if self.basis is None else scaled @ self.basis


@dataclass(frozen=True)
class Outputs:
    """A fitted generalised linear model; outputs that the training labels could not fit are constants."""

    target: ProbeTask
    fitted: np.ndarray
    """Numbers of the fitted outputs."""
    weights: Float[np.ndarray, "rank fitted"]
    intercept: Float[np.ndarray, " fitted"]
    constants: Float[np.ndarray, " outputs"]

    def predict(self, coordinates: Float[np.ndarray, "rows rank"]) -> Float[np.ndarray, "rows outputs"]:
        """Probabilities, or numbers in units of the labels."""
        found = np.tile(self.constants, (len(coordinates), 1))
        if len(self.fitted):
            predicted = coordinates @ self.weights + self.intercept
            if self.target.kind == "binary":
                predicted = expit(predicted)
            elif self.target.kind == "multiclass":
                predicted = softmax(predicted, axis=1)
            found[:, self.fitted] = predicted
        return found


@dataclass(frozen=True)
class LinearHead:
    """A fitted linear probe, with weights for the standardised features themselves."""

    space: Space
    outputs: Outputs

    def scores(self, values: Float[np.ndarray, "rows dim"]) -> Float[np.ndarray, "rows outputs"]:
        """Probabilities 0..1 of the positive class or of every class, or predictions in units of the labels."""
        with threadpool_limits(limits=1):
            return self.outputs.predict(self.space.of(values))


class LinearProbe:
    """Logistic or ridge regression; its hyper-parameter is `inverse_penalty`, the C of the losses."""

    def choose(
        self, train: Labelled, valid: Labelled, *, target: ProbeTask, seed: int, settings: ProbeSettings
    ) -> dict[str, float]:
        """The C of the grid that does best on validation rows, else over inner folds; ties to the stronger penalty."""
        grid = settings.inverse_penalties

        def curve(fit: Labelled, check: np.ndarray) -> Iterator[np.ndarray]:
            return (outputs.predict(check) for outputs in _fits(fit, grid, target, settings.max_iterations))

        if len(grid) == 1 or len(train[1]) < settings.folds:
            return {"inverse_penalty": grid[len(grid) // 2]}
        with threadpool_limits(limits=1):
            space = _space(train[0])
            best = best_of(
                grid,
                curve,
                (space.of(train[0]), train[1]),
                (space.of(valid[0]), valid[1]),
                target=target,
                folds=settings.folds,
                seed=seed,
            )
        return {"inverse_penalty": best}

    def fit(
        self, train: Labelled, *, target: ProbeTask, chosen: Mapping[str, float], seed: int, settings: ProbeSettings
    ) -> LinearHead:
        """The head at the chosen C; the same bytes on any number of cores, whatever the seed."""
        with threadpool_limits(limits=1):
            space = _space(train[0])
            coordinates = space.of(train[0])
            grid = (chosen["inverse_penalty"],)
            outputs = next(_fits((coordinates, train[1]), grid, target, settings.max_iterations))
            if space.basis is not None:
                outputs = replace(outputs, weights=space.basis @ outputs.weights)
        return LinearHead(replace(space, basis=None), outputs)


def _space(values: Float[np.ndarray, "rows dim"]) -> Space:
    mean, scale = mean_and_scale(values)
    scaled = Space(mean, scale, None)
    if len(values) >= values.shape[1]:
        return scaled
    basis, _ = qr(scaled.of(values).T, mode="economic", check_finite=False)
    return Space(mean, scale, basis)


def _fits(train: Labelled, grid: tuple[float, ...], target: ProbeTask, max_iterations: int) -> Iterator[Outputs]:
    """A model for every C of an ascending grid."""
    coordinates, labels = train
    constants = prior(labels, target)
    values, known = indicators(labels, target)
    varied = np.array([len(np.unique(value[rows])) > 1 for value, rows in zip(values.T, known.T, strict=True)])
    fitted = np.flatnonzero(varied)
    if len(fitted) == 0:
        nothing = np.zeros((coordinates.shape[1], 0))
        yield from (Outputs(target, fitted, nothing, np.zeros(0), constants) for _ in grid)
        return
    values, known = values[:, fitted], known[:, fitted]
    centre, scale = np.zeros(len(fitted)), np.ones(len(fitted))
    if target.kind == "regression":
        centre = constants[fitted]
        values = np.where(known, values - centre, 0)
        scale = np.sqrt((values**2).sum(axis=0) / known.sum(axis=0))
        values = values / scale
    targets = Targets(target.kind, values, known)
    for weights, intercept in path(coordinates, targets, grid, max_iterations=max_iterations):
        yield Outputs(target, fitted, weights * scale, intercept * scale + centre, constants)
