"""What one head of the linear probe costs, beside scikit-learn's lbfgs on one label after another.

    python -m tests.bench.bench_probes [share of the rows]

The figures are seconds of one thread for a fit at the middle of C's grid, on the shapes of three MoleculeNet sets. The
peer runs at scikit-learn's own tolerance, in which it stops before the optimum; `off` is the largest difference of a
probability. The ceiling is the products with the features that one evaluation of the loss and its gradient needs.
"""

import json
import os
import platform
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy
import sklearn
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from dynfusion.evaluation.probes.probe import PROBES, ProbeTask
from dynfusion.evaluation.settings import ProbeSettings

DIM = 1496
ROUNDS = 5
INVERSE_PENALTY = 0.01
SHAPES = {
    "hiv": (33_000, 0.0, (0.035,)),
    "tox21": (6_264, 0.17, tuple(np.linspace(0.03, 0.17, 12))),
    "sider": (1_140, 0.0, tuple(np.linspace(0.02, 0.92, 27))),
}
"""Rows, share of missing labels, share of positives of every label."""


def main(size: float = 1.0) -> dict[str, Any]:
    """Measure with this share of the rows; print one JSON line and return what it says."""
    figures, ceilings = {}, {}
    with threadpool_limits(limits=1):
        for name, (rows, missing, shares) in SHAPES.items():
            values, labels = _sample(int(rows * size), missing, np.array(shares))
            scores: dict[str, np.ndarray] = {}
            seconds = _interleaved(
                {
                    "probe": lambda: scores.update(probe=_by_probe(values, labels)),  # noqa: B023
                    "peer": lambda: scores.update(peer=_by_scikit_learn(values, labels)),  # noqa: B023
                    "products": lambda: _products(values, labels),  # noqa: B023
                }
            )
            figures[f"{name}_s"] = seconds["probe"]
            ceilings |= {
                f"{name}_products_s": seconds["products"],
                f"{name}_scikit_learn_s": seconds["peer"],
                f"{name}_off": float(np.abs(scores["probe"] - scores["peer"]).max()),
            }
    result = {
        "benchmark": "probes",
        "figures": figures,
        "ceilings": ceilings,
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "scipy": scipy.__version__,
            "scikit-learn": sklearn.__version__,
        },
        "hardware": {"cores": os.cpu_count(), "machine": platform.machine(), "system": platform.system()},
        "settings": {"share": size, "dim": DIM, "inverse_penalty": INVERSE_PENALTY},
    }
    print(json.dumps(result))
    return result


def _sample(rows: int, missing: float, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features with the decaying spectrum of embeddings, and noisy labels of their leading directions."""
    draws = np.random.default_rng(0)
    hidden = draws.normal(size=(rows, DIM)).astype(np.float32)
    values = (hidden * np.geomspace(1, 1e-3, DIM).astype(np.float32)) @ draws.normal(size=(DIM, DIM)).astype(np.float32)
    logits = hidden[:, :50] @ draws.normal(size=(50, len(shares))) / 7 + draws.normal(size=(rows, len(shares)))
    limits = [np.quantile(logit, 1 - share) for logit, share in zip(logits.T, shares, strict=True)]
    labels = (logits > limits).astype(float)
    labels[draws.random(labels.shape) < missing] = np.nan
    return values, labels


def _by_probe(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    chosen = {"inverse_penalty": INVERSE_PENALTY}
    task, settings = ProbeTask("binary"), ProbeSettings()
    return PROBES["linear"].fit((values, labels), target=task, chosen=chosen, seed=0, settings=settings).scores(values)


def _by_scikit_learn(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    scaled = StandardScaler().fit_transform(values.astype(np.float64))
    scores = []
    for label in labels.T:
        known = ~np.isnan(label)
        model = LogisticRegression(C=INVERSE_PENALTY, max_iter=2000).fit(scaled[known], label[known])
        scores.append(model.predict_proba(scaled)[:, 1])
    return np.stack(scores, axis=1)


def _products(values: np.ndarray, labels: np.ndarray) -> None:
    scaled = values.astype(np.float64)
    scaled.T @ (scaled @ np.ones((DIM, labels.shape[1])))


def _interleaved(runs: dict[str, Callable[[], None]]) -> dict[str, float]:
    """Median seconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: float(np.median(found)) for name, found in seconds.items()}


if __name__ == "__main__":
    main(*(float(size) for size in sys.argv[1:]))
