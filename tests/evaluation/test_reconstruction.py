from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import r2_score

from dynfusion.evaluation.insight.reconstruction import Rivals, reconstruction_records
from dynfusion.evaluation.representations.imputers import (
    Pool,
    collect,
    fit_ridge,
    ridge_plan,
    standardise,
    standardise_present,
)
from dynfusion.evaluation.representations.knn_imputer import choose_neighbours, collect_neighbours
from dynfusion.evaluation.settings import ImputerSettings, InsightSettings, StatisticsSettings
from dynfusion.evaluation.tasks.task import TaskData
from tests.evaluation.synthetic import MODALITIES, LatentModel, rivals, task


@pytest.fixture(scope="module")
def model():
    return LatentModel()


def records(model, data, **changes):
    looked_at = InsightSettings(**{"candidates": 200, **changes})
    return reconstruction_records(model, data, rivals(model), settings=looked_at, statistics=StatisticsSettings())


def test_there_is_a_record_for_every_subset_and_modality_outside_it(model):
    found = [(tuple(record["visible"]), record["target"]) for record in records(model, task())]
    assert len(found) == len(set(found)) == 9
    assert all(target not in visible for visible, target in found)


def test_scores_agree_with_scikit_learn_and_plain_loops(model):
    data = task()
    record = next(r for r in records(model, data) if r["visible"] == ["morgan"] and r["target"] == "selfies")
    test = data.rows("test")
    rows = test[data.present[test, 0] & data.present[test, 2]]
    nothing = np.zeros(len(rows), dtype=bool)
    shown = {"morgan": ~nothing, "descriptors": nothing, "selfies": nothing}
    rebuilt = model.reconstruct({name: data.values[name][rows] for name in MODALITIES}, shown)["selfies"]
    truth, statistics = data.values["selfies"][rows], model.statistics()["selfies"]
    z, guess = standardise(truth, statistics), standardise(rebuilt, statistics)
    assert record["molecules"] == len(rows)
    assert record["skill_mean"] == pytest.approx(1 - ((z - guess) ** 2).mean() / (z**2).mean(), abs=1e-6)
    assert record["r2"] == pytest.approx(r2_score(z, guess, multioutput="variance_weighted"), abs=1e-6)
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(truth, rebuilt, strict=True)]
    assert record["cosine"] == pytest.approx(np.mean(cosines), abs=1e-6)
    assert record["skill_mean_low"] < record["skill_mean"] < record["skill_mean_high"]


class Constant(LatentModel):
    def reconstruct(self, embeddings, present):
        rows = len(next(iter(present.values())))
        return {name: np.tile(self.statistics()[name][0], (rows, 1)).astype(np.float32) for name in MODALITIES}


def test_a_constant_has_no_skill_though_its_raw_cosine_is_high():
    for record in records(Constant(), task()):
        assert record["skill_mean"] == pytest.approx(0, abs=1e-5)
        assert record["r2"] <= 1e-5
        assert abs(record["centred_cosine"]) < 0.3
        assert record["cosine"] > 0.6


def test_the_right_linear_model_is_at_least_level_with_ridge(model):
    assert all(record["skill_ridge"] > -0.05 for record in records(model, task(rows=1200)))


class Clusters:
    """A world of two modalities: `a` names a molecule's cluster, `b` is the cluster's own vector plus noise.

    The model knows the vectors, so its error is the noise and every skill is known.
    """

    modalities, dims, noise = ("a", "b"), {"a": 4, "b": 12}, 0.5

    def __init__(self, corners):
        draw = np.random.default_rng(0)
        self.corners, self.vectors = np.array(corners, float), draw.normal(size=(len(corners), 12))

    def draw(self, rows, seed):
        draw = np.random.default_rng(seed)
        cluster = np.arange(rows) % len(self.corners)
        noisy = self.vectors[cluster] + self.noise * draw.normal(size=(rows, 12))
        near = self.corners[cluster] + 0.01 * draw.normal(size=(rows, 4))
        return {"a": near.astype(np.float32), "b": noisy.astype(np.float32)}

    def statistics(self):
        values = self.draw(20_000, 1)
        return {
            name: (value.mean(axis=0, dtype=float), value.std(axis=0, dtype=float)) for name, value in values.items()
        }

    def encode(self, embeddings, present=None):
        return embeddings["a"]

    def reconstruct(self, embeddings, present=None):
        cluster = (embeddings["a"] @ self.corners.T).argmax(axis=1)
        return {"a": embeddings["a"], "b": self.vectors[cluster].astype(np.float32)}

    def rivals(self, how):
        present, held = np.ones((20_000, 2), dtype=bool), np.arange(20_000) >= 18_000
        values = standardise_present(self.draw(20_000, 1), present, modalities=("a", "b"), statistics=self.statistics())
        pool = Pool(("a", "b"), values, present, held, ~held)
        ridges = [fit_ridge(pool, *pair, settings=how) for pair in ridge_plan(("a", "b"))]
        nearest = collect_neighbours(pool, choose_neighbours(pool, settings=how), settings=how)
        return Rivals(collect(pool, ridges, settings=how), nearest)

    def task(self, rows=2000):
        return TaskData(
            name="clusters",
            ids=np.arange(rows).astype(str),
            smiles=np.full(rows, ""),
            modalities=("a", "b"),
            values=self.draw(rows, 2),
            present=np.ones((rows, 2), dtype=bool),
            labels=np.zeros((rows, 1)),
            label_names=("none",),
            kind="binary",
            split=np.full(rows, "test"),
        )


