import numpy as np
import pytest

from dynfusion.evaluation.insight.collapse import collapse_records, entropies, spectrum
from dynfusion.evaluation.settings import InsightSettings
from dynfusion.fusion.api import FusionModel
from tests.evaluation.synthetic import MODALITIES, network, task

ALL = np.ones((4, 2), dtype=bool)


@pytest.mark.parametrize(
    ("attention", "sample", "marginal"),
    [
        ([[1, 0], [0, 1], [1, 0], [0, 1]], 0, 1),
        ([[0.5, 0.5]] * 4, 1, 1),
        ([[1, 0]] * 4, 0, 0),
        ([[0.75, 0.25], [0.25, 0.75]] * 2, 0.8112781245, 1),
    ],
    ids=["choosing", "averaging", "collapsed", "leaning"],
)
def test_entropies_of_attention_worked_by_hand(attention, sample, marginal):
    found = entropies(np.array(attention, float), ALL)
    assert found["sample_entropy"] == pytest.approx(sample)
    assert found["marginal_entropy"] == pytest.approx(marginal)
    assert found["mutual_information"] == pytest.approx(marginal - sample)


def test_what_is_missing_is_no_choice():
    visible = np.array([[True, True, False], [True, True, False], [False, True, True], [True, False, False]])
    attention = np.array([[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 1, 0], [1, 0, 0]])
    found = entropies(attention, visible)
    assert found["sample_entropy"] == pytest.approx(2 / 3)
    assert found["mutual_information"] == pytest.approx(0)
    assert np.isnan(list(entropies(attention[3:], visible[3:]).values())).all()


def test_directions_used_by_arrays_made_by_hand():
    cross = np.concatenate([np.eye(6), -np.eye(6)])
    assert spectrum(cross) == pytest.approx({"effective_rank": 6, "participation_ratio": 6})
    assert spectrum(cross * [1, 1, 0, 0, 0, 0]) == pytest.approx({"effective_rank": 2, "participation_ratio": 2})
    line = np.outer(np.arange(50), [1, 2, 3]) + 7
    assert spectrum(line.astype(np.float32)) == pytest.approx({"effective_rank": 1, "participation_ratio": 1}, abs=1e-3)
    unequal = cross * [3, 1, 0, 0, 0, 0]
    assert spectrum(unequal)["participation_ratio"] == pytest.approx(100 / 82)
    assert spectrum(unequal)["effective_rank"] == pytest.approx(4 / 3**0.75)
    assert spectrum(np.full((30, 4), 0.1, np.float32)) == {"effective_rank": 0, "participation_ratio": 0}
    few = np.random.default_rng(0).normal(size=(5, 40)).astype(np.float32)
    assert 3.5 < spectrum(few)["effective_rank"] <= 4.001
    assert np.isnan(list(spectrum(few[:0]).values())).all()


def test_records_agree_with_the_model_asked_directly():
    model, data = FusionModel(network(1)), task(rows=300)
    found = {tuple(record["visible"]): record for record in collapse_records(model, data, settings=InsightSettings())}
    assert len(found) == 7
    rows = data.rows("test")
    pair = ("morgan", "selfies")
    seen = data.present[rows][:, [0, 2]]
    both = rows[seen.all(axis=1)]
    attention = model.attention({name: data.values[name][both] for name in pair})
    record = found[pair]
    assert (record["molecules"], record["choices"]) == (seen.any(axis=1).sum(), len(both))
    assert record["attention"]["morgan"] == pytest.approx(attention[:, 0].mean(), abs=1e-6)
    assert np.isnan(record["attention"]["descriptors"])
    entropy = -(attention[:, [0, 2]] * np.log(attention[:, [0, 2]])).sum(axis=1).mean() / np.log(2)
    assert record["sample_entropy"] == pytest.approx(entropy, abs=1e-6)
    assert 0 <= record["mutual_information"] < 1
    assert 1 < record["participation_ratio"] < record["effective_rank"] < 12
    single = found[("morgan",)]
    assert single["choices"] == 0
    assert np.isnan(single["sample_entropy"])
    assert set(single["attention"]) == set(MODALITIES)
