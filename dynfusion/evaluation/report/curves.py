"""From finished groups to numbers that stay paired: every column of every table as a value with its resamples.

    cell [resamples] --mean over the subsets of a column--> fold --mean over folds--> task --mean over tasks--> all

Every average is taken inside every resample, so an interval is that of the averaged number, and a difference of two
averages is that of the paired differences. What each fold says by itself is kept beside for the corrected t interval.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import Float

from dynfusion.evaluation.hiding.patterns import subsets
from dynfusion.evaluation.protocol.groups import GroupResult
from dynfusion.evaluation.protocol.outcome import TaskOutcome
from dynfusion.evaluation.representations.features import FINGERPRINT, LATE_FUSION
from dynfusion.evaluation.scores.comparison import Estimate
from dynfusion.evaluation.scores.metrics import METRICS
from dynfusion.evaluation.scores.resampling import interval, mean_of_defined

ALL_PRESENT = "all present"
ANY_ABSENT = "any absent"
NUMBER_WORDS = ("all", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TABLE_SECTIONS = ("folds", "given", "probes")
"""Those in which every subset is scored."""
ABLATIONS = "ablations"
"""Section of the tables of models that lack a part of the method."""
IN_LABEL_UNITS = ("rmse",)
"""Metrics of which a mean over tasks means nothing."""
SCAFFOLD_CV = "scaffold-cv"
SAME_REFITTED = (LATE_FUSION, FINGERPRINT)
"""Those none of whose heads reads a modality that may be absent: fitted anew, they are what they were."""
Subset = tuple[str, ...]
Record = dict[str, object]
Folds = Float[np.ndarray, "_ resamples"]
"""One row for every fold; tasks differ in how many."""
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Line:
    """What the cells of one table have in common, beside the metric."""

    section: str
    probe: str
    fitting: str


@dataclass(frozen=True)
class Curves:
    """Cells of one line and one metric, by task, representation and visible subset."""

    line: Line
    metric: str
    modalities: tuple[str, ...]
    splits: Mapping[str, str]
    """By task, in the order of the report: what it was split by."""
    repeats: Mapping[str, int]
    """By task: how often each molecule is tested."""
    models: Mapping[str, str | None]
    """By representation, in the order of the report: the fusion model it needs."""
    found: Mapping[tuple[str, str, Subset], np.ndarray]
    """By (task, representation, subset) float64 [folds, 1 + resamples]; the first column is the value."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names, in the order of the report."""
        return tuple(self.splits)

    def scopes(self) -> list[str | None]:
        """The mean over tasks (None) where there are several that can be averaged, then every task."""
        averaged = len(self.tasks) > 1 and self.metric not in IN_LABEL_UNITS
        return [*([None] if averaged else []), *self.tasks]

    def estimate(self, task: str | None, representation: str, chosen: Sequence[Subset]) -> Estimate | None:
        """Mean over some subsets, of one task or over tasks (None); None where a task or subset has no cell."""
        names = self.tasks if task is None else (task,)
        wanted = [[self.found.get((name, representation, subset)) for subset in chosen] for name in names]
        cells = [[cell for cell in of_task if cell is not None] for of_task in wanted]
        if any(len(of_task) < len(chosen) for of_task in cells):
            return None
        by_task = [np.mean(of_task, axis=0) for of_task in cells]
        return mean_estimate(by_task, [self.repeats[name] for name in names])

    def estimates(self, task: str | None, chosen: Sequence[Subset]) -> dict[str, Estimate]:
        """Of every representation that has all of the subsets."""
        found = {name: self.estimate(task, name, chosen) for name in self.models}
        return {name: estimate for name, estimate in found.items() if estimate is not None}

    def split(self) -> str:
        """What the tasks were split by."""
        return " and ".join(sorted(set(self.splits.values())))


def mean_estimate(by_task: Sequence[Folds], repeats: Sequence[int]) -> Estimate:
    """The mean over tasks of the mean over the folds in which the metric is defined.

    Where each molecule is tested once in each of `repeats`, a fold tests repeats / folds of them.
    """
    resampled = np.mean([mean_of_defined(folds) for folds in by_task], axis=0)
    if min(len(folds) for folds in by_task) < 2:
        return Estimate(resampled)
    shares = tuple(many / len(folds) for many, folds in zip(repeats, by_task, strict=True))
    return Estimate(resampled, tuple(folds[:, 0] for folds in by_task), shares)


def valued(resampled: Float[np.ndarray, " resamples"], *, confidence: float) -> Record:
    """`value`, `low` and `high` of a resampled number."""
    low, high = interval(resampled, confidence=confidence)
    return {"value": float(resampled[0]), "low": low, "high": high}


