"""Evaluation on Ray: independent jobs as tasks, large inputs put once, every result written the moment it is done.

    driver: put(task, resamples, embeddings) once --> ray tasks choose, then run_group --> driver writes cells/

A killed evaluation continues: what lies in a file with the same key is read, not run. Numbers do not depend on the
number of workers, because every task computes on one BLAS thread and the driver orders results by the plan.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from threadpoolctl import threadpool_limits

from dynfusion.edges.ray_tasks import map_on_ray
from dynfusion.evaluation.protocol.cells import read_choice, read_result, write_choice, write_result
from dynfusion.evaluation.protocol.groups import PROBE_SEED, GroupResult
from dynfusion.evaluation.protocol.jobs import Choice, ChoiceJob, GroupJob, Keys, TaskInputs, choice_jobs, group_jobs
from dynfusion.evaluation.protocol.plan import Part
from dynfusion.evaluation.protocol.reader import choose
from dynfusion.evaluation.protocol.run import run_group
from dynfusion.evaluation.representations.features import Representation
from dynfusion.evaluation.settings import EvaluationSettings
from dynfusion.evaluation.tasks.splits import Fold
from dynfusion.evaluation.tasks.task import TaskData

Progress = Callable[[int, int], None]
"""Called with how many are done, and of how many."""


def evaluate_on_ray(
    plan: Sequence[Part],
    inputs: TaskInputs,
    out: Path,
    *,
    settings: EvaluationSettings,
    workers: int | None = None,
    progress: Progress | None = None,
) -> list[GroupResult]:
    """Results of every group of one task's plan in its order; what was finished before is read from `out/cells`.

    `workers` of its CPUs are used, or all. The caller has initialised Ray.
    """
    keys = Keys(inputs, settings)
    chosen = _choices(choice_jobs(inputs, plan, keys), inputs, out / "cells", settings, workers)
    jobs = group_jobs(inputs, plan, chosen, keys)
    return _results(jobs, inputs, out / "cells", settings, workers, progress)


def _choices(
    jobs: Sequence[ChoiceJob], inputs: TaskInputs, folder: Path, settings: EvaluationSettings, workers: int | None
) -> dict[str, dict[str, float]]:
    """Hyper-parameters by the key of their choice."""
    found = {job.choice.key: read_choice(folder, job.choice) for job in jobs}
    missing = [job for job in jobs if found[job.choice.key] is None]

    def finished(number: int, chosen: dict[str, float]) -> None:
        choice = missing[number].choice
        write_choice(folder, choice, chosen)
        found[choice.key] = chosen

    arguments = [(job.choice, inputs.task, job.fold, job.member, settings) for job in missing]
    map_on_ray(_choose, arguments, finished=finished, at_most=workers)
    return {key: chosen for key, chosen in found.items() if chosen is not None}


def _results(
    jobs: Sequence[GroupJob],
    inputs: TaskInputs,
    folder: Path,
    settings: EvaluationSettings,
    workers: int | None,
    progress: Progress | None,
) -> list[GroupResult]:
    found = [read_result(folder, job.group) for job in jobs]
    missing = [number for number, result in enumerate(found) if result is None]
    done = len(jobs) - len(missing)

    def finished(number: int, result: GroupResult) -> None:
        nonlocal done
        write_result(folder, result)
        found[missing[number]] = result
        done += 1
        if progress is not None:
            progress(done, len(jobs))

    arguments = []
    for number in missing:
        job = jobs[number]
        arguments.append((job.group, inputs.task, job.fold, job.contestant, job.chosen, inputs.counts, settings))
    map_on_ray(run_group, arguments, finished=finished, at_most=workers)
    return [result for result in found if result is not None]


def _choose(
    choice: Choice, task: TaskData, fold: Fold, member: Representation, settings: EvaluationSettings
) -> dict[str, float]:
    with threadpool_limits(limits=1):
        return choose(member, fold.of(task), probe=choice.probe, seed=PROBE_SEED, settings=settings.probe)
