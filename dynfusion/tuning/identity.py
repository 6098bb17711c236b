"""Whether a sweep's folder is that of the sweep that is asked for, and what may change between two commands."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from dynfusion.printable import quoted, short
from dynfusion.run_settings import completed
from dynfusion.tuning.records import Sweep

FREE = ("samples", "top_k", "rerun_seeds", "overrides", "versions", "objective")
"""What a later command may have otherwise: how far it goes, and how that is said."""
UNSEEN = (
    *("cluster", "tracking", "evaluation", "data.uri", "data.cache_dir", "data.cache_bytes", "data.feed"),
    *("validation.tasks", "validation.timeout_seconds"),
)
"""Parts of the run that decide no step. Which data these are, `data` and `tasks` say, wherever they lie."""


def continued(before: Sweep, now: Sweep, *, begun: int, address: str) -> Sweep:
    """The sweep of a folder as a later command asks for it: the best are run with no fewer seeds than they were.

    Raises ValueError naming what differs, or when fewer samples are asked for than there are trials.
    """
    before = replace(before, data=before.data or now.data, tasks=now.tasks if before.tasks is None else before.tasks)
    difference = _difference(_told(replace(before, run=completed(before.run))), _told(now), "")
    if difference:
        raise ValueError(
            f"sweep folder {address}: belongs to another sweep, {difference}; choose another name for the sweep "
            "(--name), or remove the folder"
        )
    if now.samples < begun:
        raise ValueError(f"samples: found {now.samples}, allowed is {begun} or more, as many trials as {address} has")
    return replace(now, rerun_seeds=max(before.rerun_seeds, now.rerun_seeds))


def _told(sweep: Sweep) -> dict[str, Any]:
    told = {name: value for name, value in asdict(sweep).items() if name not in FREE}
    return {**told, "objectives": [objective.name for objective in sweep.objectives]}


def _difference(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str) -> str:
    for name in sorted({*before, *now}):
        if prefix.startswith("run.") and f"{prefix}{name}".removeprefix("run.") in UNSEEN:
            continue
        old, new = _plain(before.get(name)), _plain(now.get(name))
        if isinstance(old, dict) and isinstance(new, dict) and prefix.split(".")[0] in ("", "run"):
            below = _difference(old, new, f"{prefix}{name}.")
            if below:
                return below
        elif old != new and prefix == "space.":
            return _other_distribution(name, old, new)
        elif old != new:
            return f"{quoted(f'{prefix}{name}'.removeprefix('run.'))} was {short(old)} and is now {short(new)}"
    return ""


def _other_distribution(name: str, old: Any, new: Any) -> str:
    if new is None:
        return f"it searches {name}, {_in_words(old)}, the space given does not"
    if old is None:
        return f"the space given searches {name}, {_in_words(new)}, it does not"
    return f"it searches {name}, {_in_words(old)}, the space given {_in_words(new)}"


def _in_words(one: Mapping[str, Any]) -> str:
    when = f" when {one['when']}" if one["when"] else ""
    if one["choices"] is not None:
        return f"{' or '.join(map(str, one['choices']))}{when}"
    step = f" by {one['step']}" if one["step"] else ""
    return f"{one['kind']} {one['low']:g} to {one['high']:g}{step}{when}"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
