from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from dynfusion.evaluation.hiding.patterns import subsets
from dynfusion.evaluation.probes.prior import prior
from dynfusion.evaluation.probes.probe import ProbeTask
from dynfusion.evaluation.protocol.cells import read_result, write_result
from dynfusion.evaluation.protocol.plan import cell_records, plan, require_classes, run_group
from dynfusion.evaluation.representations.features import features, matched, standardised
from dynfusion.evaluation.representations.imputers import standardise
from tests.evaluation.synthetic import MODALITIES, LatentModel, inputs, task


@pytest.fixture(scope="module")
def model():
    return LatentModel()


@pytest.fixture(scope="module")
def evaluation(model):
    return inputs(model, task("alpha"), task("beta", kind="multitask", seed=8))


def run(evaluation, representation, name="alpha"):
    groups = plan(evaluation, models=["latent"])
    group = next(group for group in groups if (group.task, group.representation) == (name, representation))
    return run_group(group, evaluation.of(group), evaluation.settings)


def test_subsets_are_all_but_the_empty_one_and_the_complete_one_comes_first():
    assert subsets(("a", "b", "c")) == [("a", "b", "c"), ("a", "b"), ("a", "c"), ("b", "c"), ("a",), ("b",), ("c",)]


def test_the_plan_has_a_group_for_every_task_and_representation(evaluation):
    groups = plan(evaluation, models=["latent"])
    assert len(groups) == 2 * 6
    assert len({group.name for group in groups}) == len({group.key for group in groups}) == 12
    assert {group.model for group in groups if group.representation == "fused"} == {"latent"}


def test_a_single_modality_is_scored_only_where_it_is_visible(evaluation):
    assert [p.visible for p in run(evaluation, "morgan").patterns] == [s for s in subsets(MODALITIES) if "morgan" in s]
    assert len(run(evaluation, "fused").patterns) == 7


def test_a_molecule_that_shows_nothing_gets_the_training_prior_whatever_the_representation(evaluation):
    data = evaluation.tasks["alpha"]
    expected = prior(data.labels[data.rows("train")], ProbeTask("binary"))[0]
    blind = ~data.present[data.rows("test")][:, MODALITIES.index("selfies")]
    assert blind.any()
    for representation in ("selfies", "concat-mean", "concat-ridge", "fused"):
        result = run(evaluation, representation)
        row = [pattern.visible for pattern in result.patterns].index(
            ("selfies",) if representation != "selfies" else MODALITIES
        )
        np.testing.assert_array_equal(result.scores[row][blind, 0], expected)
        assert result.unscored[row] == blind.sum()


def test_hidden_test_values_change_no_score(evaluation):
    data = evaluation.tasks["alpha"]
    test = data.rows("test")
    poisoned = {**data.values, "morgan": data.values["morgan"].copy()}
    poisoned["morgan"][test] = np.where(data.present[test][:, [0]], 5.0, 0.0)
    changed = replace(evaluation, tasks={**evaluation.tasks, "alpha": replace(data, values=poisoned)})
    for representation in ("concat-mean", "concat-ridge"):
        before, after = run(evaluation, representation), run(changed, representation)
        for row, pattern in enumerate(before.patterns):
            same = np.array_equal(before.scores[row], after.scores[row])
            assert same == ("morgan" not in pattern.visible)


def test_test_labels_change_no_score(evaluation):
    data = evaluation.tasks["alpha"]
    labels = data.labels.copy()
    labels[data.rows("test")] = 1 - labels[data.rows("test")]
    flipped = replace(evaluation, tasks={**evaluation.tasks, "alpha": replace(data, labels=labels)})
    before, after = run(evaluation, "concat-mean"), run(flipped, "concat-mean")
    np.testing.assert_array_equal(before.scores, after.scores)
    np.testing.assert_allclose(before.resampled["roc_auc"], 1 - after.resampled["roc_auc"], atol=1e-12)


