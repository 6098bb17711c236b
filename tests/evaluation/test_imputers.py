import numpy as np
import pytest
from sklearn.linear_model import Ridge

from dynfusion.evaluation.imputers import (
    CLIP,
    ImputerSettings,
    Pool,
    fit_ridge,
    hold_rows,
    impute,
    ridge_plan,
    standardise,
)
from tests.evaluation.synthetic import MODALITIES, LatentModel, imputers


def test_a_ridge_agrees_with_scikit_learn_on_the_rows_that_have_everything():
    pool, alpha = LatentModel().pool(), 0.01
    ours = fit_ridge(pool, ("morgan", "selfies"), "descriptors", settings=ImputerSettings(alphas=(alpha,)))
    rows = pool.present.all(axis=1) & ~pool.held
    inputs = np.concatenate([pool.values["morgan"], pool.values["selfies"]], axis=1)
    theirs = Ridge(alpha=alpha * rows.sum()).fit(inputs[rows].astype(float), pool.values["descriptors"][rows])
    np.testing.assert_allclose(ours.weight, theirs.coef_.T, atol=1e-5)
    np.testing.assert_allclose(ours.intercept, theirs.intercept_, atol=1e-5)
    assert (ours.rows, ours.held_rows) == (rows.sum(), (pool.present.all(axis=1) & pool.held).sum())


def test_the_penalty_is_the_one_with_the_smallest_error_on_held_rows():
    ridge = fit_ridge(LatentModel().pool(), ("morgan",), "selfies", settings=ImputerSettings())
    grid = ImputerSettings().alphas
    assert ridge.alpha == grid[int(np.argmin(ridge.held_mse))]
    assert len(ridge.held_mse) == len(grid)


def test_held_rows_do_not_move_the_fit():
    pool = LatentModel().pool()
    changed = {name: np.where(pool.held[:, None], 7, values) for name, values in pool.values.items()}
    how = ImputerSettings(alphas=(0.1,))
    first = fit_ridge(pool, ("morgan",), "selfies", settings=how)
    second = fit_ridge(Pool(pool.modalities, changed, pool.present, pool.held), ("morgan",), "selfies", settings=how)
    np.testing.assert_array_equal(first.weight, second.weight)


def test_every_row_is_imputed_from_exactly_what_it_shows():
    model = LatentModel()
    fitted, pool = imputers(model), model.pool()
    draws = np.random.default_rng(3)
    visible = draws.random((40, 3)) < 0.5
    values = {name: pool.values[name][:40] for name in MODALITIES}
    garbage = {name: np.where(visible[:, [i]], values[name], np.float32(np.nan)) for i, name in enumerate(MODALITIES)}
    filled = impute(fitted, garbage, visible)
    for row, shown in enumerate(visible):
        names = tuple(name for name, seen in zip(MODALITIES, shown, strict=True) if seen)
        for name in MODALITIES:
            if name in names:
                expected = values[name][row]
            elif not names:
                expected = np.zeros_like(values[name][row])
            else:
                ridge = fitted.ridges[names, name]
                inputs = np.concatenate([values[other][row] for other in names])
                expected = np.clip(inputs @ ridge.weight + ridge.intercept, -CLIP, CLIP)
            np.testing.assert_allclose(filled[name][row], expected, atol=1e-5)


def test_standardising_floors_the_deviation_and_clips():
    values = np.array([[1.0, 5.0, 2.0]])
    found = standardise(values, (np.array([0.0, 5.0, 2.0 - 1e-6]), np.array([0.01, 1.0, 0.0])))
    np.testing.assert_allclose(found, [[8.0, 0.0, 1e-3]], rtol=1e-5)


def test_a_small_hold_out_is_replaced_by_the_last_tenth():
    assert hold_rows(1000, 12).sum() == 100
    assert hold_rows(1000, 300)[700:].all()


def test_the_plan_has_every_subset_and_absent_modality_once():
    plan = ridge_plan(MODALITIES)
    assert len(plan) == len(set(plan)) == 9
    assert all(target not in visible for visible, target in plan)


def test_a_pool_without_complete_rows_is_refused():
    pool = LatentModel().pool()
    present = pool.present.copy()
    present[:, 1] &= ~present[:, 0]
    empty = Pool(pool.modalities, pool.values, present, pool.held)
    with pytest.raises(ValueError, match="pool: 0 rows to fit and 0 held rows have morgan and descriptors all present"):
        fit_ridge(empty, ("morgan",), "descriptors", settings=ImputerSettings())
