"""`dynfusion plan train`: what a training run will take, said before anything starts."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dynfusion.edges.datasets import open_sources
from dynfusion.run_settings import RunSettings, read_run
from dynfusion.training.planning.calibration import (
    Calibration,
    available_cores,
    calibrate,
    read_calibration,
    write_calibration,
)
from dynfusion.training.planning.forecast import Forecast, forecast
from dynfusion.training.planning.hardware import GPUS, GPUS_PER_NODE, cpu_machine, gpu_machine
from dynfusion.training.planning.job import Job, Place, job_of
from dynfusion.training.planning.work import products
from dynfusion.training.sources import Sources
from dynfusion.verbs.display import console, duration


def plan_train(
    run: str | Path,
    overrides: Iterable[str] = (),
    *,
    gpus: int | None = None,
    gpu: str | None = None,
    cpus: int | None = None,
    nodes: int | None = None,
    calibration: Path | None = None,
    as_json: bool = False,
) -> Forecast:
    """Prints what `train` with the same run file takes on so many GPUs or CPUs; nothing is trained, no Ray started.

    Without either, the workers are the run's own, the most of them, on CPUs. A `calibration` file that is there is
    used, else it is made. Raises ValueError as `train` does for settings and data that do not fit, and for an unknown
    GPU.
    """
    settings = read_run(run, overrides)
    _check_choice(settings, gpus=gpus, gpu=gpu, cpus=cpus, calibration=calibration)
    sources = open_sources(settings.data)
    threads = max(1, int(settings.cluster.cpus_per_worker))
    if gpu is not None:
        found = _on_gpus(settings, sources, gpu, gpus or settings.cluster.workers[1], nodes)
    else:
        found = _on_cpus(settings, sources, cpus, nodes, threads, calibration)
    if as_json:
        print(json.dumps(as_tree(found), indent=2))
    else:
        for line in lines(found, settings.cluster.name):
            console.print(line)
    return found


def _check_choice(
    settings: RunSettings, *, gpus: int | None, gpu: str | None, cpus: int | None, calibration: Path | None
) -> None:
    kinds = ", ".join(GPUS)
    if gpu is None and gpus is not None:
        raise ValueError(f"--gpus: found {gpus} without their kind, name it with --gpu, allowed is {kinds}")
    if gpu is None and cpus is None and settings.cluster.gpus:
        raise ValueError(
            f"setting cluster.gpus: found true, say which with --gpu, allowed is {kinds}, or plan for CPUs with --cpus"
        )
    if gpu is not None and (cpus is not None or calibration is not None):
        other = "--cpus" if cpus is not None else "--calibration"
        raise ValueError(f"{other}: found beside --gpu {gpu}, allowed is one or the other")


def _on_gpus(settings: RunSettings, sources: Sources, gpu: str, workers: int, nodes: int | None) -> Forecast:
    machine = gpu_machine(gpu, threads=settings.data.feed.threads)
    place = Place(workers, _nodes(nodes, -(-workers // GPUS_PER_NODE), workers), on_gpu=True)
    return forecast(job_of(settings, sources, place), settings, machine)


def _on_cpus(
    settings: RunSettings,
    sources: Sources,
    cpus: int | None,
    nodes: int | None,
    threads: int,
    calibration: Path | None,
) -> Forecast:
    """Workers on machines like this one, or like the calibrated one."""
    workers = settings.cluster.workers[1] if cpus is None else int(cpus / settings.cluster.cpus_per_worker)
    if workers < 1:
        raise ValueError(
            f"--cpus: found {cpus}, a worker takes {settings.cluster.cpus_per_worker:g} (cluster.cpus_per_worker)"
        )
    kept = read_calibration(calibration) if calibration is not None and calibration.is_file() else None
    cores = kept.cores if kept else available_cores()
    place = Place(workers, _nodes(nodes, 1 if cpus is None else -(-cpus // cores), workers), on_gpu=False)
    job = job_of(settings, sources, place)
    if kept is None:
        kept = _calibrated(job, settings, threads)
        if calibration is not None:
            write_calibration(kept, calibration)
    machine = cpu_machine(kept, workers=place.workers_per_node, threads=threads)
    return forecast(job, settings, machine)


def _calibrated(job: Job, settings: RunSettings, threads: int) -> Calibration:
    return calibrate(
        products(job.shape), settings.engine.precision, workers=job.place.workers_per_node, threads=threads
    )


def _nodes(asked: int | None, usual: int, workers: int) -> int:
    if asked is not None and not 1 <= asked <= workers:
        raise ValueError(f"--nodes: found {asked}, allowed is 1 to {workers}, the number of workers")
    return asked or min(usual, workers)


def as_tree(found: Forecast) -> dict[str, Any]:
    """The forecast as `--json` prints it."""
    return {**asdict(found), "memory_total_bytes": found.memory_total_bytes, "fits": found.fits}


def lines(found: Forecast, name: str) -> list[str]:
    """The forecast as a person reads it."""
    unit = "CPU worker" if found.machine == "cpu" else "GPU"
    kind = "CPU workers" if found.machine == "cpu" else found.machine
    nodes = f"{found.nodes} node{'s' if found.nodes > 1 else ''}"
    ceilings = ", ".join(f"{part} {rate:,.0f}" for part, rate in sorted(found.ceilings.items(), key=lambda one: one[1]))
    parts = ", ".join(f"{part} {_bytes(size)}" for part, size in found.memory_bytes.items())
    room = "" if found.fits else "; this does not fit"
    return [
        f"{name} on {found.workers} {kind} ({nodes}): {found.rows_per_second:,.0f} rows/s expected, "
        f"about {duration(found.hours * 3600)}",
        f"steps    {found.steps:,} of {found.global_batch_rows:,} rows, {found.steps_per_epoch:,} an epoch, which "
        f"leaves out {found.skipped_rows:,} rows; {found.worker_rows:,} rows a worker; {_milliseconds(found)} each",
        f"binds    {found.binds}; ceilings in rows/s: {ceilings}",
        f"a row    {found.flops_per_row / 1e6:.3g} MFLOP forward and backward, {found.bytes_per_row:,.0f} bytes in the "
        f"shards; {found.parameters:,} parameters",
        f"memory   {_bytes(found.memory_total_bytes)} a {unit} of {_bytes(found.memory_limit_bytes)}: {parts}{room}",
        f"store    {_store(found)}",
        *(f"basis    {sentence}" for sentence in found.basis),
    ]


def _milliseconds(found: Forecast) -> str:
    return f"{found.step_seconds * 1e3:,.3g} ms"


def _store(found: Forecast) -> str:
    read = found.reading
    if not read.far:
        return "nothing is read from S3, the data are local"
    total = f"{_bytes(found.read_bytes)} from S3 in all, {_bytes(read.first_epoch_bytes)} of it in the first epoch"
    needed = f"a cache of {_bytes(read.cache_needed_bytes)} a node (data.cache_bytes) holds everything"
    if not read.streaming_bytes:
        return f"{total}; {needed}, {_bytes(read.cache_bytes)} are allowed"
    streamed = f"blocks are streamed through {_bytes(read.streaming_bytes)} a worker"
    have = f"{_bytes(read.cache_bytes)} are allowed" if read.cache_bytes else "there is no data.cache_dir"
    return f"{total}; {needed}, {have}: {streamed}"


def _bytes(size: int | float) -> str:
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}"
    return f"{size / 1e3:.3g} kB"
