"""Evaluation on Ray: independent jobs as tasks, large inputs put once, every result written the moment it is done.

    driver: put(task, imputers, embeddings) once --> ray tasks run_group(group, ...) --> driver writes cells/<group>

A killed evaluation continues: groups whose file carries the same key are read, not run. Numbers do not depend on the
number of workers, because every task computes on one BLAS thread and the driver orders results by the plan.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from dynfusion.edges.ray_tasks import map_on_ray
from dynfusion.evaluation.protocol.cells import read_result, write_result
from dynfusion.evaluation.protocol.plan import (
    CellGroup,
    EvaluationInputs,
    EvaluationSettings,
    GroupInputs,
    GroupResult,
    run_group,
)
from dynfusion.evaluation.representations.features import Encoded
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


def _run(
    group: CellGroup, task: TaskData, imputers: Imputers | None, encoded: Encoded | None, settings: EvaluationSettings
) -> GroupResult:
    return run_group(group, GroupInputs(task, imputers, encoded), settings)


def evaluate_on_ray(
    groups: Sequence[CellGroup], inputs: EvaluationInputs, out: Path, *, progress: Progress | None = None
) -> list[GroupResult]:
    """Results of all groups in their order; those finished before are read from `out/cells`, the others run.

    The caller has initialised Ray. Raises ValueError as `run_group` does.
    """
    folder = out / "cells"
    found = [read_result(folder, group) for group in groups]
    missing = [number for number, result in enumerate(found) if result is None]
    done = len(groups) - len(missing)

    def finished(job: int, result: GroupResult) -> None:
        nonlocal done
        write_result(folder, result)
        found[missing[job]] = result
        done += 1
        if progress is not None:
            progress(done, len(groups))

    jobs = []
    for number in missing:
        parts = inputs.of(groups[number])
        jobs.append((groups[number], parts.task, parts.imputers, parts.encoded, inputs.settings))
    map_on_ray(_run, jobs, finished=finished)
    return [result for result in found if result is not None]


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
