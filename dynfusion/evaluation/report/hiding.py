"""Random, imbalanced, size-dependent hiding and corruption; and gaps while training: points with their intervals.

section hiding     heads on all that is present, `draws` random masks of every pattern
section training   heads on training rows with random gaps, one mask of every rate, the first of section hiding, so
                   that its cells and those of a head without gaps (training rate 0) are paired
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float

from dynfusion.evaluation.hiding.patterns import Pattern
from dynfusion.evaluation.protocol.groups import GroupResult
from dynfusion.evaluation.protocol.outcome import TaskOutcome
from dynfusion.evaluation.report.curves import IN_LABEL_UNITS, Folds, Record, mean_estimate, stack_folds, valued
from dynfusion.evaluation.scores.comparison import Estimate, compare
from dynfusion.evaluation.scores.metrics import PRIMARY
from dynfusion.evaluation.settings import StatisticsSettings

UP_TO = "random-up-to"
"""The mean over the random rates up to this one, without 0: the reading of "up to 25 % missing"."""
UP_TO_RATE = 0.25


@dataclass(frozen=True)
class Hidden:
    """One way of hiding in the test rows."""

    protocol: str
    rate: float | None
    target: str | None


@dataclass(frozen=True)
class Trained:
    """One way of hiding in training and test rows."""

    complete_rows: bool
    train_rate: float
    test_rate: float


@dataclass(frozen=True)
class Point:
    """What the cells of one number have in common, beside task and fold."""

    metric: str
    how: Hidden | Trained
    representation: str


TaskPoint = tuple[str, Point]
"""Name of a task, point."""


@dataclass(frozen=True)
class Points:
    """Cells by (task, point), the shares really hidden, and which representation is a fusion model's."""

    repeats: Mapping[str, int]
    cells: Mapping[TaskPoint, Folds]
    realised: Mapping[TaskPoint, Float[np.ndarray, "_ 1"]]
    """Share of the test molecules' present cells that were hidden, by fold."""
    draws: Mapping[TaskPoint, int]
    """Cells of every fold."""
    models: Mapping[str, str | None]

    def points(self) -> list[Point]:
        """Every point once, in the order of the report."""
        return list(dict.fromkeys(point for _, point in self.cells))

    def tasks(self, metric: str) -> list[str]:
        """Names of those that have the metric."""
        return list(dict.fromkeys(task for task, point in self.cells if point.metric == metric))

    def scopes(self, metric: str) -> list[str | None]:
        """The mean over tasks (None) where there are several that can be averaged, then every task."""
        names = self.tasks(metric)
        return [*([None] if len(names) > 1 and metric not in IN_LABEL_UNITS else []), *names]

    def keys(self, task: str | None, point: Point) -> list[TaskPoint]:
        """The cells of a task, or of all tasks (None); empty where one is missing."""
        keys = [(name, point) for name in (self.tasks(point.metric) if task is None else [task])]
        return keys if all(key in self.cells for key in keys) else []

    def estimate(self, task: str | None, point: Point) -> Estimate | None:
        """None where a task has no such cell."""
        keys = self.keys(task, point)
        return (
            mean_estimate([self.cells[key] for key in keys], [self.repeats[key[0]] for key in keys]) if keys else None
        )


Cell = tuple[Point, GroupResult, int]
"""A point and which pattern of which group is a cell of it."""


def hiding_points(outcomes: Sequence[TaskOutcome]) -> Points:
    """Of section hiding: every protocol, and the mean over the random rates up to 0.25."""
    return _gather([(one, cell) for one in outcomes for result in one.results for cell in _hidden(result)])


def _hidden(result: GroupResult) -> Iterator[Cell]:
    group = result.group
    if group.section != "hiding":
        return
    for metric in result.resampled:
        for number, pattern in enumerate(group.patterns):
            how = Hidden(pattern.protocol, pattern.rate, pattern.target)
            yield Point(metric, how, group.representation), result, number
        for number, pattern in enumerate(group.patterns):
            if pattern.protocol == "random" and pattern.rate is not None and 0 < pattern.rate <= UP_TO_RATE:
                yield Point(metric, Hidden(UP_TO, UP_TO_RATE, None), group.representation), result, number


def training_points(outcomes: Sequence[TaskOutcome]) -> Points:
    """Of section training, with the heads of section hiding, which were fitted without gaps, as training rate 0."""
    cells = []
    for outcome in outcomes:
        trained = [result for result in outcome.results if result.group.section == "training"]
        names = {result.group.representation for result in trained}
        without = [result for result in outcome.results if result.group.section == "hiding"]
        for result in [*(one for one in without if one.group.representation in names), *trained]:
            cells += [(outcome, cell) for cell in _trained(result)]
    return _gather(cells)


