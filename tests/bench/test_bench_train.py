import json

import pytest

from tests.bench import bench_train

SMALL = {"first": 24, "second": 32, "third": 16}


@pytest.mark.slow
def test_the_train_benchmark_runs_and_prints_one_json_line(capsys: pytest.CaptureFixture[str]) -> None:
    result = bench_train.main(512, batch_rows=64, rounds=1, dims=SMALL, parts=("feed", "two"))
    [line] = capsys.readouterr().out.splitlines()
    assert json.loads(line) == result
    assert set(result["figures"]) >= {"end_to_end_over_step", "two_over_one_vs_gemm"}
    assert all(figure > 0 for figure in {**result["figures"], **result["ceilings"]}.values())


def test_what_is_not_installed_is_left_out_and_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(bench_train.LIBRARIES, "deepspeed", ("a_library_that_nobody_has",))
    result = bench_train.main(512, batch_rows=64, rounds=1, dims=SMALL, parts=("deepspeed",))
    assert result["left_out"] == {"deepspeed": "a_library_that_nobody_has not installed"}
    assert result["figures"] == {}
    assert json.loads(capsys.readouterr().out) == result


@pytest.mark.slow
def test_deepspeed_and_ray_train_are_measured_where_they_are_installed() -> None:
    result = bench_train.main(512, batch_rows=64, rounds=2, dims=SMALL, parts=("deepspeed", "ray"))
    assert result["figures"]["deepspeed_over_torch"] > 0
    assert result["figures"]["ray_over_loop"] > 0
