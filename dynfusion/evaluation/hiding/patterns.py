"""Which modalities a scored molecule is allowed to show: a protocol is a table of patterns, a pattern is a mask.

Another protocol (random rates, corruption, not at random) is another function that yields patterns; whatever scores
them sees masks only.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Bool


@dataclass(frozen=True, order=True)
class Pattern:
    """One way of hiding modalities in the rows that are scored."""

    protocol: str
    visible: tuple[str, ...]
    """Names that stay visible, in the task's order."""
    rate: float | None = None
    """Asked-for share of hidden cells where hiding is random, else None."""
    draw: int | None = None
    """Number of the random draw, else None."""


def subsets(modalities: tuple[str, ...]) -> list[tuple[str, ...]]:
    """All 2^M - 1 non-empty subsets, the complete one first, then by how many are absent."""
    return [chosen for size in range(len(modalities), 0, -1) for chosen in combinations(modalities, size)]


def transferred(modalities: tuple[str, ...]) -> list[Pattern]:
    """Every subset, scored with the head that was fitted on complete rows."""
    return [Pattern("transferred", chosen) for chosen in subsets(modalities)]


def visible_mask(
    pattern: Pattern, present: Bool[np.ndarray, "rows modalities"], *, modalities: tuple[str, ...]
) -> Bool[np.ndarray, "rows modalities"]:
    """Visible = present and not hidden by the pattern."""
    return present & np.array([name in pattern.visible for name in modalities])
