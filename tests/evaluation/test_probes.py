import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.preprocessing import StandardScaler

from dynfusion.evaluation.probes.prior import prior
from dynfusion.evaluation.probes.probe import PROBES, Head, Probe, ProbeTask, available_probes
from dynfusion.evaluation.settings import ProbeSettings

BINARY, REGRESSION = ProbeTask("binary"), ProbeTask("regression")
HERE = available_probes()
CHOSEN = {"linear": {"inverse_penalty": 0.01}, "knn": {"neighbours": 5}, "boosting": {"rounds": 20}, "xgboost": {}}


def quadrants(rows=300, seed=0):
    """Two labels that no line separates (opposite quadrants are alike) and one that a line does."""
    draws = np.random.default_rng(seed)
    values = draws.normal(size=(rows, 3)).astype(np.float32)
    product = values[:, 0] * values[:, 1]
    labels = np.stack([product > 0, product < -0.1, values[:, 2] > 0.3], axis=1).astype(float)
    return values, labels


def head(name, train, target=BINARY, **chosen):
    chosen = {key: float(value) for key, value in (chosen or CHOSEN[name]).items()}
    return PROBES[name].fit(train, target=target, chosen=chosen, seed=0, settings=ProbeSettings())


def shares_of_pairs_in_order(scores, labels):
    positive = labels == 1
    return (scores[positive][:, None] > scores[~positive]).mean()


@pytest.mark.parametrize("name", HERE)
def test_a_probe_is_a_probe_and_its_pickled_head_says_the_same(name):
    probe, (values, labels) = PROBES[name], quadrants()
    assert isinstance(probe, Probe)
    fitted = head(name, (values, labels))
    assert isinstance(fitted, Head)
    copied = pickle.loads(pickle.dumps(fitted))
    assert copied.scores(values[:9]).tobytes() == fitted.scores(values[:9]).tobytes()


@pytest.mark.parametrize("name", [name for name in HERE if name != "linear"])
def test_readers_that_are_not_linear_find_what_the_linear_one_cannot(name):
    train, (others, truth) = quadrants(), quadrants(seed=1)
    scores, linear = head(name, train).scores(others), head("linear", train).scores(others)
    for label in (0, 1):
        assert shares_of_pairs_in_order(linear[:, label], truth[:, label]) < 0.65
        assert shares_of_pairs_in_order(scores[:, label], truth[:, label]) > 0.8


@pytest.mark.parametrize("name", HERE)
def test_labels_with_gaps_are_read_as_if_each_stood_alone(name):
    values, labels = quadrants()
    labels[::3, 0] = np.nan
    labels[1::3, 1] = np.nan
    scores = head(name, (values, labels)).scores(values)
    for output in range(3):
        known = ~np.isnan(labels[:, output])
        # Standardisation is the task's, the same for each of its labels.
        scaled = (values - values.mean(axis=0)) / values.std(axis=0)
        alone = head(name, (scaled[known], labels[known, output : output + 1])).scores(scaled)[:, 0]
        assert np.corrcoef(scores[:, output], alone)[0, 1] > 0.97
        assert ((scores[:, output] >= 0) & (scores[:, output] <= 1)).all()


@pytest.mark.parametrize("name", HERE)
def test_labels_that_cannot_be_fitted_are_constants(name):
    values, labels = quadrants(60)
    unfit = np.concatenate([labels[:, 2:], np.ones((60, 1)), np.full((60, 1), np.nan)], axis=1)
    np.testing.assert_allclose(head(name, (values, unfit)).scores(values)[:, 1:], [[1, 0.5]] * 60)
    np.testing.assert_allclose(head(name, (values, unfit[:, 1:] * 3), REGRESSION).scores(values), [[3, 0]] * 60)


@pytest.mark.parametrize("name", HERE)
def test_classes_that_training_rows_lack_get_probability_zero(name):
    values, labels = quadrants()
    scores = head(name, (values, labels[:, 2:] * 2 + 1), ProbeTask("multiclass", 4)).scores(values)
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-6)
    assert (scores[:, [0, 2]] == 0).all()
    assert shares_of_pairs_in_order(scores[:, 3], labels[:, 2]) > 0.9


@pytest.mark.parametrize("name", HERE)
def test_real_numbers_are_predicted_in_their_own_units(name):
    values, _ = quadrants()
    numbers = 1000 + 50 * values[:, 2:3]
    chosen = {**CHOSEN[name], "inverse_penalty": 10.0} if name == "linear" else CHOSEN[name]
    predicted = head(name, (values, numbers), REGRESSION, **chosen).scores(values)
    assert 1 - ((predicted - numbers) ** 2).sum() / ((numbers - numbers.mean()) ** 2).sum() > 0.7


@pytest.mark.parametrize("neighbours", [1, 4, 1000])
@pytest.mark.parametrize("target", [BINARY, REGRESSION])
def test_nearest_neighbours_are_those_of_scikit_learn(neighbours, target):
    (values, labels), others = quadrants(200), quadrants(50, seed=1)[0]
    labels[::4, 0] = np.nan
    scores = head("knn", (values, labels), target, neighbours=neighbours).scores(others)
    scaler = StandardScaler().fit(values)
    for output, label in enumerate(labels.T):
        known = ~np.isnan(label)
        kind = KNeighborsRegressor if target is REGRESSION else KNeighborsClassifier
        plain = kind(min(neighbours, known.sum()), weights="distance", metric="cosine", algorithm="brute")
        plain.fit(scaler.transform(values[known]).astype(float), label[known])
        unseen = scaler.transform(others).astype(float)
        expected = plain.predict(unseen) if target is REGRESSION else plain.predict_proba(unseen)[:, 1]
        np.testing.assert_allclose(scores[:, output], expected, atol=2e-3)


