"""A grid entry is chosen by the mean over inner folds, so by what holds in most of them and not in one."""

import itertools

import numpy as np
import pytest

from dynfusion.evaluation.probes.labelled import ProbeTask
from dynfusion.evaluation.probes.selection import best_of

BINARY = ProbeTask("binary", 0)
LABELS = np.arange(40)[:, None] % 2.0
NONE = (np.zeros((0, 1)), np.zeros((0, 1)))


def scored(labels: np.ndarray, area: float) -> np.ndarray:
    """Scores of this ROC-AUC: of the negatives that share stands below all positives, the rest above."""
    scores = labels.copy()
    negatives = np.flatnonzero(labels[:, 0] == 0)
    scores[negatives[: round((1 - area) * len(negatives))]] = 2.0
    return scores


@pytest.mark.parametrize(
    ("by_fold", "chosen"),
    [
        ([(1.0, 0.75), (0.25, 0.75), (0.25, 0.75), (0.25, 0.75)], 0.2),  # the first fold alone would choose the other
        ([(0.75, 1.0), (0.75, 0.25), (0.75, 0.25), (0.75, 0.25)], 0.1),  # so would the best fold
        ([(0.75, 0.25), (0.75, 0.25), (0.75, 0.25), (0.75, 1.0)], 0.1),  # and the last one
        ([(0.5, 0.5)] * 4, 0.1),  # a tie goes to the earlier entry
    ],
)
def test_the_entry_with_the_best_mean_over_inner_folds_is_chosen(
    by_fold: list[tuple[float, float]], chosen: float
) -> None:
    checks = itertools.count()

    def curve(fit: tuple[np.ndarray, np.ndarray], features: np.ndarray) -> list[np.ndarray]:
        rows = features[:, 0].astype(int)
        return [scored(LABELS[rows], area) for area in by_fold[next(checks)]]

    train = (np.arange(40.0)[:, None], LABELS)
    assert best_of((0.1, 0.2), curve, train, NONE, target=BINARY, folds=4, seed=0) == chosen
