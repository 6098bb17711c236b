"""How long an evaluation will take, from its plan and the sizes of its tasks alone, before anything is fitted.

    parts of the plan --jobs by shape--> seconds of one reference core --speed of this machine--> / workers

Every formula below is a count of what a job does times the seconds one such thing took on one core of an AMD EPYC
(Zen 5); `machine_speed` measures how this machine compares, once for dense algebra and once for trees. An
estimate: `python -m tests.bench.bench_plan` sets it beside what an evaluation takes.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits

from dynfusion.evaluation.probes.xgboost_defaults import TREES
from dynfusion.evaluation.protocol.plan import Part
from dynfusion.evaluation.representations.features import CONCAT_RIDGE
from dynfusion.evaluation.settings import EvaluationSettings
from dynfusion.evaluation.tasks.task import SPLITS, Kind

REFERENCE = {"dense": 0.24, "trees": 0.11}
"""Seconds of `_dense` and `_trees` on the core that the rates below were measured on."""


@dataclass(frozen=True)
class Sizes:
    """Of one task, as far as the time to evaluate it depends on them."""

    name: str
    kind: Kind
    rows: dict[str, int]
    """By part of the given split."""
    outputs: int
    positives: float
    """Share of labels that are 1; 0 for real numbers."""
    folds: int
    """Parts of the cross-validation that each molecule is dealt to; 1 without."""
    repeats: int

    def split(self, given: bool) -> tuple[int, int, int]:
        """Training, validation and test rows of one fold."""
        if given or self.folds < 2:
            return self.rows["train"], self.rows["valid"], self.rows["test"]
        total = sum(self.rows.values())
        test = total // self.folds
        return total - test, 0, test

    def number(self, given: bool) -> int:
        """How many folds a part of the plan is computed on."""
        return 1 if given or self.folds < 2 else self.folds * self.repeats


@dataclass(frozen=True)
class Speed:
    """Seconds of this machine for one of the reference core."""

    dense: float
    trees: float


def sizes_of(
    name: str, labels: Float[np.ndarray, "rows labels"], kind: Kind, split: np.ndarray, settings: EvaluationSettings
) -> Sizes:
    """The sizes of a task from its labels and its split."""
    several = settings.extent != "quick" and settings.split.kind == "scaffold-cv"
    repeats, folds = settings.split.per_task.get(name, (settings.split.repeats, settings.split.folds))
    classes = int(np.nanmax(labels)) + 1 if kind == "multiclass" else 1
    return Sizes(
        name=name,
        kind=kind,
        rows={part: int((split == part).sum()) for part in SPLITS},
        outputs=labels.shape[1] * classes,
        positives=float(np.nanmean(labels)) if kind == "binary" else 1 / classes if classes > 1 else 0.0,
        folds=folds if several else 1,
        repeats=repeats if several else 1,
    )


def machine_speed() -> Speed:
    """Measured in about a second of one thread, in CPU seconds, the best of three."""
    with threadpool_limits(limits=1):
        dense = min(_timed(_dense) for _ in range(3))
        trees = min(_timed(_trees) for _ in range(3))
    return Speed(dense / REFERENCE["dense"], trees / REFERENCE["trees"])


def task_seconds(
    sizes: Sizes, plan: Sequence[Part], widths: dict[str, int], speed: Speed, settings: EvaluationSettings
) -> float:
    """CPU seconds of embedding, fitting and scoring one task's plan; `widths` are those of every member by name."""
    models = {(part.contestant.model, part.contestant.seed) for part in plan if part.contestant.model is not None}
    seconds, chosen = sum(sizes.rows.values()) * (2e-3 + 1e-3 * len(models)) * speed.dense, set()
    for part in plan:
        number = sizes.number(part.given)
        train, valid, test = sizes.split(part.given)
        scale = speed.trees if part.probe in ("boosting", "xgboost") else speed.dense
        patterns = len(part.patterns)
        for member in part.contestant.members:
            width = widths[member.name]
            shape = (train, width, sizes.outputs)
            once = (member.name, part.contestant.model, part.contestant.seed, part.probe, part.given)
            if once not in chosen:
                chosen.add(once)
                seconds += scale * choice_seconds(part.probe, *shape, valid=valid, settings=settings)
            fitted = fit_seconds(part.probe, *shape, settings=settings)
            scored = patterns * score_seconds(part.probe, train, test, width, sizes.outputs)
            features = features_seconds(member.name, train + test * patterns, width)
            seconds += number * (scale * (fitted + scored) + speed.dense * features)
        seconds += number * speed.dense * patterns * resample_seconds(test, sizes, settings)
    return seconds


def fit_seconds(probe: str, rows: int, width: int, outputs: int, *, settings: EvaluationSettings) -> float:
    """One head with its hyper-parameters given, on the reference core."""
    if probe == "linear":
        solver = rows * min(rows, width) * (3e-8 + 8e-9 * outputs)
        return solver + (1.4e-10 * rows**2 * width if width > rows else 0.0)
    if probe == "knn":
        return 6e-9 * rows * width
    rounds = settings.probe.rounds[-1] if probe == "boosting" else TREES
    fixed, each = (7.5e-6, 3.1e-9) if probe == "boosting" else (2.1e-5, 4.1e-9)
    return outputs * rounds * width * (fixed + each * rows)


def choice_seconds(
    probe: str, rows: int, width: int, outputs: int, *, valid: int, settings: EvaluationSettings
) -> float:
    """The hyper-parameters of a probe on the validation rows, else over inner folds."""
    if probe == "xgboost":
        return 0.0
    folds = settings.probe.folds
    paths, kept = (1, rows) if valid else (folds, rows * (folds - 1) // folds)
    once = fit_seconds(probe, kept, width, outputs, settings=settings)
    if probe == "linear":
        steps = (5 + 0.25 * outputs) * len(settings.probe.inverse_penalties) / 6
        once += (steps - 1) * kept * min(kept, width) * (3e-8 + 8e-9 * outputs)
    return paths * (once + score_seconds(probe, kept, valid or rows // folds, width, outputs))


def score_seconds(probe: str, train: int, test: int, width: int, outputs: int) -> float:
    if probe == "linear":
        return 5e-9 * test * width
    if probe == "knn":
        return test * train * (4e-11 * width + 5e-9)
    return 2e-8 * test * width + 1e-5 * test * outputs


def features_seconds(name: str, rows: int, width: int) -> float:
    return 3e-11 * rows * width * width if name == CONCAT_RIDGE else 2e-9 * rows * width


def resample_seconds(test: int, sizes: Sizes, settings: EvaluationSettings) -> float:
    each = 1.6e-5 * sizes.positives + 8e-7
    return settings.statistics.resamples / 1000 * sizes.outputs * test * each


def _timed(run: Callable[[], None]) -> float:
    started = time.process_time()
    run()
    return time.process_time() - started


def _dense() -> None:
    left = np.linspace(0, 1, 1500 * 1500).reshape(1500, 1500)
    for _ in range(2):
        left @ left


def _trees() -> None:
    values = np.random.default_rng(0).normal(size=(1500, 400)).astype(np.float32)
    HistGradientBoostingClassifier(max_iter=10, max_leaf_nodes=15, max_bins=63, early_stopping=False).fit(
        values, values[:, 0] > 0
    )