def test_a_training_row_itself_decides_what_is_said_of_it():
    values, labels = quadrants()
    np.testing.assert_allclose(head("knn", (values, labels), neighbours=5).scores(values), labels, atol=0.05)


def test_validation_rows_choose_k_and_the_number_of_trees():
    (values, labels), (others, truth) = quadrants(), quadrants(seed=1)
    train, valid = (values, labels[:, :1]), (others, truth[:, :1])
    settings = ProbeSettings(neighbours=(1, 9, 200), rounds=(1, 30))
    for name, grid in {"knn": settings.neighbours, "boosting": settings.rounds}.items():
        chosen = PROBES[name].choose(train, valid, target=BINARY, seed=0, settings=settings)
        ((hyper_parameter, best),) = chosen.items()
        shares = [
            shares_of_pairs_in_order(head(name, train, **{hyper_parameter: entry}).scores(others)[:, 0], truth[:, 0])
            for entry in grid
        ]
        assert best == grid[int(np.argmax(shares))]


@pytest.mark.parametrize("name", HERE)
def test_inner_folds_choose_where_no_validation_row_is_labelled(name):
    values, labels = quadrants()
    train, unlabelled = (values, labels), (values[:5], np.full((5, 3), np.nan))
    settings = ProbeSettings(rounds=(1, 10))
    chosen = PROBES[name].choose(train, unlabelled, target=BINARY, seed=0, settings=settings)
    assert chosen == PROBES[name].choose(train, (values[:0], labels[:0]), target=BINARY, seed=0, settings=settings)
    PROBES[name].fit(train, target=BINARY, chosen=chosen, seed=0, settings=settings)


SCRIPT = """
import hashlib, pickle, sys
from tests.evaluation.test_probes import *
digest = hashlib.sha256()
draws = np.random.default_rng(3)
for rows, dim in ((500, 150), (100, 150)):
    values = draws.normal(size=(rows, dim)).astype(np.float32)
    labels = (values[:, :3] + draws.normal(size=(rows, 3)) > 0.5).astype(float)
    labels[::5, 1] = np.nan
    train, none = (values, labels), (values[:0], labels[:0])
    settings = ProbeSettings(rounds=(1, 3), inverse_penalties=(1e-3, 1e-2))
    for target in (BINARY, REGRESSION):
        for name in HERE:
            chosen = PROBES[name].choose(train, none, target=target, seed=0, settings=settings)
            fitted = PROBES[name].fit(train, target=target, chosen=chosen, seed=0, settings=settings)
            digest.update(repr(chosen).encode() + fitted.scores(values).tobytes())
print(digest.hexdigest())
"""


def test_the_same_bytes_come_out_on_one_thread_and_on_two():
    said = []
    for threads in ("1", "2"):
        number = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), threads)
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], env={**os.environ, **number}, capture_output=True, text=True, check=True
        )
        said.append(done.stdout)
    assert said[0] == said[1]
    assert len(said[0].strip()) == 64


@pytest.mark.skipif("xgboost" in HERE, reason="the extra xgboost is installed")
def test_without_its_extra_xgboost_says_what_to_install():
    with pytest.raises(ValueError, match=r"pip install 'dynfusion\[xgboost\]'"):
        head("xgboost", quadrants())


def test_xgboost_is_the_library_with_its_defaults():
    xgboost = pytest.importorskip("xgboost", reason="the extra xgboost is not installed")
    values, labels = quadrants()
    plain = xgboost.XGBClassifier(n_jobs=1, random_state=0).fit(values, labels[:, 0])
    scores = head("xgboost", (values, labels[:, :1])).scores(values)
    np.testing.assert_array_equal(scores[:, 0], plain.predict_proba(values)[:, 1])


def test_the_prior_is_the_share_of_each_class_and_the_mean_of_each_number_among_known_labels():
    gaps = np.array([[1, 0, np.nan], [0, np.nan, np.nan], [1, 1.0, np.nan], [1, 1, np.nan]])
    np.testing.assert_array_equal(prior(gaps, BINARY), [0.75, 2 / 3, 0.5])
    np.testing.assert_array_equal(prior(gaps, REGRESSION), [0.75, 2 / 3, 0])
    np.testing.assert_array_equal(
        prior(np.array([[0.0], [2], [2], [1]]), ProbeTask("multiclass", 3)), [0.25, 0.25, 0.5]
    )


@pytest.mark.parametrize(
    "wrong",
    [{"inverse_penalties": (1.0, 0.1)}, {"neighbours": (0, 1)}, {"rounds": (50, 50)}, {"inverse_penalties": ()}],
)
def test_a_grid_that_is_empty_out_of_order_or_not_positive_is_refused(wrong):
    with pytest.raises(ValueError, match=r"ascending|at least 1 item"):
        ProbeSettings(**wrong)
