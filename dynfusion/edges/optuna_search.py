"""Samples by Optuna's tree-structured Parzen estimator: each a function of the seed, its number and the trials so far.

Every draw makes a study of its own from the sweep's records, in memory (15 ms after 200 trials), so there is nothing to
keep between draws or to restore, and a sweep that is continued draws as if it had not been interrupted.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState, create_trial

from dynfusion.tuning.records import Distribution, Objective, Trial, Value
from dynfusion.tuning.space import Space, bounds, suggest, whole_range

_DIRECTIONS: dict[str, Literal["maximize", "minimize"]] = {"max": "maximize", "min": "minimize"}
_STATES = {
    "finished": TrialState.COMPLETE,
    "stopped": TrialState.PRUNED,
    "failed": TrialState.PRUNED,  # without a value the worst there is; TPE forgets what it is told has failed
    "running": TrialState.RUNNING,
    "waiting": TrialState.RUNNING,
}


def draw(
    space: Space, objectives: Sequence[Objective], seed: int, number: int, trials: Sequence[Trial]
) -> dict[str, Value]:
    """Settings of trial `number`, given the trials before it.

    Ten at random first; trials under way count as bad ones, so that neighbours in time differ.
    """
    entropy = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of `group`, for conditional settings
        sampler = optuna.samplers.TPESampler(seed=entropy, multivariate=True, group=True, constant_liar=True)
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        directions: list[Literal["maximize", "minimize"]] = [_DIRECTIONS[one.direction] for one in objectives]
        study = optuna.create_study(directions=directions, sampler=sampler)
        study.add_trials([_known(trial, space, objectives) for trial in trials])
        return suggest(space, study.ask())
    finally:
        optuna.logging.set_verbosity(before)


def _known(trial: Trial, space: Space, objectives: Sequence[Objective]) -> FrozenTrial:
    """A trial as Optuna tells it; one that was stopped ranks behind all finished ones, by how far it came."""
    state, told = _STATES[trial.state], dict[str, Any]()
    if trial.state == "failed" and len(objectives) > 1:  # of several, Optuna knows no pruned ones
        state = TrialState.FAIL
    if state is TrialState.COMPLETE:
        assert trial.objectives is not None
        told["values"] = [trial.objectives[one.name] for one in objectives]
    if trial.state == "stopped" and trial.objectives is not None:
        told["intermediate_values"] = {trial.samples_seen: trial.objectives[objectives[0].name]}
    settings: Mapping[str, Any] = trial.settings
    distributions = {name: _distribution(space[name]) for name in settings}
    return create_trial(state=state, params=dict(settings), distributions=distributions, **told)


def _distribution(one: Distribution) -> BaseDistribution:
    if one.choices is not None:
        return CategoricalDistribution(one.choices)
    if one.kind == "randint":
        low, high, step = whole_range(one)
        return IntDistribution(low, high, step=step)
    return FloatDistribution(*bounds(one), log=one.log)
