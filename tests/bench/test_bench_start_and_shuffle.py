from pathlib import Path

import numpy as np
import pytest

from dynfusion.store.feed import Feed
from dynfusion.store.order import Order, Position
from tests.bench import bench_feed_peers, bench_shuffle, bench_start
from tests.bench.sparse_pack import write_sparse_pack

KEYS = {"benchmark", "figures", "ceilings", "versions", "hardware", "settings"}


def test_batches_of_a_packed_source_sorted_set_mix_as_a_true_shuffle_does() -> None:
    result = bench_shuffle.main(65_536)
    assert set(result) == KEYS
    assert result["figures"]["entropy_gap_bits"] < 0.1
    assert result["figures"]["entropy_gap_last_5_percent_bits"] < 0.1
    assert abs(result["figures"]["entropy_gap_of_groups_bits"]) < 0.05


def test_a_dataset_of_holes_is_read_like_any_other(tmp_path: Path) -> None:
    dataset = write_sparse_pack(tmp_path, 100_001, {"wide": 24, "narrow": 8})
    order = Order(dataset.manifest.layout, dataset.manifest.fingerprint, 0, 512)
    with Feed(dataset, order, rank=0, world_size=1, start=Position(2, 190)) as feed:
        batch = next(feed)
        assert batch.row_ids.tolist() == order.rows(2, 190, range(order.layout.lanes)).tolist()
        assert not batch.present.any()
        assert not np.any(batch.values[0].numpy())


def test_the_start_benchmark_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_start, "ROUNDS", 1)
    monkeypatch.setattr(bench_start, "DIMS", {"wide": 24, "narrow": 8})
    result = bench_start.main(200_000, small=20_000, batch_rows=256)
    assert set(result) == KEYS
    assert 0 < result["figures"]["first_batch_seconds"] < 10


@pytest.mark.slow
def test_the_peer_benchmark_runs_with_what_is_here_and_says_what_is_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bench_feed_peers, "ROUNDS", 1)
    result = bench_feed_peers.main(
        640, batch_rows=128, round_seconds=0.01, only=("dynfusion", "torch", "lance", "mosaic"), environments=tmp_path
    )
    assert set(result) == {*KEYS, "skipped", "rows_per_second"}
    assert set(result["skipped"]) == {"lance", "mosaic"}
    assert "peers_setup makes it" in result["skipped"]["lance"]
    assert {"over_torch_batched", "over_torch_per_sample"} < set(result["figures"])
