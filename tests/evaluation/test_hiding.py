"""Patterns and masks: rates that hold, one cell at least that stays, nothing that depends on order."""

from dataclasses import replace

import numpy as np
import pytest

from dynfusion.evaluation.hiding.masks import donors, hide, molecule_sizes, show
from dynfusion.evaluation.hiding.patterns import (
    Pattern,
    all_subsets,
    corrupted,
    imbalanced,
    not_at_random,
    random_rates,
    subsets,
)
from tests.evaluation.synthetic import MODALITIES, task


@pytest.fixture(scope="module")
def data():
    return replace(task("alpha", rows=4000), present=np.ones((4000, 3), dtype=bool))


def test_subsets_are_all_but_the_empty_one_and_the_complete_one_comes_first():
    assert subsets(("a", "b", "c")) == [("a", "b", "c"), ("a", "b"), ("a", "c"), ("b", "c"), ("a",), ("b",), ("c",)]
    assert [pattern.visible for pattern in all_subsets(("a", "b"))] == [("a", "b"), ("a",), ("b",)]


@pytest.mark.parametrize("rate", [0.25, 0.5, 0.75])
def test_the_realised_rate_is_that_of_hiding_given_that_something_stays(data, rate):
    shown = show(Pattern("random", MODALITIES, rate, 0), data, np.arange(4000))
    assert shown.visible.any(axis=1).all()
    assert shown.hidden_share(data.present) == pytest.approx((rate - rate**3) / (1 - rate**3), abs=0.01)


def test_every_way_to_hide_has_its_conditional_probability():
    draws = np.random.default_rng(0).random((200_000, 2))
    rates = np.full((200_000, 2), [0.8, 0.3])
    hidden = hide(np.ones((200_000, 2), dtype=bool), rates, draws)
    total = 1 - 0.8 * 0.3
    for column, expected in ((0, 0.8 * 0.7 / total), (1, 0.2 * 0.3 / total)):
        assert hidden[:, column].mean() == pytest.approx(expected, abs=0.005)
    assert not hidden.all(axis=1).any()


def test_an_absent_cell_is_never_what_stays():
    present = np.array([[True, False, False]] * 100)
    hidden = hide(present, np.full((100, 3), 0.9), np.zeros((100, 3)))
    assert not hidden.any()


def test_hiding_follows_the_id_and_not_the_row(data):
    pattern = random_rates(MODALITIES, (0.5,), 2)[1]
    order = np.random.default_rng(1).permutation(4000)
    turned = replace(data, ids=data.ids[order])
    np.testing.assert_array_equal(
        show(pattern, turned, np.arange(4000)).visible, show(pattern, data, np.arange(4000)).visible[order]
    )
    np.testing.assert_array_equal(
        show(pattern, data, np.arange(50, 90)).visible, show(pattern, data, np.arange(4000)).visible[50:90]
    )


def test_draws_and_rates_are_different(data):
    first, second = (show(p, data, np.arange(4000)).visible for p in random_rates(MODALITIES, (0.5,), 2))
    assert (first != second).mean() > 0.3


def test_imbalanced_hides_one_modality_often(data):
    (pattern,) = [p for p in imbalanced(MODALITIES, 1) if p.target == "selfies"]
    hidden = 1 - show(pattern, data, np.arange(4000)).visible.mean(axis=0)
    # .75 of one, .1 of the two others, given that one stays: .75 (1 - .01) / (1 - .0075), .1 (1 - .075) / (1 - .0075)
    assert hidden == pytest.approx([0.0932, 0.0932, 0.7481], abs=0.02)


def test_not_at_random_hides_more_of_large_molecules(data):
    sized = replace(data, smiles=np.array(["C" * (1 + row % 40) for row in range(4000)]))
    pattern = not_at_random(MODALITIES, (0.4, 0.75), 1)
    assert [p.rate for p in pattern] == [0.4]
    visible = show(pattern[0], sized, np.arange(4000)).visible.mean(axis=1)
    size = molecule_sizes(sized)
    assert visible[size > 30].mean() < visible[size <= 10].mean() - 0.3


def test_donors_are_other_molecules_each_once():
    data = task("alpha")
    given = donors(data, "selfies")
    has = data.present[:, 2]
    assert (given[has] != np.flatnonzero(has)).all()
    np.testing.assert_array_equal(np.sort(given[has]), np.flatnonzero(has))
    np.testing.assert_array_equal(given[~has], np.flatnonzero(~has))


def test_corruption_hides_nothing_and_names_the_modality(data):
    shown = show(corrupted(MODALITIES)[1], data, np.arange(10))
    assert shown.corrupted == "descriptors"
    assert shown.visible.all()
