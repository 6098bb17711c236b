"""Independent jobs as Ray tasks: a few more in flight than there are CPUs, results handed back as they come."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import ray

Result = TypeVar("Result")
IN_FLIGHT_PER_CPU = 3


def map_on_ray(
    function: Callable[..., Result],
    jobs: Sequence[tuple[Any, ...]],
    *,
    finished: Callable[[int, Result], None],
    at_most: int | None = None,
) -> None:
    """Calls `function(*job)` as one-CPU tasks; `finished(number of the job, result)` runs here as each completes.

    As many run at once as the cluster has CPUs, those that join meanwhile too, or `at_most`.

    An argument that several jobs share (the same object) is put into the object store once. A ValueError of the
    function is raised as it is; whatever is still running is cancelled then.
    """
    remote = ray.remote(num_cpus=1)(function)
    uses = Counter(id(argument) for job in jobs for argument in job)
    shared = {id(part): ray.put(part) for part in _distinct(jobs) if uses[id(part)] > 1}
    running: dict[ray.ObjectRef, int] = {}
    waiting = iter(enumerate(jobs))
    try:
        while True:
            limit = at_most or max(1, int(ray.cluster_resources().get("CPU", 1))) * IN_FLIGHT_PER_CPU
            for number, job in waiting:
                running[remote.remote(*(shared.get(id(part), part) for part in job))] = number
                if len(running) >= limit:
                    break
            if not running:
                return
            (done,), _ = ray.wait(list(running), num_returns=1)
            finished(running.pop(done), result(done))
    finally:
        for reference in running:
            ray.cancel(reference)


def _distinct(jobs: Sequence[tuple[Any, ...]]) -> list[Any]:
    return list({id(part): part for job in jobs for part in job}.values())


def result(reference: ray.ObjectRef, *, timeout: float | None = None) -> Any:
    """What a task returned. Raises ValueError as the task did, and any other RayError as it is."""
    try:
        return ray.get(reference, timeout=timeout)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ValueError):
            raise error.cause from None
        raise
