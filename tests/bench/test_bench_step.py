import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dynfusion.training.config import EngineSettings
from tests.bench.bench_step import Recorder, main, make_step, train_step

SMALL = {"first": 24, "second": 32, "third": 16}


def test_the_step_benchmark_runs_and_prints_one_json_line(capsys: pytest.CaptureFixture[str]) -> None:
    result = main(64, rounds=1, dims=SMALL)
    [line] = capsys.readouterr().out.splitlines()
    assert json.loads(line) == json.loads(json.dumps(result))
    assert all(figure > 0 for figure in {**result["figures"], **result["ceilings"]}.values())
    assert {entry["dtype"] for entry in result["products"]["fp32"]} == {"float32"}
    assert {entry["dtype"] for entry in result["products"]["bf16"]} == {"bfloat16"}


def test_the_recorder_misses_no_product_that_torch_itself_counts() -> None:
    made = make_step(64, SMALL, EngineSettings(kind="torch"), torch.device("cpu"))
    with Recorder() as recorder:
        train_step(*made)
    with FlopCounterMode(display=False) as counter:
        train_step(*made)
    assert sum(product.flop for product in recorder.products) == counter.get_total_flops() > 0
