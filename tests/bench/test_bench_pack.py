from tests.bench.bench_pack import main


def test_the_benchmark_runs_at_toy_size() -> None:
    result = main(400, 300, rounds=1)
    assert result["figures"]["pack_over_two_copies"] > 0
    assert result["figures"]["narrow_peak_rss_mb"] > 10
