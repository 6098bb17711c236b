"""The sum over GPUs, on CPUs: ranks find each other, and one that cannot is named."""

from typing import Any

import pytest

from dynfusion.edges.all_reduce import probe


def facts(count: int, backend: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for fact in probe(count, backend):
        found |= fact
    return found


def test_two_ranks_sum_their_ones() -> None:
    found = facts(2, "gloo")
    assert (found["count"], found["nccl"], found["summed"]) == (2, "gloo", 2)
    assert "problem" not in found


def test_gpus_that_are_not_there_are_a_problem_of_a_rank() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    found = facts(1, "nccl")
    assert "NCCL" in found["problem"] or "finds no GPU" in found["problem"]
