"""What a sweep refuses before anything starts, what it calls the same sweep, and how its samples are drawn."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dynfusion.edges.optuna_search import draw
from dynfusion.run_settings import RunSettings
from dynfusion.settings import build
from dynfusion.tuning.config import SweepSettings
from dynfusion.tuning.grace import check_grace
from dynfusion.tuning.identity import continued
from dynfusion.tuning.records import Distribution, Objective, Sweep, Trial
from dynfusion.tuning.samples import random_sample, trial_id
from dynfusion.tuning.space import read_space, sample
from tests.tuning.test_book import SPACE, sweep

ROOT = Path(__file__).parents[2]
CONDITIONAL = {
    "masking.schedule": Distribution("choice", choices=("linear", "cosine", "constant")),
    "masking.ramp_share": Distribution("uniform", 0.05, 0.3, when={"masking.schedule": ["linear", "cosine"]}),
}
SUBSETS = {"masking.subset_share": Distribution("uniform", 0.0, 0.5)}


def run(**parts: Any) -> RunSettings:
    return build(RunSettings, {"data": {"uri": "packed"}}, parts)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"scheduler": "pbt"},
            r"setting scheduler: pbt pauses trials and clones them.*allowed are schedulers fifo, asha",
        ),
        ({"scheduler": "PB2"}, r"setting scheduler: PB2 pauses trials and clones them"),
        ({"scheduler": "hyperband"}, r"hyperband pauses trials until others have caught up.*asha never waits"),
        ({"search": "bohb"}, r"setting search: bohb pauses trials"),
        ({"scheduler": "sha"}, r"setting scheduler: found 'sha', allowed is 'fifo', 'asha' or 'median'"),
        (
            {"objectives": ["score", "probe"], "scheduler": "asha"},
            r"scheduler asha with objectives score, probe: it ranks",
        ),
        ({"objectives": ["accuracy"]}, r"objectives: found 'accuracy'"),
        ({"name": "../else"}, r"setting name: found '\.\./else', allowed are letters"),
        ({"samples": 0}, r"setting samples: found 0"),
        ({"grace": 1.0}, r"setting grace: found 1\.0"),
        ({"reduction": 1}, r"setting reduction: found 1"),
    ],
)
def test_what_a_sweep_cannot_be_is_refused_in_a_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        build(SweepSettings, options)


@pytest.mark.parametrize(
    ("space", "masking", "least", "where"),
    [
        (SPACE, {"ramp_share": 0.6}, 0.6, "of the run"),
        (SPACE, {"ramp_share": 0.6, "schedule": "constant"}, 0.6, "of the run"),  # where subsets begin
        (SPACE, {"ramp_share": 0.6, "schedule": "constant", "subset_share": 0.0}, None, ""),
        (CONDITIONAL, {"ramp_share": 0.8}, 0.8, "of the run"),  # with a constant schedule, whose subsets begin there
        (CONDITIONAL, {"ramp_share": 0.8, "subset_share": 0.0}, 0.3, "of the space"),
        ({"masking.ramp_share": Distribution("choice", choices=(0.2, 0.7))}, {}, 0.7, "of the space"),
        (SUBSETS, {"ramp_share": 0.4, "schedule": "constant", "subset_share": 0.0}, 0.4, "of the run"),
    ],
)
def test_no_trial_is_judged_on_its_masking_ramp(space: Any, masking: Any, least: float | None, where: str) -> None:
    base = run(masking=masking)
    for scheduler in ("asha", "median"):
        for grace in (0.05, 0.25, 0.35, 0.65, 0.85):
            settings = build(SweepSettings, {"scheduler": scheduler, "grace": grace})
            if least is None or grace >= least:
                check_grace(settings, space, base)
            else:
                with pytest.raises(
                    ValueError, match=rf"grace: found {grace:g}, allowed with {scheduler} is {least:g}.*{where}"
                ):
                    check_grace(settings, space, base)
    check_grace(build(SweepSettings, {"grace": 0.01}), space, base)


def test_trials_of_different_lengths_are_not_judged_against_each_other() -> None:
    space = {"train.epochs": Distribution("randint", 2, 8)}
    with pytest.raises(ValueError, match=r"space: train\.epochs is searched, allowed with fifo, not with asha"):
        check_grace(build(SweepSettings, {"scheduler": "asha", "grace": 0.9}), space, run())
    check_grace(build(SweepSettings, {}), space, run())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"seed": 4}, "seed was 3 and is now 4"),
        ({"search": "optuna"}, "search was 'random' and is now 'optuna'"),
        ({"scheduler": "asha"}, "scheduler was 'fifo' and is now 'asha'"),
        ({"objectives": (Objective("probe"),)}, r"objectives was \['score'\] and is now \['probe'\]"),
        (
            {"space": {**SPACE, "loss.alignment": Distribution("uniform", 0, 2)}},
            r"it searches loss\.alignment, .*, the space given uniform 0 to 2",
        ),
        (
            {"space": {"loss.alignment": SPACE["loss.alignment"]}},
            r"it searches train\.learning_rate, .*, the space given does not",
        ),
        ({"run": run(train={"epochs": 3}).model_dump(mode="json")}, r"train\.epochs was 10 and is now 3"),
        ({"data": "b"}, "data was 'a' and is now 'b'"),
        ({"tasks": {"bace": "2"}}, r"tasks\.bace was '1' and is now '2'"),
        ({"samples": 39}, "samples: found 39, allowed is 40 or more"),
    ],
)
def test_the_folder_of_another_sweep_is_refused_by_what_differs(change: dict[str, Any], sentence: str) -> None:
    before = replace(sweep(), data="a", tasks={"bace": "1"})
    with pytest.raises(ValueError, match=sentence):
        continued(before, replace(before, **change), begun=40, address="runs/joint")


def test_where_and_how_far_a_sweep_goes_may_change() -> None:
    validation = {"tasks": {"bace": "other/bace"}, "timeout_seconds": 9000.0}
    elsewhere = run(
        cluster={"workers": 1, "storage": "other"},
        tracking={"wandb": "x"},
        data={"cache_dir": "/c"},
        validation=validation,
    )
    now = replace(
        sweep(), run=elsewhere.model_dump(mode="json"), samples=80, top_k=5, rerun_seeds=9, versions={"a": "b"}
    )
    assert continued(sweep(), now, begun=40, address="runs/joint") == now
    continued(sweep(), replace(now, data="a"), begun=40, address="runs/joint")  # of a version that did not keep it


def test_the_best_are_run_with_no_fewer_seeds_than_they_were_before() -> None:
    before = replace(sweep(), rerun_seeds=5)
    for asked, kept in ((3, 5), (5, 5), (8, 8)):
        now = replace(before, rerun_seeds=asked)
        assert continued(before, now, begun=40, address="runs/joint").rerun_seeds == kept


def test_a_sweep_of_an_earlier_version_that_knew_fewer_settings_is_the_same_sweep() -> None:
    def recorded(change: Callable[[dict[str, Any]], object]) -> Sweep:
        tree = run().model_dump(mode="json")
        change(tree)
        return replace(sweep(), run=tree)

    continued(recorded(lambda tree: tree["loss"].pop("visible_weight")), sweep(), begun=40, address="runs/joint")
    gone = recorded(lambda tree: tree["loss"].update(sorcery=0.5))
    with pytest.raises(ValueError, match=r"loss\.sorcery was 0\.5 and is now None"):
        continued(gone, sweep(), begun=40, address="runs/joint")


def test_a_random_sample_follows_from_its_number_alone() -> None:
    backwards = [random_sample(SPACE, 3, number) for number in reversed(range(20))]
    assert backwards[::-1] == [random_sample(SPACE, 3, number) for number in range(20)]
    assert len({str(one) for one in backwards}) == 20
    assert random_sample(SPACE, 4, 0) != random_sample(SPACE, 3, 0)


def known(number: int, settings: dict[str, Any], value: float | None, state: Any = "finished") -> Trial:
    scores = None if value is None else {"score": value}
    return Trial(trial_id(number), state, None, settings, scores, 1, 100, 100, 1.0, 1.0, 1, "runs/x")


def test_optuna_draws_the_same_from_the_same_records_and_better_than_chance() -> None:
    space = read_space(ROOT / "tune_spaces" / "joint.toml")

    def value(settings: dict[str, Any]) -> float:
        return -abs(settings["loss.visible_weight"] - 0.3) - abs(settings["masking.end"] - 0.8)

    trials: list[Trial] = []
    for number in range(40):
        settings = dict(draw(space, (Objective("score"),), 5, number, trials))
        assert settings == draw(space, (Objective("score"),), 5, number, list(trials))
        assert set(settings) == {name for name in settings if name in space}
        state = "failed" if number % 7 == 3 else "stopped" if number % 7 == 5 else "finished"
        trials.append(known(number, settings, None if state == "failed" else value(settings), state))
    mean = [sum(value(t.settings) for t in part) / len(part) for part in (trials[:10], trials[-10:])]
    assert mean[1] > mean[0] + 0.1


def test_optuna_takes_several_objectives_steps_and_trials_under_way() -> None:
    space = {"model.score_hidden": Distribution("randint", 10, 25, step=4), **CONDITIONAL}
    two = (Objective("score"), Objective("probe"))
    trials = []
    for number in range(14):
        settings = dict(draw(space, two, 0, number, trials))
        assert settings["model.score_hidden"] in (10, 14, 18, 22)
        one = known(number, settings, 0.5, "running" if number > 11 else "finished")
        trials.append(replace(one, objectives={"score": 0.1 * number, "probe": -0.1 * number}))
    assert sample(space, np.random.default_rng(0))["model.score_hidden"] in (10, 14, 18, 22)
