import re
from dataclasses import dataclass, replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from dynfusion.evaluation.hiding.masks import Shown, show
from dynfusion.evaluation.hiding.patterns import Pattern, subsets
from dynfusion.evaluation.probes.labelled import probe_task
from dynfusion.evaluation.probes.linear import LinearProbe
from dynfusion.evaluation.probes.prior import prior
from dynfusion.evaluation.probes.probe import available_probes
from dynfusion.evaluation.protocol import jobs as jobs_module
from dynfusion.evaluation.protocol.cells import read_choice, read_result, write_choice, write_result
from dynfusion.evaluation.protocol.jobs import Keys, choice_jobs, group_jobs
from dynfusion.evaluation.protocol.plan import Part, parts
from dynfusion.evaluation.representations.features import Contestant, Features, MeanImputed
from dynfusion.evaluation.representations.fused import matched
from dynfusion.evaluation.representations.imputers import Imputers, standardise
from dynfusion.evaluation.representations.table import lines
from dynfusion.evaluation.representations.units import standardised
from dynfusion.evaluation.scores.resampling import interval
from tests.evaluation.synthetic import MODALITIES, LatentModel, inputs, plan, run, settings, task


@pytest.fixture(scope="module")
def model():
    return LatentModel()


@pytest.fixture(scope="module")
def alpha(model):
    return inputs(model, task("alpha"))


@pytest.fixture(scope="module")
def alpha_plan(model):
    return plan(model, task("alpha"))


def one(plan, inputs, representation):
    (part,) = [part for part in plan if part.contestant.name == representation and part.fitting == "transferred"]
    (result,) = run([part], inputs)
    return result


def test_a_quick_plan_has_a_part_for_every_representation(alpha, alpha_plan):
    names = [part.contestant.name for part in alpha_plan]
    assert names == [
        *MODALITIES,
        *("morgan+descriptors", "morgan+selfies", "descriptors+selfies"),
        *("concat-mean", "concat-ridge", "pca-6", "random-6", "late-fusion", "fused"),
    ]
    keys = Keys(alpha, settings())
    jobs = choice_jobs(alpha, alpha_plan, keys)
    assert len(jobs) == 11  # late fusion reads with the heads' settings of the single modalities
    groups = [job.group for job in group_jobs(alpha, alpha_plan, {job.choice.key: {} for job in jobs}, keys)]
    assert len({group.name for group in groups}) == len({group.key for group in groups}) == 12
    assert {group.model for group in groups if group.representation == "fused"} == {"latent"}


def test_a_standard_plan_adds_refitted_heads_probes_ways_of_hiding_and_gaps_while_training(model):
    found = plan(model, task("alpha"), extent="standard")
    sections = {(part.section, part.probe, part.fitting) for part in found}
    assert ("folds", "linear", "refitted") in sections
    assert ("hiding", "linear", "transferred") in sections
    assert ("training", "linear", "missing-while-training") in sections
    assert {part.contestant.name for part in found if part.fitting == "refitted"} == {
        *("concat-mean", "concat-ridge", "fused")
    }
    assert {part.contestant.name for part in found if part.complete_rows} == {"concat-mean", "concat-ridge"}
    (hidden,) = [part for part in found if part.section == "hiding" and part.contestant.name == "fused"]
    assert {pattern.protocol for pattern in hidden.patterns} == {
        *("random", "imbalanced", "not-at-random", "corrupted")
    }


def test_a_quick_plan_has_the_ablations_too(model):
    rivals = [Contestant("concat-mean", (MeanImputed(),))]
    removed = [Contestant("fused (none)", (MeanImputed("fused (none)"),), "none")]
    found = parts(MODALITIES, rivals, [], removed, settings=settings(extent="quick"))
    assert [(part.section, part.given, part.contestant.name) for part in found] == [
        ("folds", True, "concat-mean"),
        ("folds", True, "fused (none)"),
    ]


