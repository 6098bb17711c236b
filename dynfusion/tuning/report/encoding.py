"""Sampled settings as positions in their ranges, so that one forest can learn from numbers and choices alike."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from dynfusion.tuning.records import Distribution, Trial


@dataclass(frozen=True)
class Encoded:
    """Trials down, settings across; a setting that all trials share is left out."""

    names: tuple[str, ...]
    positions: Float[np.ndarray, "trials settings"]
    """In [0, 1]; where a setting is not in force, that of another trial drawn by chance, so that it says nothing."""
    in_force: Bool[np.ndarray, "trials settings"]


def is_choice(distribution: Distribution) -> bool:
    """Whether its values have no order."""
    return distribution.choices is not None


def on_log_scale(distribution: Distribution) -> bool:
    """Whether equal steps of a position are equal factors of the value."""
    return not is_choice(distribution) and (distribution.log or distribution.kind == "loguniform")


def position(value: Any, distribution: Distribution) -> float:
    """Where a value lies in its range: 0 its low end or first choice, 1 its high end or last choice."""
    if distribution.choices is not None:
        return distribution.choices.index(value) / max(1, len(distribution.choices) - 1)
    low, high = _ends(distribution)
    if on_log_scale(distribution):
        value, low, high = math.log(value), math.log(low), math.log(high)
    return float((value - low) / (high - low)) if high > low else 0.0


def value_at(place: float, distribution: Distribution) -> Any:
    """The value at a position, the opposite of `position`."""
    if distribution.choices is not None:
        return distribution.choices[round(place * max(1, len(distribution.choices) - 1))]
    low, high = _ends(distribution)
    if on_log_scale(distribution):
        return math.exp(math.log(low) + place * (math.log(high) - math.log(low)))
    return low + place * (high - low)


def encode(trials: Sequence[Trial], space: Mapping[str, Distribution], *, seed: int) -> Encoded:
    """Every setting of the space that has two values or more among these trials; `seed` draws the fillings."""
    draws = np.random.default_rng(seed)
    names, columns, masks = [], [], []
    for name, distribution in space.items():
        mask = np.array([name in trial.settings for trial in trials], bool)
        known = np.array([position(t.settings[name], distribution) for t in trials if name in t.settings])
        if len(set(known.tolist())) < 2:
            continue
        column = np.empty(len(trials))
        column[mask] = known
        column[~mask] = draws.choice(known, int((~mask).sum()))
        names.append(name)
        columns.append(column)
        masks.append(mask)
    if not names:
        return Encoded((), np.empty((len(trials), 0)), np.empty((len(trials), 0), bool))
    return Encoded(tuple(names), np.stack(columns, axis=1), np.stack(masks, axis=1))


def _ends(distribution: Distribution) -> tuple[float, float]:
    assert distribution.low is not None
    assert distribution.high is not None
    return float(distribution.low), float(distribution.high)
