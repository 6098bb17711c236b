import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from dynfusion.evaluation.probes.linear import LinearProbe
from dynfusion.evaluation.probes.probe import ProbeTask
from dynfusion.evaluation.settings import ProbeSettings

BINARY, REGRESSION = ProbeTask("binary"), ProbeTask("regression")


def correlated(rows=50, dim=120, seed=0):
    """Features of which a few directions carry most of the variance, as embeddings have them, and two noisy labels."""
    draws = np.random.default_rng(7)
    mixing = draws.normal(size=(dim, dim)) * np.geomspace(1, 1e-3, dim)[:, None]
    draws = np.random.default_rng(seed)
    hidden = draws.normal(size=(rows, dim))
    values = (hidden @ mixing + 3).astype(np.float32)
    labels = (hidden[:, :2] + 0.5 * draws.normal(size=(rows, 2)) > [0, 1]).astype(float)
    return values, labels


def head(train, target=BINARY, inverse_penalty=0.01):
    chosen = {"inverse_penalty": inverse_penalty}
    return LinearProbe().fit(train, target=target, chosen=chosen, seed=0, settings=ProbeSettings())


def choose(train, valid, target=BINARY, **changes):
    return LinearProbe().choose(train, valid, target=target, seed=0, settings=ProbeSettings(**changes))


def nothing(train):
    return train[0][:0], train[1][:0]


@pytest.mark.parametrize("rows", [60, 400])
@pytest.mark.parametrize("inverse_penalty", [1e-3, 1e-1, 10.0])
def test_binary_labels_with_gaps_get_the_probabilities_of_scikit_learn(rows, inverse_penalty):
    values, labels = correlated(rows)
    labels[::4, 0] = np.nan
    others = correlated(30, seed=1)[0]
    scores = head((values, labels), inverse_penalty=inverse_penalty).scores(others)
    scaler = StandardScaler().fit(values.astype(float))
    for output, label in enumerate(labels.T):
        known = ~np.isnan(label)
        plain = LogisticRegression(C=inverse_penalty, tol=1e-12, max_iter=50_000, solver="newton-cholesky")
        plain.fit(scaler.transform(values.astype(float))[known], label[known])
        expected = plain.predict_proba(scaler.transform(others.astype(float)))[:, 1]
        np.testing.assert_allclose(scores[:, output], expected, atol=1e-5)


@pytest.mark.parametrize("rows", [60, 400])
def test_classes_get_the_probabilities_of_multinomial_regression_and_absent_ones_zero(rows):
    values, labels = correlated(rows)
    classes = (labels[:, :1] + labels[:, 1:]) + 1
    others = correlated(30, seed=1)[0]
    scores = head((values, classes), ProbeTask("multiclass", 5)).scores(others)
    scaler = StandardScaler().fit(values.astype(float))
    plain = LogisticRegression(C=0.01, tol=1e-10, max_iter=50_000)
    plain.fit(scaler.transform(values.astype(float)), classes[:, 0])
    np.testing.assert_allclose(scores[:, 1:4], plain.predict_proba(scaler.transform(others.astype(float))), atol=1e-5)
    assert (scores[:, [0, 4]] == 0).all()


@pytest.mark.parametrize("rows", [60, 400])
def test_real_numbers_with_gaps_get_ridge_regression_on_standardised_labels(rows):
    values, labels = correlated(rows)
    numbers = 40 * labels + 7 + values[:, :2]
    numbers[::3, 1] = np.nan
    others = correlated(30, seed=1)[0]
    scores = head((values, numbers), REGRESSION, 0.003).scores(others)
    scaler = StandardScaler().fit(values.astype(float))
    for output, number in enumerate(numbers.T):
        known = ~np.isnan(number)
        plain = Ridge(alpha=1 / 0.003).fit(scaler.transform(values.astype(float))[known], number[known])
        np.testing.assert_allclose(scores[:, output], plain.predict(scaler.transform(others.astype(float))), rtol=1e-5)


def test_labels_that_cannot_be_fitted_are_constants():
    values, labels = correlated()
    unfit = np.concatenate([labels[:, :1], np.ones((50, 1)), np.full((50, 1), np.nan)], axis=1)
    scores = head((values, unfit)).scores(values)
    np.testing.assert_array_equal(scores[:, 0], head((values, labels[:, :1])).scores(values)[:, 0])
    assert (scores[:, 1] == 1).all()
    assert (scores[:, 2] == 0.5).all()
    assert (head((values, unfit[:, 1:] * 3), REGRESSION).scores(values) == [3, 0]).all()
    assert (head((values, unfit[:, 1:2] * 2), ProbeTask("multiclass", 3)).scores(values) == [0, 0, 1]).all()


def test_validation_rows_choose_the_penalty():
    values, labels = correlated(160)
    grid = (1e-4, 1e-2, 1.0)
    train, valid = (values[:80], labels[:80, :1]), (values[80:], labels[80:, :1])
    areas = [roc_auc_score(valid[1][:, 0], head(train, inverse_penalty=c).scores(valid[0])[:, 0]) for c in grid]
    chosen = choose(train, valid, inverse_penalties=grid)["inverse_penalty"]
    assert areas[grid.index(chosen)] == pytest.approx(max(areas), abs=1e-4)


@pytest.mark.parametrize("target", [BINARY, REGRESSION])
def test_inner_folds_choose_a_strong_penalty_for_noise_and_a_weak_one_for_a_rule(target):
    draws = np.random.default_rng(0)
    values = draws.normal(size=(200, 20))
    rule = values @ np.linspace(-1, 1, 20)[:, None]
    noise = draws.normal(size=(200, 1))
    labels = [(column > 0).astype(float) if target is BINARY else column for column in (rule, noise)]
    chosen = [
        choose((values, label), nothing((values, label)), target, inverse_penalties=(1e-4, 1e-2, 1.0))
        for label in labels
    ]
    assert chosen[0]["inverse_penalty"] == 1.0
    assert chosen[1]["inverse_penalty"] < 1.0


def test_validation_rows_of_one_class_leave_the_choice_to_inner_folds():
    values, labels = correlated(200)
    train = (values, labels[:, :1])
    one_class = (values[:20], np.ones((20, 1)))
    assert choose(train, one_class) == choose(train, nothing(train))


def test_where_nothing_decides_the_middle_of_the_grid_is_taken():
    values = correlated()[0]
    train = (values, np.ones((50, 1)))
    assert choose(train, nothing(train), inverse_penalties=(1e-3, 1e-2, 1e-1)) == {"inverse_penalty": 1e-2}


def test_too_few_iterations_are_told():
    values, labels = correlated(400)
    with pytest.warns(UserWarning, match="no optimum in 100 iterations at C 1e"):
        LinearProbe().fit(
            (values, labels),
            target=BINARY,
            chosen={"inverse_penalty": 1e10},
            seed=0,
            settings=ProbeSettings(max_iterations=100),
        )