def test_nothing_is_hidden_by_size_where_no_size_is_known(model):
    everyone = [Contestant("concat-mean", (MeanImputed(),))]
    found = parts(MODALITIES, everyone, [], [], settings=settings(extent="standard"), sizes=False)
    protocols = {pattern.protocol for part in found if part.section == "hiding" for pattern in part.patterns}
    assert protocols == {"random", "imbalanced", "corrupted"}


@pytest.mark.parametrize("name", ["ecfp", "late-fusion", "fused", "a+b"])
def test_a_modality_that_is_called_as_another_line_is_refused(name):
    modalities = ("a", "b", name)
    axes = np.zeros((3, 2), np.float32)
    with pytest.raises(ValueError, match=rf"modality {re.escape(name)}: another line of an evaluation is called so"):
        lines(Imputers(modalities, dict.fromkeys(modalities, 1), {}, ""), axes, axes, structures=True)


def test_a_single_modality_is_scored_only_where_it_is_visible(alpha, alpha_plan):
    shown = [pattern.visible for pattern in one(alpha_plan, alpha, "morgan").group.patterns]
    assert shown == [subset for subset in subsets(MODALITIES) if "morgan" in subset]
    assert len(one(alpha_plan, alpha, "fused").group.patterns) == 7


def test_a_molecule_that_shows_nothing_gets_the_training_prior_whatever_the_representation(alpha, alpha_plan):
    data = alpha.task
    expected = prior(data.labels[data.rows("train")], probe_task(data))[0]
    blind = ~data.present[data.rows("test")][:, MODALITIES.index("selfies")]
    assert blind.any()
    for representation in ("selfies", "concat-mean", "concat-ridge", "late-fusion", "fused"):
        result = one(alpha_plan, alpha, representation)
        row = [pattern.visible for pattern in result.group.patterns].index(
            ("selfies",) if representation != "selfies" else MODALITIES
        )
        np.testing.assert_array_equal(result.scores[row][blind, 0], expected)
        assert result.unscored[row] == blind.sum()


def test_late_fusion_is_the_mean_of_the_single_heads(alpha, alpha_plan):
    singles = [one(alpha_plan, alpha, name) for name in MODALITIES]
    late, data = one(alpha_plan, alpha, "late-fusion"), alpha.task
    present = data.present[data.rows("test")]
    expected = sum(found.scores[0][:, 0] * present[:, n] for n, found in enumerate(singles)) / present.sum(axis=1)
    some = present.any(axis=1)
    np.testing.assert_allclose(late.scores[0][some, 0], expected[some], rtol=1e-12)


def test_hidden_test_values_change_no_score(alpha, alpha_plan):
    data = alpha.task
    test = data.rows("test")
    poisoned = {**data.values, "morgan": data.values["morgan"].copy()}
    poisoned["morgan"][test] = np.where(data.present[test][:, [0]], 5.0, 0.0)
    changed = replace(alpha, task=replace(data, values=poisoned))
    for representation in ("concat-mean", "concat-ridge", "pca-6", "late-fusion"):
        before, after = one(alpha_plan, alpha, representation), one(alpha_plan, changed, representation)
        for row, pattern in enumerate(before.group.patterns):
            same = np.array_equal(before.scores[row], after.scores[row])
            assert same == ("morgan" not in pattern.visible)


def test_test_labels_change_no_score(alpha, alpha_plan):
    data = alpha.task
    labels = data.labels.copy()
    labels[data.rows("test")] = 1 - labels[data.rows("test")]
    flipped = replace(alpha, task=replace(data, labels=labels))
    before, after = one(alpha_plan, alpha, "concat-mean"), one(alpha_plan, flipped, "concat-mean")
    np.testing.assert_array_equal(before.scores, after.scores)
    np.testing.assert_allclose(before.resampled["roc_auc"], 1 - after.resampled["roc_auc"], atol=1e-12)


