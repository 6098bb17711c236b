"""What it costs to hand out cells: many tasks of half a second as Ray runs those of an evaluation.

    python -m tests.bench.bench_cells [--cells 1000] [--seconds 0.5] [--workers 2]

Every task reads a shared array as a group of cells does and computes for so many CPU seconds. Printed are the work
(CPU seconds of all tasks), the wall time times the workers, their difference in per cent of the work, and the memory of
the driver after a tenth of the tasks and at the end.
"""

import argparse
import time

import numpy as np
import psutil

from dynfusion.edges.ray_cluster import cluster
from dynfusion.edges.ray_tasks import map_on_ray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    shared, work, memory = np.ones((40_000, 1_500), np.float32), [], []

    def finished(number: int, result: tuple[float, np.ndarray]) -> None:
        work.append(result[0])
        memory.append(psutil.Process().memory_info().rss)

    with cluster(cpus=arguments.workers):
        jobs = [(number, shared, arguments.seconds) for number in range(arguments.cells)]
        map_on_ray(compute, jobs[: 2 * arguments.workers], finished=lambda number, result: None)
        started = time.perf_counter()
        map_on_ray(compute, jobs, finished=finished, at_most=None)
        wall = time.perf_counter() - started
    total = sum(work)
    print(f"{arguments.cells} cells, median {np.median(work):.2f} s: work {total:.1f} s")
    print(
        f"wall {wall:.1f} s on {arguments.workers} workers: {wall * arguments.workers / total - 1:+.1%} over the work"
    )
    print(f"driver {memory[len(memory) // 10] / 1e6:.0f} MB after a tenth, {memory[-1] / 1e6:.0f} MB at the end")


def compute(number: int, shared: np.ndarray, seconds: float) -> tuple[float, np.ndarray]:
    """CPU seconds spent, and resampled metrics of the size that a group returns."""
    started = time.process_time()
    while time.process_time() - started < seconds:
        shared[(number * 97) % len(shared)].sum()
    return time.process_time() - started, np.zeros((7, 2, 1001))


if __name__ == "__main__":
    main()
