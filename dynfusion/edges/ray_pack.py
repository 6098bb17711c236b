"""Pack over a cluster: the passes of `store/pack_passes.py`, each of their jobs a Ray task.

    dynfusion.pack(inputs, out=shared_folder, run_jobs=run_on_ray)

Every machine sees the folder of the result (and the sources). The driver holds no rows: jobs leave finished files, so a
killed pack continues, and what comes out depends on the rows alone.
"""

from collections.abc import Callable, Sequence
from typing import Any

from dynfusion.edges.ray_tasks import map_on_ray


def run_on_ray(function: Callable[[Any], Any], jobs: Sequence[Any], *, finished: Callable[[int, Any], None]) -> None:
    """`RunJobs` on the Ray that is initialised: `function(job)` as one-CPU tasks. A ValueError is raised as it is."""
    map_on_ray(function, [(job,) for job in jobs], finished=finished)
