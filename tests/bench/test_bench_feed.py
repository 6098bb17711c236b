import json

import pytest

from tests.bench.bench_feed import main


def test_the_feed_benchmark_runs_and_prints_one_json_line(capsys: pytest.CaptureFixture[str]) -> None:
    result = main(500, global_batch_rows=64, round_seconds=0.0)
    [line] = capsys.readouterr().out.splitlines()
    assert json.loads(line) == result
    assert set(result) == {"benchmark", "figures", "ceilings", "versions", "hardware", "settings", "busy_cores"}
    assert all(figure > 0 for figure in {**result["figures"], **result["ceilings"]}.values())
