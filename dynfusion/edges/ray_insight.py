"""What needs no label, on Ray: imputers fitted on the pool, reconstruction, alignment and collapse of a task."""

from collections.abc import Callable
from dataclasses import dataclass

from dynfusion.edges.ray_tasks import map_on_ray
from dynfusion.evaluation.insight.alignment import alignment_records, cross_modal_records
from dynfusion.evaluation.insight.collapse import collapse_records
from dynfusion.evaluation.insight.influence import influence_records
from dynfusion.evaluation.insight.molecules import InsightModel, Record
from dynfusion.evaluation.insight.reconstruction import Rivals, reconstruction_records
from dynfusion.evaluation.representations.imputers import Pool, Ridge, collect, fit_ridge, ridge_plan
from dynfusion.evaluation.representations.knn_imputer import Neighbours, choose_neighbours, collect_neighbours
from dynfusion.evaluation.settings import EvaluationSettings, ImputerSettings
from dynfusion.evaluation.tasks.task import TaskData

Progress = Callable[[int, int], None]
"""Called with how many are done, and of how many."""


@dataclass(frozen=True)
class Insight:
    """What reconstruction, alignment and collapse of a task came to."""

    reconstruction: tuple[Record, ...]
    alignment: tuple[Record, ...]
    collapse: tuple[Record, ...]


def insight_on_ray(
    model: InsightModel,
    task: TaskData,
    rivals: Rivals,
    *,
    settings: EvaluationSettings,
    workers: int | None = None,
) -> Insight:
    """The records of a task in original units, side by side on `workers` CPUs or all. Needs a running Ray."""
    found: dict[int, list[Record]] = {}
    parts = ("reconstruction", "alignment", "cross-modal", "collapse", "influence")
    jobs = [(part, model, task, rivals if part == "reconstruction" else None, settings) for part in parts]
    map_on_ray(_insight, jobs, finished=found.__setitem__, at_most=workers)
    reconstruction, alignment, crossed, collapse, influence = (tuple(found[number]) for number in range(len(parts)))
    return Insight(reconstruction, alignment + crossed, collapse + influence)


def _insight(
    part: str, model: InsightModel, task: TaskData, rivals: Rivals | None, settings: EvaluationSettings
) -> list[Record]:
    if rivals is not None:
        return reconstruction_records(model, task, rivals, settings=settings.insight, statistics=settings.statistics)
    functions = {
        "alignment": alignment_records,
        "cross-modal": cross_modal_records,
        "collapse": collapse_records,
        "influence": influence_records,
    }
    return functions[part](model, task, settings=settings.insight)


def fit_rivals_on_ray(
    pool: Pool, *, settings: ImputerSettings, workers: int | None = None, progress: Progress | None = None
) -> Rivals:
    """Everything that fills in absent modalities instead of the model, fitted on the pool; one task for each ridge.

    The caller has initialised Ray. Raises ValueError as `fit_ridge` and `choose_neighbours` do.
    """
    wanted = ridge_plan(pool.modalities)
    ridges: dict[int, Ridge] = {}
    neighbours: list[Neighbours] = []

    def finished(number: int, found: Ridge | list[Neighbours]) -> None:
        if isinstance(found, Ridge):
            ridges[number] = found
        else:
            neighbours.extend(found)
        if progress is not None:
            progress(len(ridges), len(wanted))

    pairs: list[tuple[tuple[str, ...], str] | None] = [*wanted, None]
    map_on_ray(_fit, [(pool, pair, settings) for pair in pairs], finished=finished, at_most=workers)
    ridge = collect(pool, [ridges[number] for number in range(len(wanted))], settings=settings)
    return Rivals(ridge, collect_neighbours(pool, neighbours, settings=settings))


def _fit(pool: Pool, pair: tuple[tuple[str, ...], str] | None, settings: ImputerSettings) -> Ridge | list[Neighbours]:
    return choose_neighbours(pool, settings=settings) if pair is None else fit_ridge(pool, *pair, settings=settings)