def test_a_hidden_modality_at_the_pool_mean_is_what_mean_imputation_sees(model, evaluation):
    data = task("alpha")
    values = {name: data.values[name].copy() for name in MODALITIES}
    hidden = standardise(np.tile(model.statistics()["morgan"][0], (len(data.ids), 1)), model.statistics()["morgan"])
    np.testing.assert_allclose(hidden, 0, atol=1e-6)
    pattern = run(evaluation, "fused").patterns[3]
    assert pattern.visible == ("descriptors", "selfies")
    shown = features(
        "concat-mean",
        standardised(data, model.statistics()),
        data.rows("test"),
        pattern=pattern,
        imputers=None,
        encoded=None,
    )
    assert (shown.values[:, : values["morgan"].shape[1]] == 0).all()


def test_cells_hold_the_metric_of_the_scores(evaluation):
    data = evaluation.tasks["beta"]
    result = run(evaluation, "fused", "beta")
    records = cell_records(result, data, settings=evaluation.settings.statistics)
    assert len(records) == 7 * 2
    labels, scores = data.labels[data.rows("test")], result.scores[0]
    known = ~np.isnan(labels)
    expected = np.mean([roc_auc_score(labels[known[:, c], c], scores[known[:, c], c]) for c in range(2)])
    assert records[0]["metric"] == "roc_auc"
    assert records[0]["value"] == pytest.approx(expected)
    assert records[0]["low"] < records[0]["value"] < records[0]["high"]
    assert records[0]["visible"] == list(MODALITIES)
    assert records[0]["molecules"] == len(data.rows("test"))


def test_fused_beats_mean_imputation_when_the_model_is_right(evaluation):
    means = {name: run(evaluation, name).resampled["roc_auc"][1:, 0].mean() for name in ("fused", "concat-mean")}
    assert means["fused"] > means["concat-mean"]


def test_a_finished_group_is_read_back_whole_and_only_with_its_own_key(evaluation, tmp_path):
    result = run(evaluation, "fused")
    write_result(tmp_path, result)
    again = read_result(tmp_path, result.group)
    assert again is not None
    assert (again.group, again.patterns, again.unscored) == (result.group, result.patterns, result.unscored)
    np.testing.assert_array_equal(again.scores, result.scores)
    for metric, found in result.resampled.items():
        np.testing.assert_array_equal(again.resampled[metric], found)
    assert read_result(tmp_path, replace(result.group, key="other")) is None
    assert read_result(tmp_path, replace(result.group, seed=9)) is None


def test_torn_arrays_count_as_unfinished(evaluation, tmp_path):
    result = run(evaluation, "morgan")
    write_result(tmp_path, result)
    path = tmp_path / f"{result.group.name}.npz"
    path.write_bytes(path.read_bytes()[:-20])
    assert read_result(tmp_path, result.group) is None


def test_writing_twice_gives_the_same_bytes(evaluation, tmp_path):
    for folder in ("a", "b"):
        write_result(tmp_path / folder, run(evaluation, "concat-ridge"))
    first, second = (sorted((tmp_path / folder).iterdir()) for folder in ("a", "b"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_the_key_follows_the_data(model, evaluation):
    data = task("alpha")
    values = {**data.values, "morgan": data.values["morgan"] * 2}
    changed = inputs(model, replace(data, values=values), task("beta", kind="multitask", seed=8))
    before, after = plan(evaluation, models=["latent"]), plan(changed, models=["latent"])
    assert {a.task for a, b in zip(before, after, strict=True) if a.key != b.key} == {"alpha"}


def test_real_numbers_as_labels_are_refused():
    with pytest.raises(ValueError, match="task alpha: its labels are real numbers, allowed are 0 and 1 or classes"):
        require_classes(replace(task("alpha"), kind="regression"))


def test_modalities_are_matched_by_name_and_width(model):
    data = task("alpha")
    order = ("selfies", "morgan", "descriptors")
    columns = [MODALITIES.index(name) for name in order]
    turned = replace(data, modalities=order, present=data.present[:, columns])
    again = matched(turned, model)
    assert again.modalities == MODALITIES
    np.testing.assert_array_equal(again.present, data.present)
    with pytest.raises(ValueError, match="task alpha: modality selfies has 3 dimensions, the model was trained on 16"):
        matched(replace(data, values={**data.values, "selfies": data.values["selfies"][:, :3]}), model)
    with pytest.raises(ValueError, match="task alpha: its modalities are morgan, descriptors, allowed are the model's"):
        matched(replace(data, modalities=MODALITIES[:2], present=data.present[:, :2]), model)
