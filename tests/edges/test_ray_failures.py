"""An error that every start would meet again ends a run; one that a lost process or connection left behind does not."""

import json
from pathlib import Path

import pytest
import ray
import torch
from ray.exceptions import ActorDiedError
from torch import distributed

from dynfusion.edges.ray_board import Board, Voice, Watch
from dynfusion.edges.ray_failures import EndForGood, Repeats, RunFailedError, final_sentence
from dynfusion.edges.ray_train import train_on_ray
from dynfusion.fusion.model import ModelSettings
from dynfusion.run_settings import RunSettings
from dynfusion.settings import build
from dynfusion.store.manifest import read_manifest
from tests.datasets import packed
from tests.training.cases import MASKING, MODEL, TRAIN

SAME: dict[int, Exception] = {1: RuntimeError("mat1 and mat2 shapes cannot be multiplied")}


def test_the_same_error_three_times_in_a_row_is_enough() -> None:
    repeats = Repeats()
    collateral = RuntimeError("[../gloo/transport/tcp/pair.cc:1] Connection closed by peer")
    assert repeats.failed(SAME) is None
    assert repeats.failed({0: collateral, **SAME}) is None
    assert repeats.failed(SAME) == "RuntimeError: mat1 and mat2 shapes cannot be multiplied"


def test_another_error_a_checkpoint_or_a_lost_process_between_begins_anew() -> None:
    died: dict[int, Exception] = {0: RuntimeError("mat1 and mat2 shapes cannot be multiplied"), 1: ActorDiedError()}
    for between in ({0: KeyError("other")}, died, None):
        repeats = Repeats()
        repeats.failed(SAME)
        repeats.failed(SAME)
        if between is None:
            repeats.progress()
        else:
            assert repeats.failed(between) is None
        assert repeats.failed(SAME) is None


@pytest.mark.parametrize(
    "error", [distributed.DistBackendError("NCCL error: remote process exited"), ConnectionResetError("by peer")]
)
def test_what_a_lost_connection_leaves_behind_is_never_enough(error: Exception) -> None:
    repeats = Repeats()
    assert [repeats.failed({0: error}) for _ in range(10)] == [None] * 10


def test_a_new_start_meets_a_damaged_block_and_too_little_memory_again_but_a_silent_store_not() -> None:
    assert final_sentence(ValueError("shard 3, block 4: damaged"), 1) == "shard 3, block 4: damaged"
    text = final_sentence(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), 1)
    assert text is not None
    assert text.startswith("worker 1 has too little GPU memory: CUDA out of memory")
    silent = ValueError("s3://bucket: still failing after 9 attempts")
    silent.__cause__ = OSError("connection reset")
    assert final_sentence(silent, 1) is None
    with pytest.raises(ValueError, match="no packed dataset here") as not_mounted:
        read_manifest("/no/such/mount")
    assert final_sentence(not_mounted.value, 1) is None
    assert final_sentence(json.JSONDecodeError("Expecting value", "", 0), 1) is None


def test_what_torch_says_when_the_other_ranks_have_left_ends_no_run_and_our_own_sentence_does() -> None:
    with pytest.raises(ValueError, match="Default process group has not been initialized") as left:
        torch.distributed.all_reduce(torch.ones(1))
    assert final_sentence(left.value, 0) is None
    with pytest.raises(ValueError, match="unknown name") as wrong:
        build(ModelSettings, {"dims": 8})
    assert final_sentence(wrong.value, 0) == str(wrong.value)


def test_the_controller_gives_up_once_any_worker_told_the_board(ray_cluster: None) -> None:
    board = ray.remote(num_cpus=0)(Board).remote()
    end = EndForGood(board)
    end.after_exception(None, SAME)
    Voice(board, quiet=True).fail("block 4 is damaged")
    Voice(board, quiet=False).fail("a later one")
    with pytest.raises(RunFailedError, match="block 4 is damaged"):
        end.after_exception(None, SAME)
    again = ray.remote(num_cpus=0)(Board).remote()
    end = EndForGood(again)
    end.after_exception(None, SAME)
    end.after_exception(None, SAME)
    with pytest.raises(
        RunFailedError, match="3 times in a row at the same step with the same error: RuntimeError: mat1"
    ):
        end.after_exception(None, SAME)
    assert "mat1" in ray.get(again.failed.remote())


@pytest.mark.slow
def test_a_damaged_block_of_one_rank_ends_a_run_with_many_restarts_left_once(ray_cluster: None, tmp_path: Path) -> None:
    dataset = packed(tmp_path / "data")
    shard = max((tmp_path / "data").rglob("*.arrow"), key=lambda path: path.stat().st_size)
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 0xFF
    shard.write_bytes(content)
    given = {
        "data": {"uri": dataset.uri, "feed": {"check": True}},
        "model": MODEL.model_dump(),
        "masking": MASKING.model_dump(),
        "train": TRAIN.model_dump(),
        "cluster": {"name": "run", "storage": str(tmp_path / "runs"), "workers": 2, "max_failures": 1000},
    }
    said: list[str] = []
    with pytest.raises(ValueError, match=r"block \d+"):
        train_on_ray(build(RunSettings, given), Watch(lambda _: None, said.append))
    assert len([text for text in said if "steps of 128 molecules" in text]) == 1
