"""Alignment against loops over single molecules of a real fusion network, and where the answer is known."""

from itertools import combinations, permutations

import numpy as np
import pytest
import torch

from dynfusion.evaluation.insight.alignment import alignment_records, cross_modal_records, uniformity
from dynfusion.evaluation.insight.molecules import InsightModel, evenly_spaced
from dynfusion.evaluation.settings import InsightSettings
from dynfusion.fusion.api import FusionModel
from tests.evaluation.synthetic import MODALITIES, network, task

HOW = InsightSettings()


@pytest.fixture(scope="module")
def model():
    return FusionModel(network(0))


def alone(model, data, row, names):
    there = [name for name in names if data.present[row, MODALITIES.index(name)]]
    return {name: data.values[name][[row]] for name in there} or None


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def test_records_agree_with_loops_over_single_molecules(model):
    assert isinstance(model, InsightModel)
    data = task(rows=200)
    test = [row for row in data.rows("test") if data.present[row].any()]
    everything = [model.encode(alone(model, data, row, MODALITIES))[0] for row in test]
    projections = {
        name: {row: model.projections(shown)[name][0] for row in test if (shown := alone(model, data, row, [name]))}
        for name in MODALITIES
    }
    found = {tuple(record["visible"]): record for record in alignment_records(model, data, settings=HOW)}
    assert len(found) == 7
    for names in [chosen for size in (1, 2, 3) for chosen in combinations(MODALITIES, size)]:
        fused, places = {}, []
        for position, row in enumerate(test):
            shown = alone(model, data, row, names)
            if shown is None:
                continue
            fused[row] = model.encode(shown)[0]
            hidden = any(data.present[row, i] for i, name in enumerate(MODALITIES) if name not in names)
            if hidden or len(names) == 3:
                cosines = [cosine(fused[row], other) for other in everything]
                places.append(np.argsort(-np.array(cosines)).tolist().index(position))
        record = found[names]
        assert (record["molecules"], record["queries"], record["candidates"]) == (len(fused), len(places), len(test))
        assert record["recall_1"] == pytest.approx(np.mean([place < 1 for place in places]))
        assert record["recall_10"] == pytest.approx(np.mean([place < 10 for place in places]))
        for name in MODALITIES:
            both = [row for row in fused if row in projections[name]]
            own = [cosine(fused[row], projections[name][row]) for row in both]
            others = [cosine(fused[a], projections[name][b]) for a, b in permutations(both, 2)]
            assert record["cosine"][name] == pytest.approx(np.mean(own), abs=1e-5)
            assert record["cosine_others"][name] == pytest.approx(np.mean(others), abs=1e-5)
        apart = [np.exp(-2 * (2 - 2 * cosine(fused[a], fused[b]))) for a, b in combinations(fused, 2)]
        assert record["uniformity"] == pytest.approx(np.log(np.mean(apart)), abs=1e-5)


def test_cross_modal_retrieval_agrees_with_loops(model):
    data = task(rows=300)
    test = data.rows("test")
    found = cross_modal_records(model, data, settings=HOW)
    assert {(record["query"], record["answer"]) for record in found} == set(permutations(MODALITIES, 2))
    for record in found:
        columns = [MODALITIES.index(record[end]) for end in ("query", "answer")]
        both = test[data.present[test][:, columns].all(axis=1)]
        ends = [
            [model.projections({record[end]: data.values[record[end]][[row]]})[record[end]][0] for row in both]
            for end in ("query", "answer")
        ]
        hits = [int(np.argmax([cosine(a, b) for b in ends[1]])) == row for row, a in enumerate(ends[0])]
        assert record["candidates"] == record["queries"] == len(both)
        assert record["recall_1"] == pytest.approx(np.mean(hits))


class Collapsed(FusionModel):
    """Every molecule in one place."""

    def encode(self, embeddings, present=None):
        return np.ones_like(super().encode(embeddings, present))

    def projections(self, embeddings, present=None):
        return {name: np.ones_like(value) for name, value in super().projections(embeddings, present).items()}


def test_a_collapsed_model_has_perfect_cosine_and_finds_nothing(model):
    data = task(rows=400)
    for record in alignment_records(Collapsed(model.network), data, settings=HOW):
        assert record["recall_1"] == pytest.approx(1 / record["candidates"])
        assert record["uniformity"] == pytest.approx(0, abs=1e-6)
        np.testing.assert_allclose(list(record["cosine"].values()), 1)
        np.testing.assert_allclose(list(record["cosine_others"].values()), 1)
    for record in cross_modal_records(Collapsed(model.network), data, settings=HOW):
        assert record["recall_10"] == pytest.approx(10 / record["candidates"])


def test_uniformity_on_the_sphere_and_on_a_hand_worked_pair():
    """In three dimensions the mean of exp(4 cos) over the sphere is sinh(4) / 4."""
    points = np.random.default_rng(0).normal(size=(4000, 3)).astype(np.float32)
    assert uniformity(points) == pytest.approx(np.log(np.exp(-4) * np.sinh(4) / 4), abs=0.01)
    assert uniformity(np.array([[1.0, 0.0], [0.0, 5.0]])) == pytest.approx(-4)
    assert uniformity(np.array([[1.0, 0.0], [-2.0, 0.0]])) == pytest.approx(-8)
    assert uniformity(np.full((3000, 5), 0.7, np.float32)) == pytest.approx(0, abs=1e-5)
    assert np.isnan(uniformity(points[:1]))


def test_records_are_the_same_floats_on_any_number_of_threads(model):
    data, before, found = task(rows=300), torch.get_num_threads(), []
    for threads in (1, 4):
        torch.set_num_threads(threads)
        found.append([ask(model, data, settings=HOW) for ask in (alignment_records, cross_modal_records)])
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    assert repr(found[0]) == repr(found[1])


def test_candidates_are_limited_and_evenly_spaced(model):
    data = task(rows=600)
    assert {
        record["candidates"] for record in alignment_records(model, data, settings=InsightSettings(candidates=40))
    } == {40}
    np.testing.assert_array_equal(evenly_spaced(101, 5), [0, 25, 50, 75, 100])
    np.testing.assert_array_equal(evenly_spaced(3, 5), [0, 1, 2])
    assert len(evenly_spaced(41_127, 10_000)) == 10_000
