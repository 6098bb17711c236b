import numpy as np
import pytest

from dynfusion.encoders.absence import drop_cells

IDS = [f"molecule-{row}" for row in range(20_000)]
NAMES = ["morgan", "descriptors", "selfies-ngrams"]
ALL = np.ones((len(IDS), len(NAMES)), bool)


def test_the_realised_share_is_the_fraction_less_the_rows_that_keep_their_last_cell() -> None:
    share = drop_cells(IDS, NAMES, present=ALL, fraction=0.15, seed=0).mean(axis=0)
    expected = 0.15 - 0.15**3 / 3
    np.testing.assert_allclose(share, expected, atol=4 * (expected / len(IDS)) ** 0.5)


def test_no_row_loses_its_last_cell_and_an_absent_cell_is_not_dropped() -> None:
    present = np.random.default_rng(0).random(ALL.shape) < 0.6
    dropped = drop_cells(IDS, NAMES, present=present, fraction=0.9, seed=0)
    assert not (dropped & ~present).any()
    np.testing.assert_array_equal((present & ~dropped).any(axis=1), present.any(axis=1))


def test_a_cells_fate_depends_on_seed_id_and_modality_alone() -> None:
    dropped = drop_cells(IDS[:500], NAMES, present=ALL[:500], fraction=0.15, seed=3)
    order = np.random.default_rng(1).permutation(500)
    shuffled = drop_cells([IDS[row] for row in order], NAMES, present=ALL[:500], fraction=0.15, seed=3)
    np.testing.assert_array_equal(shuffled, dropped[order])
    among_others = drop_cells(IDS[:900], NAMES, present=ALL[:900], fraction=0.15, seed=3)
    np.testing.assert_array_equal(among_others[:500], dropped)
    renamed = drop_cells(IDS[:500], NAMES[::-1], present=ALL[:500], fraction=0.15, seed=3)
    np.testing.assert_array_equal(renamed[:, ::-1], dropped)
    other = drop_cells(IDS[:500], NAMES, present=ALL[:500], fraction=0.15, seed=4)
    assert 0.2 < (other != dropped).mean() < 0.3  # two independent draws differ in 2 * .15 * .85 of the cells


def test_nothing_is_dropped_at_fraction_zero() -> None:
    assert not drop_cells(IDS, NAMES, present=ALL, fraction=0.0, seed=0).any()


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_a_fraction_out_of_range_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match=r"fraction of dropped cells: found .*, allowed is 0 or more and below 1"):
        drop_cells(IDS, NAMES, present=ALL, fraction=fraction, seed=0)
