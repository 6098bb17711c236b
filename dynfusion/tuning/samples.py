"""The trials of a sweep by number: what they are called and, at random, what they try."""

import numpy as np

from dynfusion.tuning.records import Value
from dynfusion.tuning.space import Space, sample


def trial_id(number: int) -> str:
    """The name of a trial and its run, sorted as its number."""
    return f"{number:04d}"


def random_sample(space: Space, seed: int, number: int) -> dict[str, Value]:
    """Settings of trial `number`: a function of (space, seed, number) alone, so no trial depends on another's fate."""
    return sample(space, np.random.default_rng([seed, number]))
