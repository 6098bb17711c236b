from tests.bench.bench_probes import main


def test_the_benchmark_of_the_linear_probe_runs() -> None:
    result = main(0.05)
    assert min(result["figures"].values()) > 0
    assert all(off < 0.02 for name, off in result["ceilings"].items() if name.endswith("_off"))