def column_subsets(modalities: tuple[str, ...]) -> dict[str, list[Subset]]:
    """The columns of a table and the subsets that each averages over.

    All present, one absent, ..., and any absent: every subset with something absent, where that is no repetition.
    """
    columns: dict[str, list[Subset]] = {}
    for chosen in subsets(modalities):
        absent = len(modalities) - len(chosen)
        word = NUMBER_WORDS[absent] if absent < len(NUMBER_WORDS) else str(absent)
        columns.setdefault(f"{word} absent" if absent else ALL_PRESENT, []).append(chosen)
    if len(modalities) > 2:
        columns[ANY_ABSENT] = subsets(modalities)[1:]
    return columns


def stack_folds(cells: Iterable[tuple[Key, str, np.ndarray]]) -> dict[Key, Folds]:
    """From (key, name of the fold, resamples) to [folds, resamples] by key; several of one fold are averaged.

    Folds are in the order of their names, the same for every key.
    """
    gathered: dict[Key, dict[str, list[np.ndarray]]] = {}
    for key, fold, resampled in cells:
        gathered.setdefault(key, {}).setdefault(fold, []).append(resampled)
    return {
        key: np.stack([np.mean(by_fold[fold], axis=0) for fold in sorted(by_fold)]) for key, by_fold in gathered.items()
    }


def build_curves(outcomes: Sequence[TaskOutcome], modalities: tuple[str, ...]) -> list[Curves]:
    """Every line of the sections whose tables have columns by what is absent, metric after metric.

    What needs no modality (ECFP) has one number, which stands in every column. Refitted heads share with transferred
    ones the cells in which the two are the same: those of complete molecules, and all of `SAME_REFITTED`.
    """
    lines = dict.fromkeys(
        Line(result.group.section, result.group.probe, result.group.fitting)
        for outcome in outcomes
        for result in outcome.results
        if result.group.section in TABLE_SECTIONS
    )
    metrics = [name for name in METRICS if any(name in result.resampled for one in outcomes for result in one.results)]
    found = [_curves(outcomes, line, metric, modalities) for line in lines for metric in metrics]
    return [curves for curves in found if curves.tasks]


def _curves(outcomes: Sequence[TaskOutcome], line: Line, metric: str, modalities: tuple[str, ...]) -> Curves:
    splits: dict[str, str] = {}
    models: dict[str, str | None] = {}
    cells = []
    for outcome in outcomes:
        own = [result for result in outcome.results if _on(line, result) and metric in result.resampled]
        names = {result.group.representation for result in own}
        whole = [result for result in outcome.results if _complements(line, result) and metric in result.resampled]
        for result in own:
            splits.setdefault(outcome.name, split_of(result, outcome))
            models.setdefault(result.group.representation, result.group.model)
            cells += _cells(result, outcome.name, metric, modalities, complete=False)
        for result in whole:
            name = result.group.representation
            if name in names:
                cells += _cells(result, outcome.name, metric, modalities, complete=True)
            elif name in SAME_REFITTED:
                models.setdefault(name, result.group.model)
                cells += _cells(result, outcome.name, metric, modalities, complete=False)
    repeats = {outcome.name: outcome.repeats for outcome in outcomes if outcome.name in splits}
    return Curves(line, metric, modalities, splits, repeats, models, stack_folds(cells))


def _on(line: Line, result: GroupResult) -> bool:
    group = result.group
    return (group.section, group.probe, group.fitting) == (line.section, line.probe, line.fitting)


def _complements(line: Line, result: GroupResult) -> bool:
    return line.fitting == "refitted" and _on(Line(line.section, line.probe, "transferred"), result)


def _cells(
    result: GroupResult, task: str, metric: str, modalities: tuple[str, ...], *, complete: bool
) -> list[tuple[tuple[str, str, Subset], str, np.ndarray]]:
    group, found = result.group, []
    for pattern, resampled in zip(group.patterns, result.resampled[metric], strict=True):
        if complete and pattern.visible != modalities:
            continue
        everywhere = group.representation == FINGERPRINT
        found += [
            ((task, group.representation, subset), group.fold, resampled)
            for subset in (subsets(modalities) if everywhere else [pattern.visible])
        ]
    return found


def split_of(result: GroupResult, outcome: TaskOutcome) -> str:
    """ "given", "hashed", "scaffold" or "scaffold-cv"."""
    fold = result.group.fold
    return fold if fold == outcome.given_split else SCAFFOLD_CV if fold.startswith(SCAFFOLD_CV) else "scaffold"
