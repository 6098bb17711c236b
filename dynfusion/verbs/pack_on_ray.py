"""`dynfusion pack --workers N`, or with RAY_ADDRESS set: the same pack with its jobs as Ray tasks."""

from typing import Any

from dynfusion.edges.ray_cluster import cluster
from dynfusion.edges.ray_pack import run_on_ray
from dynfusion.store.manifest import Manifest
from dynfusion.verbs.pack import pack


def pack_on_ray(*, workers: int | None, debug: bool, **options: Any) -> Manifest:
    """`pack` with these options on the cluster that RAY_ADDRESS names, else on `workers` local processes.

    Raises ValueError as `pack` does, and for less than one worker.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"workers: found {workers}, at least 1 is needed")
    with cluster(cpus=workers or 1, debug=debug):
        return pack(**options, run_jobs=run_on_ray)
