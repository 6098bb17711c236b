"""What a sweep searches: dotted setting names with distributions, read from TOML and checked before anything starts.

    ["loss.alignment"]
    loguniform = [0.005, 0.5]

    ["masking.start"]
    uniform = [0.0, 0.3]
    when = { "masking.schedule" = ["linear", "cosine"] }

space file --read_space--> distributions --sample--> settings in force --tree--> one run's settings
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from dynfusion.printable import quoted, short
from dynfusion.run_settings import RunSettings
from dynfusion.settings import build, nearest, read_toml
from dynfusion.tuning.records import Distribution, Kind, Value

Space = Mapping[str, Distribution]
KINDS: tuple[Kind, ...] = ("uniform", "loguniform", "randint", "choice")
KEYS = (*KINDS, "step", "when")
FIXED = ("data", "cluster", "tracking", "evaluation", "validation")
"""Parts of a run that do not change what is learned: they are given with the sweep, not searched."""
CHECKS = "train.checkpoint_every_steps"
"""And when trials are checked, which must be the same for all that are compared."""
CHECKED_SAMPLES, CHECKED_WHOLE = 256, 32
"""How many samples are tried as a plan of steps, and as a whole run, before a sweep begins."""


@runtime_checkable
class Suggester(Protocol):
    """The part of an Optuna trial that draws."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float: ...
    def suggest_int(self, name: str, low: int, high: int, *, step: int) -> int: ...
    def suggest_categorical(self, name: str, choices: Any) -> Any: ...


def read_space(path: str | Path) -> dict[str, Distribution]:
    """The distributions of a space file by setting, those that others depend on before these.

    Raises ValueError naming the file and the setting for anything that is not a distribution, and for conditions that
    name an unsearched setting, a value that it never takes, or each other.
    """
    found = {name: _distribution(f"{path}: {quoted(name)}", given) for name, given in _leaves(read_toml(path))}
    if not found:
        raise ValueError(f"space {path}: it names no setting")
    return _ordered(str(path), found)


def check_space(space: Space, run: RunSettings, *, seed: int = 0) -> None:
    """Every end of every range, every choice, and some samples as the settings of a run.

    Raises ValueError with the sentence of the settings tree for a name or a value that it does not have.
    """
    known = list(_names(run.model_dump()))
    for name, one in space.items():
        if name.partition(".")[0] in FIXED or name == CHECKS:
            raise ValueError(f"space: {name} is not searched, give it with the sweep: {name}=VALUE")
        if name not in known:
            raise ValueError(f"space: {name}: unknown setting, {nearest(name, known)}")
        ends = one.choices or ([int(end) for end in bounds(one)] if one.kind == "randint" else bounds(one))
        for value in ends:
            _allowed(run, {name: value})
    draws = np.random.default_rng(seed)
    for _ in range(CHECKED_SAMPLES):
        _allowed(run, sample(space, draws))


def _allowed(run: RunSettings, settings: Mapping[str, Value]) -> None:
    try:
        tree(run, settings)
    except ValueError as error:
        raise ValueError(f"space: {error}") from None


def tree(run: RunSettings, settings: Mapping[str, Value]) -> RunSettings:
    """A run's settings with some of them changed. Raises ValueError as `build` does."""
    layers: list[dict[str, Any]] = []
    for name, value in settings.items():
        layer: Any = value
        for part in reversed(name.split(".")):
            layer = {part: layer}
        layers.append(layer)
    return build(RunSettings, run.model_dump(mode="json"), *layers)


def sample(space: Space, draws: np.random.Generator) -> dict[str, Value]:
    """One value for every setting that is in force, in the order of the space."""
    found: dict[str, Value] = {}
    for name, one in space.items():
        if in_force(one, found):
            found[name] = _drawn(one, draws)
    return found


def suggest(space: Space, trial: Suggester) -> dict[str, Value]:
    """The same from an Optuna trial, defined by running."""
    found: dict[str, Value] = {}
    for name, one in space.items():
        if not in_force(one, found):
            continue
        if one.choices is not None:
            found[name] = trial.suggest_categorical(name, one.choices)
        elif one.kind == "randint":
            low, high, step = whole_range(one)
            found[name] = trial.suggest_int(name, low, high, step=step)
        else:
            found[name] = trial.suggest_float(name, *bounds(one), log=one.log)
    return found


def whole_range(one: Distribution) -> tuple[int, int, int]:
    """First and last value and step of a `randint`."""
    low, high = map(int, bounds(one))
    step = int(one.step or 1)
    return low, low + (high - low) // step * step, step


def bounds(one: Distribution) -> tuple[float, float]:
    """Both ends of a range."""
    assert one.low is not None, "only a choice has no range"
    assert one.high is not None, "only a choice has no range"
    return float(one.low), float(one.high)


