"""Several training runs as one line of the report."""

import numpy as np

from dynfusion.evaluation.hiding.patterns import all_subsets
from dynfusion.evaluation.report.seeds import drawn_shares, over_seeds
from tests.evaluation.outcomes import NAMES, group, result

PATTERNS = all_subsets(NAMES)


def test_runs_are_averaged_and_drawn_and_what_has_one_run_stays() -> None:
    levels = [0.6, 0.7, 0.9]
    runs = [
        result(group("fused", PATTERNS, seed=seed), lambda g, *_: np.full(1001, levels[g.seed])) for seed in range(3)
    ]
    rival = result(group("concat-mean", PATTERNS), lambda *_: np.linspace(0.5, 0.6, 1001))
    fused, same = over_seeds([runs[0], rival, runs[1], runs[2]], seed=0)
    assert same is rival
    assert fused.group == runs[0].group
    found = fused.resampled["roc_auc"]
    assert found.shape == (len(PATTERNS), 1001)
    np.testing.assert_allclose(found[:, 0], np.mean(levels))
    assert (found == found[0]).all(), "one draw of runs for every pattern"
    drawn = found[0, 1:]
    assert abs(drawn.mean() - np.mean(levels)) < 0.005
    assert abs(drawn.std() - np.std(levels) / np.sqrt(3)) < 0.005, "the spread of a mean of three draws"


def test_shares_are_those_of_a_draw_with_replacement() -> None:
    shares = drawn_shares(3, 1001, seed=0, model="m")
    np.testing.assert_allclose(shares.sum(axis=0), 1)
    np.testing.assert_array_equal(shares[:, 0], 1 / 3)
    assert set(np.round(shares[:, 1:].ravel() * 3).astype(int)) == {0, 1, 2, 3}
    assert not np.array_equal(shares, drawn_shares(3, 1001, seed=1, model="m"))


def test_runs_of_two_models_are_drawn_independently_and_lines_of_one_model_together() -> None:
    def merged(name: str, model: str, levels: list[float]) -> np.ndarray:
        runs = [group(name, PATTERNS, seed=seed, model=model) for seed in range(3)]
        found = [result(one, lambda g, *_: np.full(1001, levels[g.seed])) for one in runs]
        return over_seeds(found, seed=0)[0].resampled["roc_auc"][0, 1:]

    first, second = merged("fused (x)", "x", [0.81, 0.83, 0.85]), merged("fused (y)", "y", [0.80, 0.82, 0.84])
    assert np.std(first - second) > 1.2 * np.std(first), "paired by their number, the difference would have no spread"
    np.testing.assert_array_equal(first, merged("projection-mean (x)", "x", [0.81, 0.83, 0.85]))


def test_folds_tasks_and_sections_are_not_mixed() -> None:
    results = [
        result(group("fused", PATTERNS, seed=seed, **place), lambda *_: np.zeros(3))
        for place in ({"fold": "a"}, {"fold": "b"}, {"task": "u"}, {"section": "given"}, {"complete_rows": True})
        for seed in range(2)
    ]
    assert [one.group for one in over_seeds(results, seed=0)] == [one.group for one in results[::2]]
