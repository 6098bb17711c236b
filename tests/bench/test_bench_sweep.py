import json
from pathlib import Path

import pytest

from tests.bench import bench_sweep
from tests.datasets import packed


@pytest.mark.slow
def test_the_sweep_benchmark_runs_and_prints_a_json_line_a_part(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pack = packed(tmp_path / "data", rows=700, holdout=0.2).uri
    small = ("train.global_batch_rows=64", "data.group_rows=32", "train.checkpoint_every_steps=4", "cluster.workers=1")
    result = bench_sweep.main(bench_sweep.Bench(pack, tmp_path / "runs", many=2, overrides=small), ("many",))
    [line] = capsys.readouterr().out.splitlines()
    assert json.loads(line) == result["many"]
    assert result["many"]["states"] == {"finished": 2, "stopped": 0, "failed": 0}
    assert result["many"]["median_overhead_seconds"] > 0
    assert result["many"]["processes_left"] == 0
