import numpy as np
import pytest
import torch

from dynfusion.evaluation.insight.influence import gate_statistics, gini, influence_records
from dynfusion.evaluation.settings import InsightSettings
from dynfusion.fusion.api import FusionModel
from tests.evaluation.synthetic import MODALITIES, network, task

HOW = InsightSettings()


def test_gini_of_arrays_made_by_hand():
    rows = np.array([[1, 1, 1, 1], [0, 0, 0, 5], [0, 0, 0, 0], [1, 2, 3, 4]], np.float32)
    np.testing.assert_allclose(gini(rows), [0, 3 / 4, 0, 1 / 4], atol=1e-12)
    np.testing.assert_allclose(gini(7 * rows), gini(rows), atol=1e-12)


def test_gates_made_by_hand():
    found = gate_statistics(np.array([[0.9, 0.01, 0.5], [0.9, 0.03, 0.7]], np.float32))
    assert found["gate_mean"] == pytest.approx(3.04 / 6)
    assert found["gate_open"] == pytest.approx(3 / 6)
    assert found["gate_closed"] == pytest.approx(2 / 6)
    assert found["gate_deviation"] == pytest.approx((0 + 0.01 + 0.1) / 3)
    assert np.isnan(list(gate_statistics(np.zeros((0, 3), np.float32)).values())).all()


def test_records_agree_with_the_model_asked_molecule_by_molecule():
    model, data = FusionModel(network(2)), task(rows=240)
    rows = [row for row in data.rows("test") if data.present[row].any()]
    for column, record in enumerate(influence_records(model, data, settings=HOW)):
        name = MODALITIES[column]
        there = [row for row in rows if data.present[row, column]]
        gates = np.concatenate([model.gates({name: data.values[name][[row]]})[name] for row in there])
        assert record["modality"] == name
        assert record["molecules"] == len(there)
        assert record["gate_mean"] == pytest.approx(gates.mean(), abs=1e-6)
        assert record["gate_deviation"] == pytest.approx(gates.std(axis=0).mean(), abs=1e-6)
        moved = []
        for row in there:
            shown = {other: data.values[other][[row]] for i, other in enumerate(MODALITIES) if data.present[row, i]}
            if len(shown) == 1:
                continue
            full = model.encode(shown)[0]
            without = model.encode({other: value for other, value in shown.items() if other != name})[0]
            moved.append(1 - full @ without / np.linalg.norm(full) / np.linalg.norm(without))
        assert record["compared"] == len(moved)
        assert record["removed"] == pytest.approx(np.mean(moved), abs=1e-5)
        assert 0 < record["shuffled"] < 2


def test_a_modality_that_the_model_ignores_moves_nothing():
    made = network(2)
    ignored = MODALITIES.index("descriptors")
    with torch.no_grad():
        made.towers[ignored].projection.weight.zero_()
        made.towers[ignored].projection.bias.zero_()
        for score in made.scores:
            score[-1].weight.zero_()
    found = {
        record["modality"]: record for record in influence_records(FusionModel(made), task(rows=300), settings=HOW)
    }
    assert found["descriptors"]["removed"] == pytest.approx(0, abs=1e-6)
    assert found["descriptors"]["shuffled"] == pytest.approx(0, abs=1e-6)
    assert found["morgan"]["removed"] > 0.05
    assert found["morgan"]["shuffled"] > found["morgan"]["removed"]


def test_the_shuffled_embedding_is_always_another_molecules_and_the_same_every_time():
    seen = []

    class Watching(FusionModel):
        def encode(self, embeddings, present=None):
            seen.append(embeddings["morgan"])
            return super().encode(embeddings, present)

    model, data = Watching(network(2)), task(rows=300)
    first = influence_records(model, data, settings=HOW)
    before, _, shuffled = seen[:3]
    own = {value.tobytes() for value in before}
    there = before.any(axis=1)
    assert not (before[there] == shuffled[there]).all(axis=1).any()
    assert {value.tobytes() for value in shuffled} <= own
    assert influence_records(model, data, settings=HOW) == first
    assert influence_records(model, data, settings=InsightSettings(seed=1)) != first