def test_a_hidden_modality_at_the_pool_mean_is_what_mean_imputation_sees(model):
    data = task("alpha")
    mean = np.tile(model.statistics()["morgan"][0], (len(data.ids), 1))
    np.testing.assert_allclose(standardise(mean, model.statistics()["morgan"]), 0, atol=1e-6)
    visible = data.present & np.array([False, True, True])
    shown = MeanImputed().features(standardised(data, model.statistics()), Shown(np.arange(len(data.ids)), visible))
    assert (shown.values[:, : data.values["morgan"].shape[1]] == 0).all()


def test_a_metric_is_that_of_the_scores(model):
    beta = task("beta", kind="multitask", seed=8)
    found = one(plan(model, beta), inputs(model, beta), "fused")
    labels, scores = beta.labels[beta.rows("test")], found.scores[0]
    known = ~np.isnan(labels)
    expected = np.mean([roc_auc_score(labels[known[:, c], c], scores[known[:, c], c]) for c in range(2)])
    assert found.resampled["roc_auc"][0, 0] == pytest.approx(expected)
    assert found.resampled["roc_auc"].shape == (7, 1001)


def test_fused_beats_mean_imputation_when_the_model_is_right(alpha, alpha_plan):
    means = {name: one(alpha_plan, alpha, name).resampled["roc_auc"][1:, 0].mean() for name in ("fused", "concat-mean")}
    assert means["fused"] > means["concat-mean"]


def by_hand(part, evaluation, result, visible, *, complete=False):
    """Scores of the result's first pattern by a head that is fitted here on what training rows show."""
    data, (member,) = evaluation.given.of(evaluation.task), part.contestant.members
    train = data.rows("train")
    visible = data.present[train] & visible
    kept = visible.all(axis=1) if complete else np.ones(len(train), dtype=bool)
    found = member.features(data, Shown(train[kept], visible[kept]))
    labelled = (found.values[found.usable], data.labels[train[kept]][found.usable])
    chosen = next(iter(result.chosen.values()))
    head = LinearProbe().fit(labelled, target=probe_task(data), chosen=chosen, seed=0, settings=settings().probe)
    tested = member.features(data, show(result.group.patterns[0], data, data.rows("test")))
    scores = np.tile(prior(data.labels[train], probe_task(data)), (len(tested.values), 1))
    scores[tested.usable] = head.scores(tested.values[tested.usable])
    return scores


def test_a_refitted_head_is_fitted_on_what_it_is_scored_on(model):
    data = task("alpha")
    evaluation, parts = inputs(model, data, extent="standard"), plan(model, data, extent="standard")
    (part,) = [
        part
        for part in parts
        if part.fitting == "refitted" and part.contestant.name == "fused" and part.fit.visible == ("selfies",)
    ]
    (refitted,) = run([part], evaluation, extent="standard")
    (transferred,) = run([p for p in parts if p.section == "folds" and p.contestant.name == "fused"][:1], evaluation)
    row = [pattern.visible for pattern in transferred.group.patterns].index(("selfies",))
    assert refitted.group.patterns == (part.fit,)
    assert not np.array_equal(refitted.scores[0], transferred.scores[row])
    np.testing.assert_array_equal(
        refitted.scores[0], by_hand(part, evaluation, refitted, np.isin(MODALITIES, "selfies"))
    )


@pytest.mark.parametrize("representation", ["late-fusion", "morgan", "morgan+selfies"])
def test_fitted_anew_on_what_is_shown_late_fusion_and_single_modalities_say_the_same(model, representation):
    data = task("alpha")
    full, parts = inputs(model, data, extent="full"), plan(model, data, extent="full")
    own = [p for p in parts if p.section == "folds" and p.contestant.name == representation]
    (transferred,) = run([p for p in own if p.fitting == "transferred"], full, extent="full")
    rows = {pattern.visible: row for row, pattern in enumerate(transferred.group.patterns)}
    refitted = run([p for p in own if p.fitting == "refitted"], full, extent="full")
    assert refitted
    for result in refitted:
        (pattern,) = result.group.patterns
        np.testing.assert_array_equal(result.scores[0], transferred.scores[rows[pattern.visible]])


