from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from dynfusion.evaluation.representations.imputers import (
    CLIP,
    Pool,
    fit_ridge,
    hold_rows,
    impute,
    ridge_plan,
    standardise,
)
from dynfusion.evaluation.settings import ImputerSettings
from dynfusion.fusion.model import FusionNetwork, ModelSettings
from tests.evaluation.synthetic import MODALITIES, LatentModel, imputers


def test_a_ridge_agrees_with_scikit_learn_on_the_rows_that_have_everything():
    pool, alpha = LatentModel().pool(), 0.01
    ours = fit_ridge(pool, ("morgan", "selfies"), "descriptors", settings=ImputerSettings(alphas=(alpha,)))
    rows = pool.present.all(axis=1)
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


def test_rows_that_the_model_was_not_trained_on_do_not_move_the_fit_and_held_training_rows_do():
    pool = LatentModel().pool()
    changed = {name: np.where(pool.held[:, None], 7, values) for name, values in pool.values.items()}
    how = ImputerSettings(alphas=(0.1,))

    def weight(values, trained):
        kept = Pool(pool.modalities, values, pool.present, pool.held, trained)
        return fit_ridge(kept, ("morgan",), "selfies", settings=how).weight

    np.testing.assert_array_equal(weight(pool.values, ~pool.held), weight(changed, ~pool.held))
    assert np.abs(weight(pool.values, pool.trained) - weight(changed, pool.trained)).max() > 0.01


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


def test_standardising_clips_and_leaves_out_what_does_not_vary():
    values = np.array([[1.0, 5.0, 2.0]])
    found = standardise(values, (np.array([0.0, 5.0, 2.0 - 1e-6]), np.array([0.01, 1.0, 0.0])))
    np.testing.assert_allclose(found, [[8.0, 0.0, 0.0]], rtol=1e-5)


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
    empty = Pool(pool.modalities, pool.values, present, pool.held, pool.trained)
    with pytest.raises(ValueError, match="pool: 0 rows to fit and 0 held rows have morgan and descriptors all present"):
        fit_ridge(empty, ("morgan",), "descriptors", settings=ImputerSettings())


def test_rivals_see_what_the_fusion_model_sees():
    """One rule of standardising in two layers: dimensions that do not vary, the floor, the clip."""
    draw = np.random.default_rng(0)
    values = draw.normal(size=(50, 4)) * [1, 100, 1e-4, 1]
    mean, std = values.mean(axis=0), np.array([1.0, 1.0, 1e-3, 1.1e-3])
    network = FusionNetwork({"a": 4}, ModelSettings(dim=2, gate_hidden=2, decoder_hidden=2, score_hidden=2))
    network.set_statistics({"a": (mean.tolist(), std.tolist())})
    theirs = network.towers[0].standardise(torch.tensor(values, dtype=torch.float32), torch.ones(50, dtype=torch.bool))
    np.testing.assert_allclose(standardise(values, (mean, std)), theirs.numpy(), atol=2e-4)


def test_the_pools_fingerprint_follows_every_part_of_it():
    pool = LatentModel().pool()
    found = {pool.fingerprint()}
    found.add(replace(pool, trained=pool.trained & (np.arange(len(pool.trained)) > 0)).fingerprint())
    found.add(replace(pool, held=~pool.held).fingerprint())
    found.add(replace(pool, values={**pool.values, "morgan": pool.values["morgan"] + 1}).fingerprint())
    assert len(found) == 4
