from tests.bench.bench_remote import main


def test_the_remote_benchmark_runs_at_toy_size() -> None:
    result = main(512, round_seconds=0.01, rounds=1)
    assert {"remote_cpu_over_download", "warm_over_local"} <= result["figures"].keys()
    assert all(value > 0 for value in result["figures"].values())
