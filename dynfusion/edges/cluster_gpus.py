"""An all-reduce among those GPUs of a Ray cluster that nobody uses."""

from collections.abc import Iterator
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from dynfusion.edges import all_reduce
from dynfusion.edges.cluster_nodes import line_of

_LIMIT_SECONDS = 35.0


class _Rank:
    """One GPU."""

    def rendezvous(self) -> tuple[str, str | None]:
        """Where rank 0 can be found, and the version of NCCL."""
        return all_reduce.rendezvous_here(ray.util.get_node_ip_address()), all_reduce.nccl_version()

    def reduce(self, rank: int, world: int, rendezvous: str) -> int:
        return all_reduce.reduce_ones(rank, world, rendezvous)


def sum_over_gpus() -> Iterator[dict[str, Any]]:
    """The facts of `preflight.observations.Gpus` as `gpus`; busy where no GPU is free."""
    count, free = (int(found.get("GPU", 0)) for found in (ray.cluster_resources(), ray.available_resources()))
    if not free:
        yield {"gpus": {"count": count, "busy": count > 0}}
        return
    ranks = [ray.remote(num_cpus=0, num_gpus=1)(_Rank).remote() for _ in range(free)]
    try:
        yield {"doing": "while a process was started on a GPU"}
        rendezvous, nccl = ray.get(ranks[0].rendezvous.remote(), timeout=_LIMIT_SECONDS)
        yield {"doing": f"while {free} GPUs were summed over"}
        sums = [rank.reduce.remote(number, free, rendezvous) for number, rank in enumerate(ranks)]
        right = set(ray.get(sums, timeout=_LIMIT_SECONDS)) == {free}
        problem = None if right else f"the sum over {free} GPUs is wrong"
        yield {"gpus": {"count": count, "nccl": nccl, "summed": free, "problem": problem}}
    except GetTimeoutError:
        yield {"gpus": {"count": count, "problem": f"no sum over {free} GPUs within {_LIMIT_SECONDS:.0f} s"}}
    except RayError as error:
        yield {"gpus": {"count": count, "problem": line_of(error)}}
    finally:
        for rank in ranks:
            ray.kill(rank)
