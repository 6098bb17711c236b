"""`dynfusion tune SPACE --run RUN`: a search for better settings, from its samples to its report and run file."""

import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dynfusion.edges.ray_cluster import cluster
from dynfusion.edges.ray_sweep import SweepWatch, check_sweep, objective, sweep_on_ray
from dynfusion.tuning.search import read_search, tune_options
from dynfusion.verbs.display import console, progress
from dynfusion.verbs.tune_show import tune_show


def tune(
    space: str | Path,
    run: str | Path,
    overrides: Iterable[str] = (),
    *,
    options: Mapping[str, Any] | None = None,
    debug: bool = False,
) -> Path:
    """Search, or continue a search, and write its report; returns the report's page.

    `options` are settings of the sweep as the command line names them. Raises ValueError for what can be seen to be
    wrong before a trial begins, and for the folder of another sweep.
    """
    search = read_search(space, run, overrides, tune_options(options or {}))
    sources = check_sweep(search)
    console.print(f"objective: {objective(search, sources)}")
    started = time.monotonic()
    workers = search.run.cluster
    cpus = math.ceil(workers.workers[0] * workers.cpus_per_worker * (search.settings.at_once or 1))
    title = f"tune {search.settings.name}"
    with cluster(cpus=cpus, dashboard=True, debug=debug), progress(title, lines=False) as advance:
        folder = sweep_on_ray(search, sources, SweepWatch(console.print, advance, debug))
    page = tune_show(folder)
    console.print(f"sweep: {folder}  ({time.monotonic() - started:.0f} s)")
    return page
