"""What a sweep optimises: sums worked by hand, one line that says them, and what cannot be computed."""

import re
from pathlib import Path

import pytest

from dynfusion.evaluation import validation_settings
from dynfusion.evaluation.validation_settings import ValidationSettings
from dynfusion.store.manifest import Manifest
from dynfusion.tuning.objective import (
    METRICS,
    OBJECTIVES,
    check_objectives,
    describe,
    objectives_of,
)
from dynfusion.tuning.records import Objective
from dynfusion.tuning.space import read_space
from tests.datasets import packed

FOUND = {"score": 0.5, "over_ridge": -0.25, "probe": 0.75, "probe_all": 0.875, "probe_one_absent": 0.625}
TASKS = ValidationSettings(tasks={"solubility": "here", "freesolv": "there"})


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return packed(tmp_path_factory.mktemp("data"), rows=100, holdout=0.2).manifest


def test_objectives_are_sums_of_metrics() -> None:
    assert objectives_of(FOUND, list(OBJECTIVES)) == {
        "score": 0.5,
        "all_present": 0.875,
        "one_absent": 0.625,
        "reconstruction": -0.25,
        "probe": 0.75,
    }
    assert objectives_of({"over_ridge": 0.25, "retrieval": 0.9}, ["score"]) == {"score": 0.25}
    assert all(Objective(name).direction == "max" for name in OBJECTIVES), "more is better of each"


def test_every_objective_is_made_of_metrics_that_validation_has() -> None:
    assert set(METRICS) == set(OBJECTIVES)
    assert {metric for parts in METRICS.values() for metric in parts} <= set(validation_settings.METRICS)


@pytest.mark.parametrize(
    ("name", "lacking", "source"),
    [
        ("score", "over_ridge", "held-out rows of two or more modalities.*validation.reference"),
        ("reconstruction", "over_ridge", "dynfusion pack --holdout"),
        ("probe", "probe", "validation.tasks"),
        ("all_present", "probe_all", "validation.tasks"),
        ("one_absent", "probe_one_absent", "validation.tasks.*two or more modalities"),
    ],
)
def test_a_lacking_metric_is_named_with_what_would_bring_it(name: str, lacking: str, source: str) -> None:
    with pytest.raises(ValueError, match=f"^objective {name}: the validation has no {lacking}, .*{source}"):
        objectives_of({metric: 0.5 for metric in FOUND if metric != lacking}, [name])


def test_the_line_says_what_is_meant_on_what() -> None:
    skill = "mean over visible subsets of the reconstruction skill over ridge regression on"
    assert describe(["score"], TASKS.tasks, rows=2048) == (
        f"{skill} 2,048 held-out molecules, plus the probe's mean ROC-AUC on the validation rows of solubility, "
        "freesolv; no test row is read"
    )
    assert describe(["score"], {}) == (
        f"{skill} held-out molecules, without a probe since no validation.tasks are named; no test row is read"
    )
    assert describe(["one_absent", "reconstruction"], ["bbbp"], rows=20) == (
        "one_absent: the probe's mean ROC-AUC with one modality absent on the validation rows of bbbp; "
        f"reconstruction: {skill} 20 held-out molecules; no test row is read"
    )


def test_what_cannot_be_computed_is_said_before_anything_starts(manifest: Manifest) -> None:
    bare = manifest.model_copy(update={"holdout_rows": 0})
    alone = manifest.model_copy(update={"modalities": manifest.modalities[:1]})
    check_objectives(list(OBJECTIVES), TASKS, manifest)
    check_objectives(["score"], ValidationSettings(), manifest)
    check_objectives(["probe", "all_present", "one_absent"], TASKS, bare)
    check_objectives(["probe", "all_present"], TASKS, alone)
    for names, settings, data, sentence in (
        (["score"], TASKS, bare, "^objective score: it needs held-out rows .*; found 0 held-out rows, 3 modalities"),
        (["score"], TASKS, alone, "^objective score: it needs held-out rows of two or more modalities.* 1 modalities"),
        (["probe", "reconstruction"], TASKS, bare, "^objective reconstruction: it needs"),
        (["probe"], ValidationSettings(), manifest, "^objective probe: it needs validation.tasks.* and 0 tasks"),
        (["one_absent"], TASKS, alone, "^objective one_absent: it needs .* of two or more modalities"),
        (["score"], ValidationSettings(every_checkpoints=0), manifest, "^validation.every_checkpoints: found 0"),
    ):
        with pytest.raises(ValueError, match=sentence):
            check_objectives(names, settings, data)


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ([], "objectives: found none, allowed are score, all_present"),
        (["reconstrucion"], "objectives: found 'reconstrucion', did you mean reconstruction?"),
        (["probe", "score", "probe"], "objectives: found probe, score, probe, allowed is each of them once"),
    ],
)
def test_names_that_are_no_objectives_are_refused(names: list[str], sentence: str, manifest: Manifest) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}"):
        check_objectives(names, TASKS, manifest)
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}"):
        describe(names, ["bbbp"])


def test_the_joint_space_is_always_past_its_ramp_at_a_fifth_of_a_run() -> None:
    """Whatever the schedule, so that ASHA's grace period can be short."""
    ramp = read_space(Path(__file__).parents[2] / "tune_spaces" / "joint.toml")["masking.ramp_share"]
    assert ramp.high is not None
    assert ramp.high <= 0.2
    assert ramp.when is None
