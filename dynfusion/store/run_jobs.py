"""Independent jobs on threads: the work is in C code that lets other threads run. `edges/ray_pack.py` runs the same."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class RunJobs(Protocol):
    """Calls `function(job)` for every job, several at a time; `finished(number of the job, result)` runs in the
    caller's thread as each completes. An error ends it all."""

    def __call__(
        self, function: Callable[[Any], Any], jobs: Sequence[Any], *, finished: Callable[[int, Any], None]
    ) -> None: ...


def run_on_threads(
    function: Callable[[Any], Any], jobs: Sequence[Any], *, finished: Callable[[int, Any], None], threads: int
) -> None:
    """`RunJobs` on threads of this process; one thread runs them one after another, in this one."""
    if threads == 1 or len(jobs) < 2:
        for number, job in enumerate(jobs):
            finished(number, function(job))
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="pack") as pool:
        running: dict[Future[Any], int] = {pool.submit(function, job): number for number, job in enumerate(jobs)}
        try:
            while running:
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    finished(running.pop(future), future.result())
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def available_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
