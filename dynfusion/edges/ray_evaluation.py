"""Evaluation on Ray: independent jobs as tasks, large inputs put once, every result written the moment it is done.

    driver: put(task, imputers, embeddings) once --> ray tasks run_group(group, ...) --> driver writes cells/<group>

A killed evaluation continues: groups whose file carries the same key are read, not run. Numbers do not depend on the
number of workers, because every task computes on one BLAS thread and the driver orders results by the plan.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import ray

from dynfusion.evaluation.cells import read_result, write_result
from dynfusion.evaluation.imputers import Imputers, ImputerSettings, Pool, Ridge, collect, fit_ridge, ridge_plan
from dynfusion.evaluation.protocol import (
    CellGroup,
    EvaluationInputs,
    EvaluationSettings,
    GroupInputs,
    GroupResult,
    run_group,
)
from dynfusion.evaluation.representations import Encoded
from dynfusion.evaluation.tasks import TaskData

Progress = Callable[[int, int], None]
"""Called with how many are done, and of how many."""
Result = TypeVar("Result")
IN_FLIGHT_PER_CPU = 3


def map_on_ray(
    function: Callable[..., Result], jobs: Sequence[tuple[Any, ...]], *, finished: Callable[[int, Result], None]
) -> None:
    """Calls `function(*job)` as one-CPU tasks; `finished(number of the job, result)` runs here as each completes.

    An argument that several jobs share (the same object) is put into the object store once. A ValueError of the
    function is raised as it is; whatever is still running is cancelled then.
    """
    remote = ray.remote(num_cpus=1)(function)
    uses = Counter(id(argument) for job in jobs for argument in job)
    shared = {id(part): ray.put(part) for part in _distinct(jobs) if uses[id(part)] > 1}
    running: dict[ray.ObjectRef, int] = {}
    limit = max(1, int(ray.cluster_resources().get("CPU", 1))) * IN_FLIGHT_PER_CPU
    waiting = iter(enumerate(jobs))
    try:
        while True:
            for number, job in waiting:
                running[remote.remote(*(shared.get(id(part), part) for part in job))] = number
                if len(running) >= limit:
                    break
            if not running:
                return
            (done,), _ = ray.wait(list(running), num_returns=1)
            finished(running.pop(done), _result(done))
    finally:
        for reference in running:
            ray.cancel(reference)


def _distinct(jobs: Sequence[tuple[Any, ...]]) -> list[Any]:
    return list({id(part): part for job in jobs for part in job}.values())


def _result(reference: ray.ObjectRef) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ValueError):
            raise error.cause from None
        raise


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
