"""Finished tasks without fitting anything: the real parts of a plan, each with numbers that a rule says.

`outcome` takes the rule; `example_outcomes` has one that looks like life (noise shared by all representations of a
task, so that comparisons are paired), for what only needs a whole report.
"""

import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from dynfusion.evaluation.hiding.patterns import Pattern
from dynfusion.evaluation.insight.reconstruction import Rivals
from dynfusion.evaluation.protocol.groups import CellGroup, GroupResult
from dynfusion.evaluation.protocol.outcome import TaskOutcome
from dynfusion.evaluation.protocol.plan import Part, parts
from dynfusion.evaluation.report.assembly import ModelRecord, Provenance, build_report
from dynfusion.evaluation.representations.features import Contestant, Fingerprint, Joined, MeanImputed, Single
from dynfusion.evaluation.representations.imputers import Imputers, Ridge, ridge_plan
from dynfusion.evaluation.representations.knn_imputer import KnnImputer, Neighbours
from dynfusion.evaluation.scores.metrics import metrics_of
from dynfusion.evaluation.settings import EvaluationSettings
from dynfusion.evaluation.tasks.task import Kind

NAMES = ("a", "b", "c")
DIMS = {"a": 24, "b": 10, "c": 16}
RESAMPLES = 1000
MOLECULES = 40
Rule = Callable[[CellGroup, Pattern, str], np.ndarray]
"""(group, pattern, metric) to float64 [1 + resamples]."""


def group(representation: str, patterns: Iterable[Pattern], **changes: Any) -> CellGroup:
    """A group of section folds on the given split, unless told otherwise."""
    told: dict[str, Any] = {
        "section": "folds",
        "task": "t",
        "fold": "given",
        "model": "run" if representation.startswith(("fused", "projection-mean")) else None,
        "probe": "linear",
        "seed": 0,
        "fitting": "transferred",
        "fit": Pattern("subset", NAMES),
        "complete_rows": False,
        "key": "key",
    }
    return CellGroup(representation=representation, patterns=tuple(patterns), **{**told, **changes})


