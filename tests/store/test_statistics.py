import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dynfusion.store.statistics import merge, moments_of, no_moments


@settings(deadline=None)
@given(cuts=st.lists(st.integers(0, 60), max_size=5), shift=st.sampled_from([0.0, 1e4]))
def test_merged_pieces_equal_the_whole(cuts: list[int], shift: float) -> None:
    rows = np.random.default_rng(0).standard_normal((60, 3)) + shift
    whole = no_moments(3)
    borders = [0, *sorted(cuts), 60]
    for start, stop in itertools.pairwise(borders):
        whole = merge(whole, moments_of(rows[start:stop]))
    assert whole.count == 60
    np.testing.assert_allclose(whole.mean, rows.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(whole.std, rows.std(axis=0), rtol=1e-9)
    assert (whole.minimum == rows.min(axis=0)).all()
    assert (whole.maximum == rows.max(axis=0)).all()


def test_by_hand() -> None:
    moments = merge(moments_of(np.array([[1.0], [3.0]])), moments_of(np.array([[8.0]])))
    assert (moments.count, moments.mean[0], moments.minimum[0], moments.maximum[0]) == (3, 4.0, 1.0, 8.0)
    assert moments.deviation[0] == 9 + 1 + 16


def test_no_rows_have_zeros_for_everything() -> None:
    nothing = merge(no_moments(2), moments_of(np.zeros((0, 2), np.float16)))
    assert nothing.count == 0
    assert nothing.std.tolist() == [0, 0]
