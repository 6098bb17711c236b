"""Several ranks of one job on this machine: processes that share a gloo group, results brought back as files."""

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed


def run_ranks(world_size: int, folder: Path, work: Callable[..., Any], *given: Any) -> list[Any]:
    """`work(*given)` on every rank at once; the returned values, rank by rank. A rank's failure fails the test."""
    folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    port = _free_port()
    workers = [
        context.Process(target=_rank, args=(rank, world_size, port, folder, work, given)) for rank in range(world_size)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    failures = [path.read_text() for path in sorted(folder.glob("failure-*.txt"))]
    assert not failures, failures[0]
    return [torch.load(folder / f"result-{rank}.pt", weights_only=False) for rank in range(world_size)]


def _rank(rank: int, world_size: int, port: int, folder: Path, work: Callable[..., Any], given: tuple) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    try:
        torch.save(work(*given), folder / f"result-{rank}.pt")
    except BaseException:
        (folder / f"failure-{rank}.txt").write_text(traceback.format_exc())
        raise
    finally:
        distributed.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
