"""`dynfusion config show`: the full tree of a run's settings."""

from collections.abc import Iterable
from pathlib import Path

from dynfusion.run_settings import read_run
from dynfusion.settings import to_toml


def config_show(run: Path, overrides: Iterable[str] = ()) -> None:
    """Print the tree with defaults filled in and the overrides applied, as TOML that `train` reads back."""
    print(to_toml(read_run(run, overrides)), end="")
