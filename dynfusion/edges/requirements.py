"""What dynfusion needs to be installed, from its own metadata: also what the extras of its dependencies ask for."""

from collections.abc import Iterator
from importlib import metadata

from packaging.requirements import Requirement as Parsed

from dynfusion.preflight.observations import Requirement

ALWAYS = ("dynfusion", "ray", "torch", "deepspeed", "numpy", "pyarrow", "pydantic")
"""Whose versions are looked at wherever dynfusion itself runs from a plain folder, without metadata."""


def requirements() -> tuple[Requirement, ...]:
    """Each requirement of dynfusion and of the extras it names, names in lower case; none where nothing is known."""
    try:
        return tuple(dict.fromkeys(_needed("dynfusion", "")))
    except metadata.PackageNotFoundError:
        return ()


def _needed(name: str, extra: str) -> Iterator[Requirement]:
    wanted_by = f"{name}[{extra}]" if extra else name
    for line in metadata.requires(name) or ():
        parsed = Parsed(line)
        of_extra = parsed.marker is not None and "extra" in str(parsed.marker)
        if of_extra != bool(extra) or not (parsed.marker is None or parsed.marker.evaluate({"extra": extra})):
            continue
        yield Requirement(parsed.name.lower(), str(parsed.specifier), wanted_by)
        for inner in sorted(parsed.extras):
            try:
                yield from _needed(parsed.name, inner)
            except metadata.PackageNotFoundError:
                continue  # the package itself is missing, and said to be