def test_complete_rows_alone_train_the_concatenation_that_knows_no_gaps(model):
    data = task("alpha")
    parts = [
        p
        for p in plan(model, data, extent="standard")
        if p.section == "training" and p.contestant.name == "concat-mean"
    ]
    loose, strict = run(parts, inputs(model, data, extent="standard"), extent="standard")
    assert strict.group.complete_rows
    assert not loose.group.complete_rows
    assert not np.array_equal(loose.scores, strict.scores)
    evaluation = inputs(model, data, extent="standard")
    shown = show(strict.group.fit, evaluation.task, evaluation.task.rows("train"))
    np.testing.assert_array_equal(strict.scores[0], by_hand(parts[1], evaluation, strict, shown.visible, complete=True))
    np.testing.assert_array_equal(loose.scores[0], by_hand(parts[0], evaluation, loose, shown.visible))
    assert loose.hidden_share[0] == 0
    assert loose.hidden_share[2] == pytest.approx(0.43, abs=0.15)


def test_a_finished_group_is_read_back_whole_and_only_with_its_own_key(alpha, alpha_plan, tmp_path):
    result = one(alpha_plan, alpha, "fused")
    write_result(tmp_path, result)
    again = read_result(tmp_path, result.group)
    assert again is not None
    assert (again.group, again.unscored, again.chosen) == (result.group, result.unscored, result.chosen)
    np.testing.assert_array_equal(again.scores, result.scores)
    for metric, found in result.resampled.items():
        np.testing.assert_array_equal(again.resampled[metric], found)
    assert read_result(tmp_path, replace(result.group, key="other")) is None
    assert read_result(tmp_path, replace(result.group, seed=9)) is None


def test_torn_arrays_count_as_unfinished(alpha, alpha_plan, tmp_path):
    result = one(alpha_plan, alpha, "morgan")
    write_result(tmp_path, result)
    path = tmp_path / f"{result.group.name}.npz"
    path.write_bytes(path.read_bytes()[:-20])
    assert read_result(tmp_path, result.group) is None


def test_a_choice_is_read_back_and_only_with_its_own_key(alpha, alpha_plan, tmp_path):
    choice = choice_jobs(alpha, alpha_plan, Keys(alpha, settings()))[0].choice
    assert read_choice(tmp_path, choice) is None
    write_choice(tmp_path, choice, {"inverse_penalty": 0.01})
    assert read_choice(tmp_path, choice) == {"inverse_penalty": 0.01}
    assert read_choice(tmp_path, replace(choice, probe="knn")) is None


