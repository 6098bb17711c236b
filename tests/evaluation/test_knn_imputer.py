import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from dynfusion.evaluation.insight.retrieval import unit
from dynfusion.evaluation.representations.imputers import Pool, ridge_plan
from dynfusion.evaluation.representations.knn_imputer import (
    choose_neighbours,
    collect_neighbours,
    impute_by_neighbours,
    nearest_rows,
)
from dynfusion.evaluation.settings import ImputerSettings
from tests.evaluation.synthetic import MODALITIES, LatentModel

HOW = ImputerSettings(neighbours=(1, 3, 8, 30))


@pytest.fixture(scope="module")
def pool():
    return LatentModel().pool()


@pytest.fixture(scope="module")
def imputer(pool):
    return collect_neighbours(pool, choose_neighbours(pool, settings=HOW), settings=HOW)


def by_scikit_learn(values, present, queries, visible, target, k):
    columns = [MODALITIES.index(name) for name in (*visible, target)]
    rows = np.flatnonzero(present[:, columns].all(axis=1))
    search = NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute")
    search.fit(np.concatenate([values[name][rows] for name in visible], axis=1).astype(float))
    shown = np.concatenate([queries[name] for name in visible], axis=1).astype(float)
    return rows[search.kneighbors(shown, return_distance=False)]


def test_neighbours_agree_with_scikit_learn_on_the_rows_that_have_everything(pool, imputer):
    queries = {
        name: np.random.default_rng(3).normal(size=(70, v.shape[1])).astype(np.float32)
        for name, v in pool.values.items()
    }
    found = nearest_rows(imputer, queries)
    for (visible, target), choice in imputer.choices.items():
        expected = by_scikit_learn(pool.values, pool.present, queries, visible, target, choice.k)
        shown = unit(np.concatenate([queries[name] for name in visible], axis=1).astype(float))
        searched = unit(np.concatenate([pool.values[name] for name in visible], axis=1).astype(float))
        near, theirs = ((shown[:, None] * searched[rows]).sum(axis=2) for rows in (found[visible, target], expected))
        np.testing.assert_allclose(near, theirs, atol=1e-6)
        assert (found[visible, target] == expected).mean() > 0.99  # float32 orders near-equals otherwise


def test_the_number_is_the_one_with_the_smallest_error_on_held_rows(pool, imputer):
    assert set(imputer.choices) == set(ridge_plan(MODALITIES))
    queries = {name: values[pool.held] for name, values in pool.values.items()}
    for (visible, target), choice in imputer.choices.items():
        columns = [MODALITIES.index(name) for name in (*visible, target)]
        usable = pool.present[pool.held][:, columns].all(axis=1)
        searched = {name: values[~pool.held] for name, values in pool.values.items()}
        nearest = by_scikit_learn(searched, pool.present[~pool.held], queries, visible, target, 30)[usable]
        truth = queries[target][usable]
        errors = [((truth - searched[target][nearest[:, :k]].mean(axis=1)) ** 2).mean() for k in HOW.neighbours]
        np.testing.assert_allclose(choice.held_mse, errors, rtol=1e-3)  # as above
        assert choice.k == HOW.neighbours[int(np.argmin(errors))]
        assert choice.held_rows == usable.sum()
        assert choice.rows == pool.present[pool.trained][:, columns].all(axis=1).sum()


def test_every_row_is_imputed_from_exactly_what_it_shows(pool, imputer):
    draw = np.random.default_rng(5)
    visible = draw.random((300, 3)) < 0.5
    visible[:, 2] = False
    values = {name: draw.normal(size=(300, v.shape[1])).astype(np.float32) for name, v in pool.values.items()}
    garbage = {name: np.where(visible[:, [i]], values[name], np.float32("nan")) for i, name in enumerate(MODALITIES)}
    filled = impute_by_neighbours(imputer, nearest_rows(imputer, garbage), "selfies", visible)
    for row, shown in enumerate(visible):
        names = tuple(name for name, seen in zip(MODALITIES, shown, strict=True) if seen)
        expected = np.zeros(16)
        if names:
            one = {name: values[name][[row]] for name in names}
            k = imputer.choices[names, "selfies"].k
            nearest = by_scikit_learn(pool.values, pool.present, one, names, "selfies", k)
            expected = pool.values["selfies"][nearest[0]].mean(axis=0)
        np.testing.assert_allclose(filled[row], expected, atol=1e-5)


def test_rows_that_the_model_was_not_trained_on_are_not_searched(pool):
    apart = Pool(pool.modalities, pool.values, pool.present, pool.held, ~pool.held)
    found = collect_neighbours(apart, choose_neighbours(apart, settings=HOW), settings=HOW)
    assert len(found.present) == (~pool.held).sum()
    assert all(choice.rows <= len(found.present) for choice in found.choices.values())


def test_fewer_rows_than_neighbours_are_all_averaged(pool):
    few = np.concatenate([np.flatnonzero(pool.present.all(axis=1) & ~pool.held)[:4], np.flatnonzero(pool.held)])
    small = Pool(
        pool.modalities,
        {name: values[few] for name, values in pool.values.items()},
        pool.present[few],
        pool.held[few],
        ~pool.held[few],
    )
    how = ImputerSettings(neighbours=(9,))
    imputer = collect_neighbours(small, choose_neighbours(small, settings=how), settings=how)
    query = {name: values[-2:] for name, values in small.values.items()}
    guess = impute_by_neighbours(imputer, nearest_rows(imputer, query), "selfies", np.array([[True, False, False]] * 2))
    np.testing.assert_allclose(guess, np.tile(small.values["selfies"][:4].mean(axis=0), (2, 1)), atol=1e-6)


def test_a_pool_without_complete_rows_is_refused(pool):
    present = pool.present.copy()
    present[:, 1] &= ~present[:, 0]
    empty = Pool(pool.modalities, pool.values, present, pool.held, pool.trained)
    with pytest.raises(ValueError, match="pool: 0 rows to search and 0 held rows have morgan, descriptors and selfies"):
        choose_neighbours(empty, settings=HOW)


def test_the_fingerprint_follows_settings_and_values(pool, imputer):
    other = collect_neighbours(pool, list(imputer.choices.values()), settings=ImputerSettings())
    moved = Pool(pool.modalities, {n: v + 1 for n, v in pool.values.items()}, pool.present, pool.held, pool.trained)
    third = collect_neighbours(moved, list(imputer.choices.values()), settings=HOW)
    assert len({imputer.fingerprint, other.fingerprint, third.fingerprint}) == 3
