"""A tiny sum over GPUs: whether NCCL finds them, and they each other. Each rank is a process of its own.

torch is imported where it is used: who merely asks for the cluster's GPUs does not wait for it.
"""

import datetime
import json
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dynfusion.edges.probe_process import serve

LIMIT_SECONDS = 60.0


def reduce_ones(rank: int, world: int, rendezvous: str, backend: str = "nccl") -> int:
    """The sum of a one from each of `world` ranks, on this process's GPU, or on its CPU with `gloo`.

    Raises RuntimeError when they do not find each other in time, or the GPU is not fit for torch.
    """
    import torch.distributed

    device = "cpu" if backend == "gloo" else _device(rank)
    timeout = datetime.timedelta(seconds=LIMIT_SECONDS)
    torch.distributed.init_process_group(backend, init_method=rendezvous, rank=rank, world_size=world, timeout=timeout)
    try:
        ones = torch.ones(1, device=device)
        torch.distributed.all_reduce(ones)
        return int(ones.item())
    finally:
        torch.distributed.destroy_process_group()


def _device(rank: int) -> str:
    """The GPU of a rank; under Ray each process sees its own alone. Raises RuntimeError."""
    import torch

    if not torch.cuda.is_available():
        raise RuntimeError(f"torch {torch.__version__} finds no GPU that it can use")
    device = f"cuda:{rank % torch.cuda.device_count()}"
    torch.cuda.set_device(device)
    return device


def nccl_version() -> str | None:
    """The version of NCCL in this torch, None where there is none."""
    import torch.distributed

    if not torch.distributed.is_nccl_available():
        return None
    found = torch.cuda.nccl.version()
    return ".".join(map(str, found)) if isinstance(found, tuple) else str(found)


def rendezvous_here(host: str) -> str:
    """Where rank 0 on this machine lets the others find it."""
    with socket.socket() as free:
        free.bind(("", 0))
        return f"tcp://{host}:{free.getsockname()[1]}"


def probe(count: int, backend: str = "nccl") -> Iterator[dict[str, Any]]:
    """The facts of `preflight.observations.Gpus` for this machine's `count` GPUs."""
    version = nccl_version() if backend == "nccl" else backend
    yield {"count": count, "nccl": version, "doing": f"while {count} GPUs were summed over"}
    if version is None:
        yield {"problem": "this build of torch has no NCCL"}
        return
    with tempfile.TemporaryDirectory(prefix="dynfusion-doctor-") as folder:
        rendezvous = f"file://{Path(folder) / 'rendezvous'}"
        ranks = [_rank(rank, count, rendezvous, backend) for rank in range(count)]
        said = [rank.communicate(timeout=LIMIT_SECONDS + 30) for rank in ranks]
    wrong = [f"rank {number}: {_last_line(err)}" for number, (out, err) in enumerate(said) if out.strip() != str(count)]
    yield {"problem": wrong[0]} if wrong else {"summed": count}


def _rank(rank: int, world: int, rendezvous: str, backend: str) -> subprocess.Popen[str]:
    arguments = json.dumps({"rank": rank, "world": world, "rendezvous": rendezvous, "backend": backend})
    reduce = "from dynfusion.edges.all_reduce import reduce_ones; print(reduce_ones(**json.loads(sys.argv[1])))"
    return subprocess.Popen(
        [sys.executable, "-c", f"import json, sys; {reduce}", arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "the sum is wrong"


if __name__ == "__main__":
    serve(probe)
