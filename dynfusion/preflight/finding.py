"""What a check says, and how the same check of several machines becomes one finding."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from dynfusion.preflight.observations import Machine, Observations

State = Literal["ok", "warning", "failed"]
_ORDER: tuple[State, ...] = ("ok", "warning", "failed")
_NAMED = 4


@dataclass(frozen=True)
class Finding:
    """One line of the table. `found` is what was seen; `cure` what to do about it, empty where all is well."""

    name: str
    state: State
    found: str
    cure: str = ""


Check = Callable[[Observations], Finding | None]
"""A pure function of what was seen; None where there is nothing to judge."""


def worst(states: Sequence[State]) -> State:
    """The gravest of these states; ok when there are none."""
    return max(states, key=_ORDER.index, default="ok")


def on_every_machine(check: Callable[[Machine], Finding | None]) -> Check:
    """The check of each machine in one finding: the gravest state, and the machines that are in it."""

    def combined(seen: Observations) -> Finding | None:
        found = [(machine.name, finding) for machine in seen.machines if (finding := check(machine)) is not None]
        if not found:
            return None
        name, first = found[0][1].name, found[0][1]
        if len(found) == 1:
            return first
        state = worst([finding.state for _, finding in found])
        told = [(machine, finding) for machine, finding in found if finding.state == state]
        if len(told) == len(found) and len({finding.found for _, finding in told}) == 1:
            return Finding(name, state, f"{first.found}, on each of {len(found)} nodes", first.cure)
        cures = dict.fromkeys(finding.cure for _, finding in told if finding.cure)
        return Finding(name, state, listed([f"{machine}: {f.found}" for machine, f in told]), "; ".join(cures))

    return combined


def listed(parts: Sequence[str]) -> str:
    """The first few of them, and how many more there are."""
    more = f"; and {len(parts) - _NAMED} more" if len(parts) > _NAMED else ""
    return "; ".join(parts[:_NAMED]) + more


def size(number: int) -> str:
    """`64.0 MiB`, `139.8 GiB`: bytes for a person."""
    left, units = float(number), ["bytes", "KiB", "MiB", "GiB", "TiB"]
    while left >= 1024 and len(units) > 1:
        left, units = left / 1024, units[1:]
    return f"{left:.0f} bytes" if units[0] == "bytes" else f"{left:.1f} {units[0]}"
