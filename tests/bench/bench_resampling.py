"""What the resampled metrics of one representation on one fold cost, beside scikit-learn once per resample.

    python -m tests.bench.bench_resampling [rows]

The figures are milliseconds of one thread for ROC-AUC and PR-AUC together over 1,000 resamples: of a rare positive (the
share of hiv and of most labels of tox21) and of an even share, the dearest. The ceiling is one copy of the counts that
both are computed from; the peer's time is that of a few of its resamples, scaled.
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
from sklearn.metrics import average_precision_score, roc_auc_score
from threadpoolctl import threadpool_limits

from dynfusion.evaluation.scores.resampling import metrics_resamples, resample_counts
from dynfusion.evaluation.settings import StatisticsSettings

ROUNDS = 9
PEER_RESAMPLES = 5
SHARES = {"rare": 0.0375, "even": 0.5}


def main(size: int = 8000) -> dict[str, Any]:
    """Measure with `size` molecules; print one JSON line and return what it says."""
    settings = StatisticsSettings()
    with threadpool_limits(limits=1):
        counts = resample_counts("bench", size, settings=settings)
        figures, ceilings = {}, {"copy_of_the_counts_ms": _median_ms(counts.copy)}
        for name, share in SHARES.items():
            scores, labels = _sample(size, share)
            figures[f"{name}_ms"] = _median_ms(lambda: _resampled(scores, labels, counts))  # noqa: B023
            once = _median_ms(lambda: _by_scikit_learn(scores, labels, counts))  # noqa: B023
            ceilings[f"scikit_learn_{name}_ms"] = once / PEER_RESAMPLES * counts.shape[1]
    result = {
        "benchmark": "resampling",
        "figures": figures,
        "ceilings": ceilings,
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "scipy": scipy.__version__,
            "scikit-learn": sklearn.__version__,
        },
        "hardware": {"cores": os.cpu_count(), "machine": platform.machine(), "system": platform.system()},
        "settings": {"rows": size, "resamples": settings.resamples, "shares": SHARES},
    }
    print(json.dumps(result))
    return result


def _sample(size: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    draws = np.random.default_rng(0)
    labels = (np.arange(size) < size * share).astype(np.float64)
    return labels + draws.normal(size=size), labels


def _resampled(scores: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
    return metrics_resamples(("roc_auc", "pr_auc"), scores[:, None], labels[:, None], counts)


def _by_scikit_learn(scores: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> None:
    for weights in counts[:, 1 : 1 + PEER_RESAMPLES].T:
        roc_auc_score(labels, scores, sample_weight=weights)
        average_precision_score(labels, scores, sample_weight=weights)


def _median_ms(run: Callable[[], object]) -> float:
    run()
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds)) * 1e3


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
