"""Penalised generalised linear models for all outputs of a task at once.

    minimise over W, b     C * sum over known labels of loss(x W + b, label)  +  |W|^2 / 2

    labels        loss               prediction
    binary        logistic           sigmoid(x W + b), each label on its own
    multiclass    cross-entropy      softmax(x W + b)
    regression    half squared error x W + b, each label on its own

The links are canonical, so the gradient by x W + b is prediction - label throughout. L-BFGS runs over all outputs
together, on coordinates V = L^T W with L L^T = I + C c X^T X: c is the mean curvature of the loss at the prior, so that
the Hessian by V starts near the identity and few steps are needed, however correlated the features are. The optimum is
that of any other solver. One pass over the features serves every output, where a solver of one label reads them anew.

Source: McCullagh and Nelder (1989), chapter 2; L-BFGS, Liu and Nocedal (1989), as SciPy has it.
"""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import minimize
from scipy.special import expit, logsumexp, softmax

from dynfusion.evaluation.tasks.task import Kind

TOLERANCE = 1e-6
"""Largest entry of the gradient by V at the end."""
ROUNDING = 1e-6
"""Keeps a matrix in single precision positive definite, as a share of its trace."""
UNCONVERGED = 1e3 * TOLERANCE
"""A larger one there, whatever made the solver end, is told: an end in rounding errors lies below."""
MEMORY = 10
"""Corrections that L-BFGS keeps."""


class UnconvergedWarning(UserWarning):
    """A head is not the optimum that it should be."""


@dataclass(frozen=True)
class Targets:
    """What is to be predicted, without NaN."""

    kind: Kind
    values: Float[np.ndarray, "rows outputs"]
    """0 or 1 (one-hot for classes) or real numbers; 0 where unknown."""
    known: Bool[np.ndarray, "rows outputs"]

    def centre(self) -> Float[np.ndarray, " outputs"]:
        """Mean of what is known: the prediction at W = 0."""
        return self.values.sum(axis=0) / self.known.sum(axis=0)

    def curvature(self) -> Float[np.ndarray, " outputs"]:
        """Second derivative of the loss by x W + b at W = 0, summed over rows."""
        centre = self.centre()
        spread = np.ones_like(centre) if self.kind == "regression" else centre * (1 - centre)
        return spread * self.known.sum(axis=0)


def path(
    features: Float[np.ndarray, "rows dim"], targets: Targets, grid: tuple[float, ...], *, max_iterations: int
) -> Iterator[tuple[Float[np.ndarray, "dim outputs"], Float[np.ndarray, " outputs"]]]:
    """Weights and intercepts for every C of an ascending grid, each started where the one before ended.

    Every output needs two different known values. Warns `UnconvergedWarning` where no optimum was reached.
    """
    # Single precision will do: it shapes the coordinates, not what is minimised in them.
    single = features.astype(np.float32)
    gram = single.T @ single
    curvature = targets.curvature()
    centre = targets.centre()
    intercept = centre if targets.kind == "regression" else np.log(centre / (1 - centre))
    weights = np.zeros((features.shape[1], len(intercept)))
    for inverse_penalty in grid:
        mean_curvature = curvature.mean() / len(features)
        factor = (inverse_penalty * mean_curvature * gram).astype(np.float32)
        factor[np.diag_indices_from(factor)] += 1 + ROUNDING * np.trace(factor)
        objective = Objective(
            features,
            targets,
            inverse_penalty,
            cholesky(factor, lower=True, overwrite_a=True, check_finite=False),
            1 / np.sqrt(inverse_penalty * curvature),
        )
        found = minimize(
            objective,
            objective.coordinates(weights, intercept),
            jac=True,
            method="L-BFGS-B",
            options={
                "maxiter": max_iterations,
                "maxfun": 2 * max_iterations,
                "gtol": TOLERANCE,
                "ftol": 1e-15,
                "maxcor": MEMORY,
            },
        )
        slope = float(np.abs(found.jac).max())
        if slope > UNCONVERGED:
            warnings.warn(
                f"linear probe: no optimum in {found.nit} iterations at C {inverse_penalty:g}, slope {slope:.1e}",
                UnconvergedWarning,
                stacklevel=2,
            )
        weights, intercept = objective.parameters(found.x)
        yield weights, intercept


@dataclass(frozen=True)
class Objective:
    """The penalised loss and its gradient as a function of the flat vector of V and scaled intercepts."""

    features: Float[np.ndarray, "rows dim"]
    targets: Targets
    inverse_penalty: float
    factor: Float32[np.ndarray, "dim dim"]
    """L, lower triangular."""
    intercept_scale: Float[np.ndarray, " outputs"]

    def __call__(self, flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights, intercept = self.parameters(flat)
        loss, prediction = LOSSES[self.targets.kind](self.features @ weights + intercept, self.targets)
        residual = self.inverse_penalty * np.where(self.targets.known, prediction - self.targets.values, 0)
        by_weights = self._solve(self.features.T @ residual + weights, transposed=False)
        by_intercept = residual.sum(axis=0) * self.intercept_scale
        value = self.inverse_penalty * loss + np.vdot(weights, weights) / 2
        return float(value), np.concatenate([by_weights.ravel(), by_intercept])

    def parameters(self, flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weights and intercepts at a point."""
        outputs = len(self.intercept_scale)
        return self._solve(flat[:-outputs].reshape(-1, outputs), transposed=True), flat[
            -outputs:
        ] * self.intercept_scale

    def coordinates(self, weights: np.ndarray, intercept: np.ndarray) -> np.ndarray:
        """The point at which the weights and intercepts are these."""
        return np.concatenate([(self.factor.T @ weights).ravel(), intercept / self.intercept_scale])

    def _solve(self, right: np.ndarray, *, transposed: bool) -> np.ndarray:
        """L^-1 or L^-T times a matrix."""
        found = solve_triangular(
            self.factor, right.astype(np.float32), lower=True, trans=int(transposed), check_finite=False
        )
        return found.astype(np.float64)


def _binary(logits: np.ndarray, targets: Targets) -> tuple[float, np.ndarray]:
    softplus = np.maximum(logits, 0) + np.log1p(np.exp(-np.abs(logits)))
    return float(np.where(targets.known, softplus - targets.values * logits, 0).sum()), expit(logits)


def _multiclass(logits: np.ndarray, targets: Targets) -> tuple[float, np.ndarray]:
    loss = np.where(targets.known[:, 0], logsumexp(logits, axis=1) - (targets.values * logits).sum(axis=1), 0)
    return float(loss.sum()), softmax(logits, axis=1)


def _regression(predicted: np.ndarray, targets: Targets) -> tuple[float, np.ndarray]:
    residual = np.where(targets.known, predicted - targets.values, 0)
    return float(np.vdot(residual, residual) / 2), predicted


LOSSES: dict[Kind, Callable[[np.ndarray, Targets], tuple[float, np.ndarray]]] = {
    "binary": _binary,
    "multiclass": _multiclass,
    "regression": _regression,
}
"""(x W + b, targets) to the summed loss of what is known, and the predictions."""
