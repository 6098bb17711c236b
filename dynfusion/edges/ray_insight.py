"""What needs no label, on Ray: imputers fitted on the pool, reconstruction, alignment and collapse of a task."""

from collections.abc import Callable
from dataclasses import dataclass

from dynfusion.edges.ray_tasks import map_on_ray
from dynfusion.evaluation.insight.alignment import alignment_records, cross_modal_records
from dynfusion.evaluation.insight.collapse import collapse_records
from dynfusion.evaluation.insight.influence import influence_records
from dynfusion.evaluation.insight.molecules import InsightModel, Record
from dynfusion.evaluation.insight.reconstruction import Rivals, reconstruction_records
from dynfusion.evaluation.protocol.settings import EvaluationSettings
from dynfusion.evaluation.representations.imputers import (
    Imputers,
    ImputerSettings,
    Pool,
    Ridge,
    collect,
    fit_ridge,
    ridge_plan,
)
from dynfusion.evaluation.tasks.task import TaskData

Progress = Callable[[int, int], None]
"""Called with how many are done, and of how many."""


def fit_imputers_on_ray(pool: Pool, *, settings: ImputerSettings, progress: Progress | None = None) -> Imputers:
    """A ridge for every visible subset and absent modality, each fitted as one task. The caller has initialised Ray.

    Raises ValueError as `fit_ridge` does.
    """
    wanted = ridge_plan(pool.modalities)
    ridges: dict[int, Ridge] = {}

    def finished(number: int, ridge: Ridge) -> None:
        ridges[number] = ridge
        if progress is not None:
            progress(len(ridges), len(wanted))

    map_on_ray(_fit, [(pool, visible, target, settings) for visible, target in wanted], finished=finished)
    return collect(pool, [ridges[number] for number in range(len(wanted))], settings=settings)


def _fit(pool: Pool, visible: tuple[str, ...], target: str, settings: ImputerSettings) -> Ridge:
    return fit_ridge(pool, visible, target, settings=settings)