def result(of: CellGroup, rule: Rule, *, metrics: Sequence[str] = ("roc_auc",), outputs: int = 1) -> GroupResult:
    """A group whose cells are what the rule says; molecules are scored evenly between 0 and 1."""
    scores = np.linspace(0, 1, MOLECULES * outputs).reshape(MOLECULES, outputs)
    return GroupResult(
        group=of,
        scores=np.stack([scores] * len(of.patterns)),
        resampled={metric: np.stack([rule(of, pattern, metric) for pattern in of.patterns]) for metric in metrics},
        unscored=tuple(MOLECULES // 20 * (len(pattern.visible) < len(NAMES)) for pattern in of.patterns),
        hidden_share=tuple(
            0.8 * pattern.rate if pattern.rate is not None else 1 - len(pattern.visible) / len(NAMES)
            for pattern in of.patterns
        ),
        chosen={of.representation: {"C": 0.01}},
    )


def outcome(name: str, results: Iterable[GroupResult], **changes: Any) -> TaskOutcome:
    """A binary task on its given split, unless told otherwise."""
    told: dict[str, Any] = {
        "kind": "binary",
        "label_names": ("label",),
        "class_names": (),
        "given_split": "given",
        "folds": 1,
        "repeats": 1,
        "molecules": {"train": 320, "valid": 40, "test": MOLECULES},
        "in_no_part": 0,
        "present": {"a": 1.0, "b": 0.95, "c": 0.75},
        "nothing_present_test": 0,
        "base_rate": 0.4,
        "leaks": (),
        "reconstruction": (),
        "alignment": (),
        "collapse": (),
        "labels_known": {"train": 1.0, "valid": 1.0, "test": 1.0},
        "test_labels": np.arange(MOLECULES)[:, None] % 5 // 3.0,
    }
    return TaskOutcome(name=name, results=tuple(results), **{**told, **changes})


def rivals() -> Rivals:
    """What was chosen on a pool; no values in it."""
    ridges = {
        (visible, target): Ridge(
            visible, target, np.zeros((1, 1), np.float32), np.zeros(1, np.float32), 0.1, 900, 100, (0.7, 0.5)
        )
        for visible, target in ridge_plan(NAMES)
    }
    near = {pair: Neighbours(*pair, 10, 900, 100, (0.8, 0.6)) for pair in ridge_plan(NAMES)}
    values = {name: np.zeros((1, DIMS[name]), np.float32) for name in NAMES}
    return Rivals(Imputers(NAMES, DIMS, ridges, "ridge"), KnnImputer(NAMES, values, np.ones((1, 3), bool), near, "knn"))


def example_outcomes(
    tasks: Sequence[tuple[str, Kind]] = (("bace", "binary"), ("bbbp", "binary"), ("esol", "regression")),
    *,
    models: Sequence[str] = ("run",),
    ablations: Sequence[str] = (),
    settings: EvaluationSettings | None = None,
) -> list[TaskOutcome]:
    """Every section of the plan, two repeats of two folds."""
    how = settings or EvaluationSettings()
    alone = [Contestant(name, (Single(name),)) for name in NAMES]
    joined = [Contestant("+".join(pair), (Joined(pair),)) for pair in (("a", "b"), ("a", "c"), ("b", "c"))]
    flexible = [
        Contestant(name, (MeanImputed(name),)) for name in ("concat-mean", "concat-ridge", "pca-32", "random-32")
    ]
    late = Contestant("late-fusion", tuple(Single(name) for name in NAMES))
    lines = [*alone, *joined, *flexible, Contestant("ecfp", (Fingerprint(),)), late]

    def fused(kind: str, model: str, named: bool) -> Contestant:
        name = f"{kind} ({model})" if named else kind
        return Contestant(name, (MeanImputed(name),), model)

    several = len(models) > 1
    ours = [fused(kind, model, several) for model in models for kind in ("projection-mean", "fused")]
    removed = [fused("fused", model, True) for model in ablations]
    plan = parts(NAMES, lines, ours, removed, settings=how)
    return [_example(name, kind, plan) for name, kind in tasks]


def _example(name: str, kind: Kind, plan: Sequence[Part]) -> TaskOutcome:
    quick = all(part.given for part in plan)
    folds = ["given"] if quick else [f"scaffold-cv-{repeat}-{number}" for repeat in range(2) for number in range(2)]
    metrics = metrics_of(kind)
    results = []
    for part in plan:
        for fold in ["given"] if part.given else folds:
            one = part.contestant
            about = CellGroup(
                *(part.section, name, fold, one.name, one.model, part.probe, 0, part.fitting, part.fit),
                *(part.complete_rows, part.patterns, "key"),
            )
            results.append(result(about, lifelike, metrics=metrics))
    binary = kind == "binary"
    changes: dict[str, Any] = {} if quick else {"folds": len(folds), "repeats": 2}
    return outcome(
        name, results, kind=kind, base_rate=0.4 if binary else None, leaks=(_leaks(name, "given"),), **changes
    )


def _leaks(task: str, fold: str) -> dict[str, object]:
    counts = {"test": MOLECULES, "readable": MOLECULES - 1, "with_scaffold": 30, "scaffold_in_train": 6}
    return {"task": task, "fold": fold, **counts, "molecule_in_train": 1, "molecule_in_pool": 3}


SKILLS = {"fused": 0.06, "concat-ridge": 0.05, "projection-mean": 0.04, "late-fusion": 0.03, "concat-mean": 0.02}


def lifelike(of: CellGroup, pattern: Pattern, metric: str) -> np.ndarray:
    """Falls with what is absent, less for what fills gaps; noise of molecules shared, of folds mostly so."""
    base = {"roc_auc": 0.78, "pr_auc": 0.55, "r2": 0.6, "rmse": 0.9, "spearman": 0.7}[metric]
    skill = SKILLS.get(of.representation.split(" ")[0], 0.0)
    absent = 1 - len(pattern.visible) / len(NAMES) + 0.6 * (pattern.rate or 0) + 0.3 * (of.fit.rate or 0) * 0.5
    value = base + (skill - (0.25 - 2 * skill) * absent) * (-1 if metric == "rmse" else 1)
    shared = np.random.default_rng(zlib.crc32(f"{of.task}|{of.fold}".encode())).normal(size=RESAMPLES + 1)
    own = np.random.default_rng(zlib.crc32(f"{of.name}|{pattern}".encode())).normal(size=RESAMPLES + 1)
    found = value + 0.02 * shared + 0.004 * own
    found[0] = value + 0.01 * shared[0] + 0.003 * own[0]
    return found


def provenance(models: Sequence[str] = ("run",), ablations: Sequence[str] = ()) -> Provenance:
    """Models of width 32 that say nothing of their training."""
    named = [(name, False) for name in models] + [(name, True) for name in ablations]
    return Provenance(tuple(ModelRecord(name, 32, ablation, {}) for name, ablation in named), {"numpy": np.__version__})


def example_report(**changes: Any) -> dict[str, Any]:
    """`build_report` of `example_outcomes`."""
    settings = EvaluationSettings()
    outcomes = example_outcomes(settings=settings, **changes)
    about = {name: changes[name] for name in ("models", "ablations") if name in changes}
    return build_report(outcomes, rivals(), settings, provenance=provenance(**about))
