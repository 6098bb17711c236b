import numpy as np
import pytest
from sklearn.metrics import r2_score

from dynfusion.evaluation.insight.reconstruction import reconstruction_records
from dynfusion.evaluation.representations.imputers import standardise
from dynfusion.evaluation.scores.resampling import StatisticsSettings
from tests.evaluation.synthetic import MODALITIES, LatentModel, imputers, task


@pytest.fixture(scope="module")
def model():
    return LatentModel()


def records(model, data):
    return reconstruction_records(model, data, imputers(model), settings=StatisticsSettings())


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
