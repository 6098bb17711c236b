"""Cells and the groups they are computed in.

A cell is one value of one metric: task x fold x representation x way of fitting x way of hiding x probe x seed. Cells
that share a head form a group; a group is the unit of work, and of what a killed evaluation keeps.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from dynfusion.evaluation.hiding.patterns import Pattern

PROTOCOL_VERSION = 3
PROBE_SEED = 0
Fitting = Literal["transferred", "refitted", "missing-while-training"]


@dataclass(frozen=True)
class CellGroup:
    """One head and all the patterns it is scored under."""

    section: str
    """Part of the report: its split, its probes, its ways of hiding."""
    task: str
    fold: str
    representation: str
    model: str | None
    """Name of the fusion model, None for a representation that needs none."""
    probe: str
    seed: int
    """Which of the fusion model's training runs, 0 for the first of them and for what needs none."""
    fitting: Fitting
    """On all that is present, on the subset that is scored, or on training rows with random gaps."""
    fit: Pattern
    """What the training rows show."""
    complete_rows: bool
    """Whether only training rows that show every modality are used."""
    patterns: tuple[Pattern, ...]
    """What the test rows show."""
    key: str
    """Fingerprint of everything its numbers follow from."""

    @property
    def name(self) -> str:
        """File name without ending, unique in an evaluation."""
        parts = [self.section, self.task, self.fold, self.representation, self.model, self.probe, str(self.seed)]
        text = "__".join(part for part in parts if part)
        plain = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in text)
        whole = f"{text}|{self.fit}|{self.complete_rows}|{self.patterns}"
        return f"{plain}__{hashlib.sha256(whole.encode()).hexdigest()[:8]}"

    def record(self) -> dict[str, Any]:
        """The group as JSON holds it."""
        return asdict(self)


@dataclass(frozen=True)
class GroupResult:
    """Numbers of one group; arrays are ordered as the group's patterns."""

    group: CellGroup
    scores: Float[np.ndarray, "patterns molecules outputs"]
    """Of the fold's test molecules, in the task's order."""
    resampled: dict[str, np.ndarray]
    """Per metric float64 [patterns, 1 + resamples]: the value, then its resamples."""
    unscored: tuple[int, ...]
    """Test molecules for which nothing could be said, per pattern: they have the training prior."""
    hidden_share: tuple[float, ...]
    """Share of the test molecules' present cells that were really hidden, per pattern."""
    chosen: dict[str, dict[str, float]]
    """Hyper-parameters of the probe, by member of the representation."""
    unconverged: int = 0
    """How many of its linear heads are not at their optimum."""


def in_plan_order(results: Iterable[GroupResult]) -> list[GroupResult]:
    """Results of several portions of one plan, each in the plan's order and the first with every line, as of one."""
    found = list(results)
    lines = dict.fromkeys(_line(result.group) for result in found)
    places = {line: place for place, line in enumerate(lines)}
    return sorted(found, key=lambda result: places[_line(result.group)])


def _line(group: CellGroup) -> tuple[str, str, str, float | None]:
    """What a plan goes through before it goes through contestants."""
    return group.section, group.probe, group.fitting, group.fit.rate


def key_of(*parts: object) -> str:
    """16 hexadecimal digits that change with any part."""
    text = "|".join([str(PROTOCOL_VERSION), *map(str, parts)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