def in_force(one: Distribution, settings: Mapping[str, Value]) -> bool:
    """Whether a setting is searched, given those before it; each condition holds a value or a list of them."""
    return all(settings.get(name) in _listed(wanted) for name, wanted in (one.when or {}).items())


def _drawn(one: Distribution, draws: np.random.Generator) -> Value:
    if one.choices is not None:
        return one.choices[int(draws.integers(len(one.choices)))]
    if one.kind == "randint":
        first, last, step = whole_range(one)
        return first + step * int(draws.integers((last - first) // step + 1))
    low, high = bounds(one)
    if one.log:
        return min(high, max(low, math.exp(draws.uniform(math.log(low), math.log(high)))))
    return float(draws.uniform(low, high))


def _leaves(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by dotted name, whether quoted (`["loss.alignment"]`) or nested (`[loss.alignment]`)."""
    for name, given in table.items():
        if isinstance(given, Mapping) and not set(given) & set(KEYS):
            yield from _leaves(given, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", given


def _distribution(where: str, given: Any) -> Distribution:
    if not isinstance(given, Mapping):
        raise ValueError(f"space {where}: found {short(given)}, allowed is a table with one of {', '.join(KINDS)}")
    wrong = sorted(set(given) - set(KEYS))
    if wrong:
        raise ValueError(f"space {where}: unknown key {short(wrong[0])}, allowed are {', '.join(KEYS)}")
    kinds = [kind for kind in KINDS if kind in given]
    if len(kinds) != 1:
        raise ValueError(f"space {where}: found {' and '.join(kinds) or 'none'} of {', '.join(KINDS)}, allowed is one")
    kind, values = kinds[0], given[kinds[0]]
    when = given.get("when")
    if when is not None and not isinstance(when, dict):
        raise ValueError(f"space {where}: when {short(when)}, allowed is a table of settings and the values it needs")
    if kind == "choice":
        if not isinstance(values, list) or len(values) < 2 or len(set(map(repr, values))) < len(values):
            raise ValueError(f"space {where}: choice {short(values)}, allowed are two or more different values")
        odd = next((value for value in values if not isinstance(value, bool | int | float | str)), None)
        if odd is not None:
            raise ValueError(f"space {where}: choice {short(odd)}, allowed are true, false, numbers and texts")
        return Distribution("choice", choices=tuple(values), when=when)
    _check_range(where, kind, values, given.get("step"))
    low, high = values
    return Distribution(kind, low=low, high=high, step=given.get("step"), log=kind == "loguniform", when=when)


def _check_range(where: str, kind: Kind, values: Any, step: Any) -> None:
    number = (int,) if kind == "randint" else (int, float)
    fits = isinstance(values, list) and len(values) == 2 and all(type(value) in number for value in values)
    if not fits or not all(map(math.isfinite, values)) or values[0] >= values[1]:
        named = "two whole numbers" if kind == "randint" else "two numbers"
        raise ValueError(f"space {where}: {kind} {short(values)}, allowed are {named}, the smaller first")
    if kind == "loguniform" and values[0] <= 0:
        raise ValueError(f"space {where}: loguniform from {values[0]}, allowed is above 0")
    if step is not None and (kind != "randint" or type(step) is not int or not 0 < step <= values[1] - values[0]):
        raise ValueError(f"space {where}: step {short(step)}, allowed is a whole number within the range of a randint")


def _ordered(path: str, found: Mapping[str, Distribution]) -> dict[str, Distribution]:
    """Conditions checked; what others depend on first, else in the file's order."""
    for name, one in found.items():
        for parent, wanted in (one.when or {}).items():
            choices = found[parent].choices if parent in found else None
            if choices is None:
                named = quoted(f"{name}: when names {parent}")
                raise ValueError(f"space {path}: {named}, allowed is a choice of this space")
            never = [value for value in _listed(wanted) if value not in choices]
            if never:
                raise ValueError(
                    f"space {path}: {quoted(name)}: when {quoted(parent)} is {short(never[0])}, which it never is"
                )
    ordered: dict[str, Distribution] = {}
    while len(ordered) < len(found):
        ready = [name for name, one in found.items() if name not in ordered and set(one.when or {}) <= set(ordered)]
        if not ready:
            left = sorted(set(found) - set(ordered))
            raise ValueError(f"space {path}: {quoted(' and '.join(left))} wait for each other by their `when`")
        ordered |= {name: found[name] for name in ready}
    return ordered


def _listed(wanted: Any) -> list[Any]:
    return wanted if isinstance(wanted, list) else [wanted]


def _names(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in values.items():
        yield f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _names(value, f"{prefix}{name}.")
