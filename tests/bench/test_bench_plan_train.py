import json

import pytest

from tests.bench import bench_plan_train

SMALL = {"first": 24, "second": 32, "third": 16}


@pytest.mark.slow
def test_a_run_is_planned_trained_and_printed_as_one_json_line(capsys: pytest.CaptureFixture[str]) -> None:
    name = "small model, fp32, 512 rows, one worker"
    result = bench_plan_train.main(2048, seconds=1.0, names=(name,), dims=SMALL)
    [line] = capsys.readouterr().out.splitlines()
    assert json.loads(line) == result
    found = result["settings"][name]
    assert found["measured"]["rows_per_second"] > 0
    assert found["measured"]["memory_bytes"] > 1e8
    assert set(found["deviation"]) == {"rows_per_second", "memory_bytes"}
    assert result["figures"]["worst_memory_bytes"] < 0.25