def test_writing_twice_gives_the_same_bytes(alpha, alpha_plan, tmp_path):
    for folder in ("a", "b"):
        write_result(tmp_path / folder, one(alpha_plan, alpha, "concat-ridge"))
    first, second = (sorted((tmp_path / folder).iterdir()) for folder in ("a", "b"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_the_keys_follow_data_settings_and_model(model, alpha, alpha_plan):
    def keys(inputs, parts, **changes):
        how = settings(**changes)
        made = Keys(inputs, how)
        jobs = {job.choice.key: {} for job in choice_jobs(inputs, parts, made)}
        return [job.group.key for job in group_jobs(inputs, parts, jobs, made)]

    before, data = keys(alpha, alpha_plan), alpha.task
    assert keys(alpha, alpha_plan) == before
    louder = replace(alpha, task=replace(data, values={**data.values, "morgan": data.values["morgan"] * 2}))
    assert not set(keys(louder, alpha_plan)) & set(before)
    more = {"statistics": {"resamples": 2000}}
    assert not set(keys(alpha, alpha_plan, **more)) & set(before)
    turned = replace(
        alpha.given,
        split=np.where(
            alpha.given.split == "test", "train", np.where(alpha.given.split == "train", "test", alpha.given.split)
        ),
    )
    assert not set(keys(replace(alpha, given=turned, folds=(turned,)), alpha_plan)) & set(before), (
        "same name, other rows"
    )
    other = plan(LatentModel(rows=800), task("alpha"))
    after = dict(zip([part.contestant.name for part in other], keys(alpha, other), strict=True))
    same = {part.contestant.name for part, key in zip(alpha_plan, before, strict=True) if key in after.values()}
    pairs = ("morgan+descriptors", "morgan+selfies", "descriptors+selfies")
    assert same == {*MODALITIES, *pairs, "concat-mean", "random-6", "late-fusion"}


def test_the_keys_follow_what_was_chosen_and_the_versions(alpha, alpha_plan, monkeypatch):
    def keys(chosen):
        made = Keys(alpha, settings())
        jobs = {job.choice.key: chosen for job in choice_jobs(alpha, alpha_plan, made)}
        return {job.group.key for job in group_jobs(alpha, alpha_plan, jobs, made)}

    before = keys({"inverse_penalty": 0.01})
    assert keys({"inverse_penalty": 0.01}) == before
    assert not keys({"inverse_penalty": 0.1}) & before
    monkeypatch.setattr(jobs_module, "versions", lambda: {"scikit-learn": "another"})
    assert not keys({"inverse_penalty": 0.01}) & before


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


@dataclass(frozen=True)
class Known:
    """A representation whose score is known beforehand."""

    name: str
    values: np.ndarray

    def covers(self, visible):
        return True

    def features(self, task, shown):
        return Features(self.values[shown.rows], np.ones(len(shown.rows), dtype=bool))

    def fingerprint(self):
        return self.name


@pytest.mark.parametrize("kind", ["binary", "multitask", "multiclass"])
@pytest.mark.parametrize("probe", available_probes())
def test_an_oracle_scores_one_and_a_constant_and_a_shuffled_oracle_guess(model, kind, probe):
    data = task("alpha", kind=kind, rows=600)
    truth = np.nan_to_num(data.labels, nan=0.5).astype(np.float32)
    if kind == "multiclass":
        truth = np.eye(3, dtype=np.float32)[data.labels[:, 0].astype(int)]
    shuffled = truth[np.random.default_rng(3).permutation(len(truth))]
    for name, values, expected in (
        ("oracle", truth, 1.0),
        ("constant", np.ones_like(truth), 0.5),
        ("shuffled", shuffled, 0.5),
    ):
        nothing_hidden = Pattern("subset", MODALITIES)
        contestant = Contestant(name, (Known(name, values),))
        part = Part("given", True, contestant, probe, "transferred", nothing_hidden, (nothing_hidden,))
        (result,) = run([part], inputs(model, data))
        low, high = interval(result.resampled["roc_auc"][0], confidence=0.99)
        assert low <= expected <= high
        if name != "shuffled":
            assert result.resampled["roc_auc"][0, 0] == expected


def test_a_modality_that_hardly_any_training_row_shows_says_nothing_and_ends_nothing(model):
    data = task("alpha")
    rare = np.flatnonzero(data.split == "train")[1:]
    present = data.present.copy()
    present[rare, MODALITIES.index("selfies")] = False
    values = {**data.values, "selfies": np.where(present[:, [MODALITIES.index("selfies")]], data.values["selfies"], 0)}
    data = replace(data, present=present, values=values)
    found = {result.group.representation: result for result in run(plan(model, data), inputs(model, data))}
    alone, together = found["selfies"], found["late-fusion"]
    assert set(alone.unscored) == {len(data.rows("test"))}
    assert (alone.resampled["roc_auc"][:, 0] == 0.5).all()
    whole = [pattern.visible for pattern in together.group.patterns].index(MODALITIES)
    shown = data.present[data.rows("test")]
    only_selfies = shown[:, MODALITIES.index("selfies")] & (shown.sum(axis=1) == 1)
    assert together.unscored[whole] == (only_selfies | ~shown.any(axis=1)).sum()
    assert together.resampled["roc_auc"][whole, 0] > 0.6
