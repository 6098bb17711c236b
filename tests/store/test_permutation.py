import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dynfusion.store.hashing import mix
from dynfusion.store.permutation import permute, unpermute


@settings(max_examples=150, deadline=None)
@given(size=st.integers(1, 5000), key=st.integers(0, 2**64 - 1))
def test_every_number_of_the_range_comes_out_once(size: int, key: int) -> None:
    assert (np.sort(permute(np.arange(size), size, key=key)) == np.arange(size)).all()


@settings(max_examples=150, deadline=None)
@given(size=st.integers(1, 2**32 - 2**16), key=st.integers(0, 2**64 - 1), data=st.data())
def test_the_inverse_leads_back_even_in_the_largest_ranges(size: int, key: int, data: st.DataObject) -> None:
    index = np.array(data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=20)))
    image = permute(index, size, key=key)
    assert ((image >= 0) & (image < size)).all()
    assert (unpermute(image, size, key=key) == index).all()


def test_sizes_and_keys_per_element_equal_one_call_each() -> None:
    sizes = np.array([[7], [1000], [1001], [1]])
    keys = np.array([[3], [2**63], [5], [9]], np.uint64)
    index = np.arange(12).reshape(1, -1) % sizes
    together = permute(index, sizes, key=keys)
    for row in range(len(sizes)):
        assert (together[row] == permute(index[row], int(sizes[row, 0]), key=int(keys[row, 0]))).all()


def test_over_many_keys_every_number_goes_everywhere_equally_often() -> None:
    """Chi-squared over its degrees of freedom is 1 within a few standard deviations of sqrt(2 / degrees)."""
    keys = mix(np.arange(20_000, dtype=np.uint64))
    for size in (4, 16, 50):
        images = np.stack([permute(np.full(len(keys), number), size, key=keys) for number in range(size)])
        counts = np.stack([np.bincount(row, minlength=size) for row in images])
        expected = len(keys) / size
        degrees = (size - 1) ** 2
        assert abs(np.square(counts - expected).sum() / expected / degrees - 1) < 5 * np.sqrt(2 / degrees)


def test_over_many_keys_neighbours_become_strangers() -> None:
    keys = mix(np.arange(20_000, dtype=np.uint64))
    size = 50
    first, second = (permute(np.full(len(keys), number), size, key=keys) for number in (20, 21))
    pairs = np.zeros((size, size))
    np.add.at(pairs, (first, second), 1)
    apart = pairs[~np.eye(size, dtype=bool)]
    expected = len(keys) / len(apart)
    degrees = len(apart) - 1
    assert abs(np.square(apart - expected).sum() / expected / degrees - 1) < 5 * np.sqrt(2 / degrees)
