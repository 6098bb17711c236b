from tests.bench import bench_resampling


def test_the_resampling_benchmark_runs_and_beats_one_call_per_resample_by_far() -> None:
    result = bench_resampling.main(1000)
    assert set(result) == {"benchmark", "figures", "ceilings", "versions", "hardware", "settings"}
    for name in bench_resampling.SHARES:
        assert result["figures"][f"{name}_ms"] * 20 < result["ceilings"][f"scikit_learn_{name}_ms"]
