import numpy as np
import pytest

from dynfusion.evaluation.insight.retrieval import ranks, row_cosines, unit


def test_embeddings_find_themselves_at_any_length():
    vectors = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    found = ranks(vectors * np.arange(1, 61, dtype=np.float32)[:, None], vectors, own=np.arange(60))
    assert found.summary() == {"recall_1": 1, "recall_10": 1, "mrr": 1, "queries": 60, "candidates": 60}


@pytest.mark.parametrize("number", [7, 50, 1111])
def test_embeddings_that_have_collapsed_score_chance(number):
    same = np.full((number, 13), 0.3, np.float32)
    found = ranks(same, same, own=np.arange(number)).summary()
    assert found["recall_1"] == pytest.approx(1 / number)
    assert found["recall_10"] == pytest.approx(min(10 / number, 1))
    assert found["mrr"] == pytest.approx((1 / np.arange(1, number + 1)).mean())


def test_level_candidates_share_the_hit_in_a_hand_worked_table():
    candidates = np.array([[1, 0], [1, 0], [1, 0], [0, 1], [-1, 0]], np.float32)
    queries = np.array([[2, 0], [0, 3], [1, 0], [0, 0]], np.float32)
    found = ranks(queries, candidates, own=np.array([1, 3, 4, 0]))
    np.testing.assert_array_equal(found.above, [0, 0, 4, 0])
    np.testing.assert_array_equal(found.level, [3, 1, 1, 5])
    np.testing.assert_allclose(found.hits(1), [1 / 3, 1, 0, 1 / 5])
    np.testing.assert_allclose(found.hits(2), [2 / 3, 1, 0, 2 / 5])
    np.testing.assert_allclose(
        found.reciprocal(), [(1 + 1 / 2 + 1 / 3) / 3, 1, 1 / 5, (1 + 1 / 2 + 1 / 3 + 1 / 4 + 1 / 5) / 5]
    )


def test_ranks_agree_with_sorting_one_query_after_the_other():
    draw = np.random.default_rng(1)
    candidates, own = draw.normal(size=(300, 6)).astype(np.float32), draw.integers(0, 300, 2100)
    queries = (candidates[own] + 0.7 * draw.normal(size=(2100, 6))).astype(np.float32)
    found = ranks(queries, candidates, own=own)
    for row in draw.integers(0, 2100, 40):
        cosines = [
            q @ c / np.linalg.norm(q) / np.linalg.norm(c) for q, c in zip([queries[row]] * 300, candidates, strict=True)
        ]
        place = np.argsort(-np.array(cosines), kind="stable").tolist().index(own[row])
        assert found.above[row] == place
        assert found.reciprocal()[row] == pytest.approx(1 / (place + 1))
    assert 0.2 < found.summary()["recall_1"] < found.summary()["recall_10"] < 1


def test_no_queries_say_nothing():
    nothing = ranks(np.zeros((0, 3), np.float32), np.ones((4, 3), np.float32), own=np.zeros(0, np.int64)).summary()
    assert np.isnan([nothing["recall_1"], nothing["recall_10"], nothing["mrr"]]).all()
    assert (nothing["queries"], nothing["candidates"]) == (0, 4)


def test_cosines_of_rows_take_zero_vectors_as_unrelated():
    first, second = np.array([[3.0, 4.0], [0.0, 0.0], [1.0, 0.0]]), np.array([[4.0, 3.0], [1.0, 1.0], [-2.0, 0.0]])
    np.testing.assert_allclose(row_cosines(first, second), [24 / 25, 0, -1])
    np.testing.assert_allclose(unit(first), [[0.6, 0.8], [0, 0], [1, 0]])
