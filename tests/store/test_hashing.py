import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from dynfusion.store.hashing import hash_strings, mix


@settings(deadline=None)
@given(st.lists(st.text(max_size=12), min_size=1, max_size=20), st.integers(0, 19))
def test_a_string_hashes_the_same_alone_and_among_others(texts: list[str], place: int) -> None:
    place %= len(texts)
    together = hash_strings(pa.array(texts), key=7)
    assert together[place] == hash_strings(pa.array([texts[place]]), key=7)[0]
    assert together[place] == hash_strings(pa.array(["before", *texts]).slice(1), key=7)[place]


def test_different_strings_lengths_and_keys_hash_differently() -> None:
    texts = ["", "a", "b", "ab", "ba", "aa", "aaa", "a\0", "é"]
    assert len(set(hash_strings(pa.array(texts), key=7).tolist()) | set(hash_strings(pa.array(texts), key=8))) == 18


def test_a_hash_never_changes_because_packs_depend_on_it() -> None:
    """The numbers were printed by this code when the format was laid."""
    assert hash_strings(pa.array(["CCO", None]), key=1).tolist() == [13749363486509211300, 6791897765849424158]


def test_mixing_is_flat_in_every_bit() -> None:
    bits = np.unpackbits(mix(np.arange(4096, dtype=np.uint64)).view(np.uint8)).reshape(4096, 64)
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 5 * 0.5 / 64