def _trained(result: GroupResult) -> Iterator[Cell]:
    group = result.group
    rate = group.fit.rate if group.fit.protocol == "random" else 0.0
    for metric in result.resampled:
        for number, pattern in enumerate(group.patterns):
            if _first_draw(pattern):
                how = Trained(group.complete_rows, float(rate or 0), float(pattern.rate or 0))
                yield Point(metric, how, group.representation), result, number


def _first_draw(pattern: Pattern) -> bool:
    return pattern.protocol == "random" and not pattern.draw


def _gather(cells: Sequence[tuple[TaskOutcome, Cell]]) -> Points:
    draws: dict[TaskPoint, dict[str, int]] = {}
    for outcome, (point, result, _) in cells:
        by_fold = draws.setdefault((outcome.name, point), {})
        by_fold[result.group.fold] = by_fold.get(result.group.fold, 0) + 1
    return Points(
        repeats={outcome.name: outcome.repeats for outcome, _ in cells},
        cells=stack_folds(
            ((outcome.name, point), result.group.fold, result.resampled[point.metric][number])
            for outcome, (point, result, number) in cells
        ),
        realised=stack_folds(
            ((outcome.name, point), result.group.fold, np.array([result.hidden_share[number]]))
            for outcome, (point, result, number) in cells
        ),
        draws={key: max(by_fold.values()) for key, by_fold in draws.items()},
        models={result.group.representation: result.group.model for _, (_, result, _) in cells},
    )


def hiding_records(found: Points, *, settings: StatisticsSettings) -> list[Record]:
    """One record for every protocol, rate, target, representation and metric, over tasks and by task.

    The mean over `draws` random masks; `realised` is the share of present cells that these hid, which is below the
    rate since something always stays.
    """
    records = []
    for point in found.points():
        for task in found.scopes(point.metric):
            estimate, keys = found.estimate(task, point), found.keys(task, point)
            if estimate is not None:
                records.append(
                    {
                        "task": task,
                        "representation": point.representation,
                        **asdict(point.how),
                        "realised": float(np.mean([found.realised[key].mean() for key in keys])),
                        "metric": point.metric,
                        **valued(estimate.resampled, confidence=settings.confidence),
                        "draws": max(found.draws[key] for key in keys),
                    }
                )
    return records


def training_records(found: Points, *, settings: StatisticsSettings) -> list[Record]:
    """One record for every training rate, test rate, representation and metric, over tasks and by task.

    `complete_rows`: the head was fitted only on training rows that show every modality.
    """
    records = []
    for point in found.points():
        for task in found.scopes(point.metric):
            estimate = found.estimate(task, point)
            if estimate is not None:
                records.append(
                    {
                        "task": task,
                        "representation": point.representation,
                        **asdict(point.how),
                        "metric": point.metric,
                        **valued(estimate.resampled, confidence=settings.confidence),
                    }
                )
    return records


def hiding_comparisons(found: Points, *, settings: StatisticsSettings) -> list[Record]:
    """Every fusion model less every other representation under the same masks; primary metrics.

    `tie` says that the interval includes zero.
    """
    return [record for point in _of_models(found) for record in _differences(found, point, point.how, settings)]


def training_comparisons(found: Points, *, settings: StatisticsSettings) -> list[Record]:
    """Every fusion model less every other representation at the same rates; primary metrics.

    `complete_rows` is of the other one: whether its head was fitted only on training rows that show every modality.
    """
    records = []
    for point in _of_models(found):
        assert isinstance(point.how, Trained)
        for complete_rows in (False, True):
            other = Trained(complete_rows, point.how.train_rate, point.how.test_rate)
            records += _differences(found, point, other, settings)
    return records


def _of_models(found: Points) -> list[Point]:
    primary = [point for point in found.points() if point.metric in PRIMARY.values()]
    return [point for point in primary if found.models[point.representation] is not None]


def _differences(found: Points, ours: Point, how: Hidden | Trained, settings: StatisticsSettings) -> list[Record]:
    """A point of ours less every other representation's point under `how`, over tasks and by task."""
    records = []
    for task in found.scopes(ours.metric):
        for name in found.models:
            first, second = found.estimate(task, ours), found.estimate(task, Point(ours.metric, how, name))
            if name != ours.representation and first is not None and second is not None:
                verdict = compare(first, second, confidence=settings.confidence)
                place = {"task": task, **asdict(how), "metric": ours.metric}
                records.append({**place, "representation": ours.representation, "against": name, **asdict(verdict)})
    return records
