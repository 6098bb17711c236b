"""What a sweep may search, and what is refused before it starts."""

from pathlib import Path

import numpy as np
import pytest

from dynfusion.run_settings import RunSettings
from dynfusion.tuning.records import Distribution
from dynfusion.tuning.space import check_space, read_space, sample, tree

SPACES = sorted((Path(__file__).parents[2] / "tune_spaces").glob("*.toml"))
RUN = RunSettings.model_validate({"data": {"uri": "packed"}})


def space(folder: Path, text: str) -> dict[str, Distribution]:
    (folder / "space.toml").write_text(text)
    return read_space(folder / "space.toml")


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_a_thousand_samples_of_every_space_are_runs(path: Path) -> None:
    found = read_space(path)
    check_space(found, RUN)
    draws = np.random.default_rng(1)
    drawn = [sample(found, draws) for _ in range(1000)]
    trees = [tree(RUN, settings) for settings in drawn]
    assert len({str(settings) for settings in drawn}) > 200
    for name, one in found.items():
        part, leaf = name.split(".")
        values = {settings[name] for settings in drawn if name in settings}
        assert {
            getattr(getattr(made, part), leaf) for made, settings in zip(trees, drawn, strict=True) if name in settings
        } == values
        if one.choices is not None:
            assert values == set(one.choices)
        else:
            assert one.low <= min(values) < max(values) <= one.high


def test_the_four_spaces_of_the_project_are_there() -> None:
    assert [path.stem for path in SPACES] == ["architecture", "joint", "loss_weights", "masking_schedules"]


def test_draws_are_repeated_by_their_seed_and_follow_their_distribution(tmp_path: Path) -> None:
    found = space(
        tmp_path, '["loss.alignment"]\nloguniform = [0.001, 1.0]\n["train.epochs"]\nrandint = [2, 12]\nstep = 5\n'
    )
    first, second = (
        [sample(found, draws) for _ in range(400)] for draws in (np.random.default_rng(7) for _ in range(2))
    )
    assert first == second
    logs = np.log10([settings["loss.alignment"] for settings in first])
    assert abs(logs.mean() + 1.5) < 0.15, "even in the logarithm"
    assert {settings["train.epochs"] for settings in first} == {2, 7, 12}


def test_a_setting_waits_for_its_condition(tmp_path: Path) -> None:
    text = '["masking.start"]\nuniform = [0.0, 0.3]\nwhen = { "masking.schedule" = ["linear", "step"] }\n'
    found = space(tmp_path, text + '["masking.schedule"]\nchoice = ["linear", "step", "constant"]\n')
    assert list(found) == ["masking.schedule", "masking.start"]
    for settings in (sample(found, np.random.default_rng(seed)) for seed in range(60)):
        assert ("masking.start" in settings) == (settings["masking.schedule"] != "constant")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "names no setting"),
        ("[loss]\nalignment = 0.3\n", r"loss\.alignment: found 0\.3, allowed is a table with one of uniform"),
        ('["loss.alignment"]\nuniform = [0, 1]\nchoice = [0, 1]\n', "found uniform and choice of"),
        ('["loss.alignment"]\nnormal = [0, 1]\n', r"loss\.alignment\.normal: found \[0, 1\]"),
        ('["loss.alignment"]\nuniform = [0, 1]\nlog = true\n', "unknown key 'log'"),
        ('["engine.deepspeed"]\nchoice = [{}, {a = 1}]\n', r"choice \{\}, allowed are true, false, numbers and texts"),
        ('["loss.alignment"]\nuniform = [0, 1]\nwhen = "linear"\n', "when 'linear', allowed is a table"),
        ('["loss.alignment"]\nuniform = [1, 0]\n', "allowed are two numbers, the smaller first"),
        ('["loss.alignment"]\nloguniform = [0, 1]\n', "loguniform from 0, allowed is above 0"),
        ('["train.epochs"]\nrandint = [1.5, 3]\n', "two whole numbers"),
        ('["train.epochs"]\nrandint = [1, 3]\nstep = 5\n', "step 5, allowed"),
        ('["train.epochs"]\nchoice = [1]\n', "two or more different values"),
        (
            '["loss.alignment"]\nuniform = [0, 1]\nwhen = { "loss.preset" = "paper" }\n',
            r"when names loss\.preset, allowed is a choice",
        ),
    ],
)
def test_what_is_no_distribution_is_refused_by_name(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        space(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('["loss.alignmnet"]\nuniform = [0, 1]\n', r"unknown setting, did you mean loss\.alignment\?"),
        ('["loss.alignment"]\nuniform = [-1, 1]\n', r"loss\.alignment: found -1"),
        ('["masking.schedule"]\nchoice = ["linear", "square"]\n', r"masking\.schedule: found 'square'"),
        ('["cluster.workers"]\nrandint = [1, 4]\n', r"cluster\.workers is not searched"),
        ('["train.checkpoint_every_steps"]\nrandint = [1, 4]\n', r"train\.checkpoint_every_steps is not searched"),
    ],
)
def test_what_the_settings_refuse_is_refused_before_any_trial(tmp_path: Path, text: str, sentence: str) -> None:
    found = space(tmp_path, text)
    with pytest.raises(ValueError, match=sentence):
        check_space(found, RUN)


def test_conditions_that_cannot_be_met_are_refused(tmp_path: Path) -> None:
    choices = '["masking.schedule"]\nchoice = ["linear", "step"]\n'
    with pytest.raises(ValueError, match="is 'cosine', which it never is"):
        space(tmp_path, choices + '["masking.start"]\nuniform = [0, 0.3]\nwhen = { "masking.schedule" = "cosine" }\n')
    circle = '["loss.preset"]\nchoice = ["paper", "robust"]\nwhen = { "engine.kind" = "torch" }\n'
    with pytest.raises(ValueError, match="wait for each other"):
        space(
            tmp_path, circle + '["engine.kind"]\nchoice = ["torch", "deepspeed"]\nwhen = { "loss.preset" = "paper" }\n'
        )
