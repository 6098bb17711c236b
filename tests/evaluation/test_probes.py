import numpy as np
import pytest
from dynfusion.evaluation.probes.logistic import ProbeSettings, fit_logistic, prior
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler


def wide(rows=50, dim=120, seed=0):
    draws = np.random.default_rng(seed)
    values = draws.normal(size=(rows, dim)) + 3
    return values, (values[:, 0] + 0.5 * draws.normal(size=rows) > 3).astype(float)[:, None]


NOTHING = (np.zeros((0, 120)), np.zeros((0, 1)))


def test_the_rotation_changes_no_probability():
    values, labels = wide()
    others = wide(rows=30, seed=1)[0]
    probe = fit_logistic(
        (values, labels), NOTHING, classes=0, seed=0, settings=ProbeSettings(inverse_penalties=(0.01,))
    )
    assert probe.rotation is not None
    scaler = StandardScaler().fit(values)
    plain = LogisticRegression(C=0.01, tol=1e-8, max_iter=5000).fit(scaler.transform(values), labels[:, 0])
    np.testing.assert_allclose(
        probe.scores(others)[:, 0], plain.predict_proba(scaler.transform(others))[:, 1], atol=1e-4
    )


def test_validation_rows_choose_the_penalty_and_test_rows_cannot():
    values, labels = wide(rows=80)
    grid = (1e-4, 1e-2, 1.0)
    train, valid = (values[:50], labels[:50]), (values[50:], labels[50:])
    probe = fit_logistic(train, valid, classes=0, seed=0, settings=ProbeSettings(inverse_penalties=grid))
    scores = []
    for inverse_penalty in grid:
        only = ProbeSettings(inverse_penalties=(inverse_penalty,))
        predicted = fit_logistic(train, valid, classes=0, seed=0, settings=only).scores(valid[0])[:, 0]
        positive = valid[1][:, 0] == 1
        scores.append((predicted[positive][:, None] > predicted[~positive]).mean())
    assert scores[grid.index(probe.inverse_penalty)] == pytest.approx(max(scores), abs=0.01)


def test_missing_labels_and_labels_of_one_class_do_not_stop_a_multitask_head():
    values, labels = wide()
    labels = np.concatenate([labels, np.ones_like(labels), np.full_like(labels, np.nan)], axis=1)
    labels[::4, 0] = np.nan
    empty = (np.zeros((0, 120)), np.zeros((0, 3)))
    scores = fit_logistic((values, labels), empty, classes=0, seed=0, settings=ProbeSettings()).scores(values)
    known = ~np.isnan(labels[:, 0])
    assert scores[known & (labels[:, 0] == 1), 0].mean() > scores[known & (labels[:, 0] == 0), 0].mean()
    assert (scores[:, 1] == 1).all()
    assert (scores[:, 2] == 0.5).all()


def test_classes_that_training_rows_lack_get_probability_zero():
    values, labels = wide()
    scores = fit_logistic((values, labels * 2), NOTHING, classes=3, seed=0, settings=ProbeSettings()).scores(values)
    np.testing.assert_allclose(scores.sum(axis=1), 1)
    assert (scores[:, 1] == 0).all()


def test_the_same_seed_gives_the_same_bytes():
    values, labels = wide()
    first, second = (
        fit_logistic((values, labels), NOTHING, classes=0, seed=3, settings=ProbeSettings()).scores(values)
        for _ in range(2)
    )
    assert first.tobytes() == second.tobytes()


def test_the_prior_is_the_share_of_each_class_among_known_labels():
    np.testing.assert_array_equal(prior(np.array([[1, 0], [0, np.nan], [1, 1.0], [1, 1]]), classes=0), [0.75, 2 / 3])
    np.testing.assert_array_equal(prior(np.array([[0.0], [2], [2], [1]]), classes=3), [0.25, 0.25, 0.5])


def test_a_grid_out_of_order_is_refused():
    with pytest.raises(ValueError, match="ascending"):
        ProbeSettings(inverse_penalties=(1.0, 0.1))
