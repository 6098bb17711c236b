"""`dynfusion pack --workers N`, or with RAY_ADDRESS set: the same pack with its jobs as Ray tasks."""

from typing import Any

from dynfusion.edges.absolute_paths import absolute
from dynfusion.edges.ray_cluster import cluster, has_working_folder
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
        if not has_working_folder():  # as a job's tasks have; those of another driver are wherever Ray began
            options = {name: _absolute(name, value) for name, value in options.items()}
        return pack(**options, run_jobs=run_on_ray)


def _absolute(name: str, value: Any) -> Any:
    """An option of `pack`, its paths such that they name the same in every folder."""
    if name == "modalities":
        parts = [text.partition("=") for text in value]
        return [f"{modality}{equals}{absolute(path) if path else ''}" for modality, equals, path in parts]
    return value if value is None or name not in ("table", "out", "extend") else absolute(str(value))
