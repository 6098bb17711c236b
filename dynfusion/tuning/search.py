"""What a person asked for: a space, a run, and how to search."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynfusion.run_settings import RunSettings, read_run
from dynfusion.settings import build
from dynfusion.tuning.config import SweepSettings
from dynfusion.tuning.space import Space, read_space


@dataclass(frozen=True)
class Search:
    """A sweep before anything of it is on disk."""

    space: Space
    run: RunSettings
    overrides: tuple[str, ...]
    settings: SweepSettings


OPTIONS = {"seeds": "rerun_seeds"}
"""Settings of a sweep that a command line calls otherwise."""


def tune_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a sweep that a command line gave, of all its arguments by name; `objectives` may be `a,b`."""
    known = {OPTIONS.get(name, name): value for name, value in given.items() if value is not None}
    found = {name: known[name] for name in SweepSettings.model_fields if name in known}
    names = found.get("objectives")
    return found | {"objectives": [name.strip() for name in names.split(",")]} if isinstance(names, str) else found


def read_search(
    space: str | Path, run: str | Path, overrides: Iterable[str] = (), options: Mapping[str, Any] | None = None
) -> Search:
    """A search from its files; `options` are settings of the sweep. Without a name it is called after its space file.

    Raises ValueError naming the first wrong setting.
    """
    overrides = tuple(overrides)
    settings = build(SweepSettings, {"name": Path(space).stem}, options or {})
    return Search(read_space(space), read_run(run, overrides), overrides, settings)