@pytest.mark.parametrize("k", [1, 4])
def test_skills_over_mean_ridge_and_neighbours_are_those_worked_out_by_hand(k):
    """Four clusters at the ends of four axes: ridge finds their vectors too, k neighbours err by noise / k more."""
    world = Clusters(np.eye(4))
    how = ImputerSettings(alphas=(1e-6,), neighbours=(k,))
    settings = InsightSettings(candidates=4000)
    [record] = [
        r
        for r in reconstruction_records(
            world, world.task(), world.rivals(how), settings=settings, statistics=StatisticsSettings()
        )
        if r["target"] == "b"
    ]
    spread = world.statistics()["b"][1] ** 2
    noise = world.noise**2 / spread
    assert record["skill_mean"] == pytest.approx(1 - noise.sum() / 12, abs=0.02)
    assert record["skill_ridge"] == pytest.approx(0, abs=0.005)
    assert record["skill_knn"] == pytest.approx(1 - 1 / (1 + 1 / k), abs=0.05)
    assert record["skill_knn_low"] < record["skill_knn"] < record["skill_knn_high"]
    assert record["r2_median"] == pytest.approx(np.median(1 - noise), abs=0.02)
    assert (record["candidates"], record["molecules"], record["test_molecules"]) == (4000, 2000, 2000)
    assert 1 / 4000 < record["recall_1"] < record["mrr"] < record["recall_10"] < 0.2
    assert record["mrr_over_ridge"] == pytest.approx(record["mrr"] - record["ridge_mrr"], abs=1e-12)


def test_neighbours_find_what_no_linear_map_does():
    """Exclusive or: the mean of b given one coordinate of a is the same everywhere."""
    world = Clusters([[1, 1, 0, 0], [1, -1, 0, 0], [-1, 1, 0, 0], [-1, -1, 0, 0]])
    world.vectors = np.outer([1, -1, -1, 1], np.linspace(1, 2, 12))
    how = ImputerSettings(neighbours=(1, 10, 50))
    found = world.rivals(how)
    assert found.neighbours.choices[("a",), "b"].k == 50
    [record] = [
        r
        for r in reconstruction_records(
            world, world.task(), found, settings=InsightSettings(), statistics=StatisticsSettings()
        )
        if r["target"] == "b"
    ]
    assert record["skill_ridge"] == pytest.approx(record["skill_mean"], abs=0.01)
    assert record["skill_mean"] > 0.8
    assert record["skill_knn"] == pytest.approx(1 / 51, abs=0.01)


class Oracle(LatentModel):
    """Knows the answer, since it remembers every molecule by its first number of any modality."""

    def __init__(self, data):
        super().__init__()
        self.data = data

    def reconstruct(self, embeddings, present):
        found = np.zeros(len(next(iter(present.values()))), dtype=int)
        for name in MODALITIES:
            key = {value: row for row, value in enumerate(self.data.values[name][:, 0].tolist())}
            rows = [key[value] for value in embeddings[name][present[name], 0].tolist()]
            found[present[name]] = rows
        return {name: self.data.values[name][found] for name in MODALITIES}


def test_an_oracle_is_perfect_and_a_constant_finds_nothing():
    data = task(rows=600)
    for record in records(Oracle(data), data):
        values = [
            record[name] for name in ("skill_mean", "skill_ridge", "skill_knn", "r2", "r2_median", "recall_1", "mrr")
        ]
        np.testing.assert_allclose(values, 1, atol=1e-9)
        assert record["candidates"] == 200
    for record in records(Constant(), data):
        assert record["recall_1"] * record["molecules"] <= 1 + 1e-9  # every guess is nearest to the same candidate
        assert record["recall_10"] * record["molecules"] <= 10 + 1e-9


def test_retrieval_agrees_with_sorting_molecule_by_molecule(model):
    data = task()
    record = next(
        r for r in records(model, data, candidates=2) if r["visible"] == ["morgan"] and r["target"] == "selfies"
    )
    test = data.rows("test")
    candidates = test[data.present[test, 2]]
    rows = test[data.present[test, 0] & data.present[test, 2]]
    nothing = np.zeros(len(rows), dtype=bool)
    shown = {"morgan": ~nothing, "descriptors": nothing, "selfies": nothing}
    rebuilt = model.reconstruct({name: data.values[name][rows] for name in MODALITIES}, shown)["selfies"]
    statistics = model.statistics()["selfies"]
    places = []
    for row, guess in zip(rows, standardise(rebuilt, statistics), strict=True):
        truths = standardise(data.values["selfies"][candidates], statistics)
        cosines = truths @ guess / np.linalg.norm(truths, axis=1) / np.linalg.norm(guess)
        places.append(np.argsort(-cosines).tolist().index(candidates.tolist().index(row)))
    assert record["candidates"] == len(candidates)
    assert record["recall_1"] == pytest.approx(np.mean(np.array(places) < 1))
    assert record["recall_10"] == pytest.approx(np.mean(np.array(places) < 10))
    assert record["mrr"] == pytest.approx(np.mean(1 / (1 + np.array(places))))
    assert record["mrr_low"] < record["mrr"] < record["mrr_high"]


def test_at_most_so_many_molecules_are_scored_and_hidden_values_are_not_looked_at(model):
    data = task(rows=600)
    found = records(model, data, reconstruction_rows=50)
    assert max(record["molecules"] for record in found) <= 50
    assert {record["test_molecules"] for record in found} == {180}
    absent = {
        name: np.where(data.present[:, [i]], v, np.float32("nan")) for i, (name, v) in enumerate(data.values.items())
    }
    assert records(model, replace(data, values=absent), reconstruction_rows=50) == found
