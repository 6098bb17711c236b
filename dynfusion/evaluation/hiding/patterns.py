"""Which modalities a molecule may show: a protocol is a table of patterns, a pattern is a mask.

    subset          exactly these modalities stay, for every molecule
    random          every present modality is hidden with the same chance
    imbalanced      one modality is hidden often, the others seldom
    not-at-random   the chance to be hidden grows with the size of the molecule
    corrupted       nothing is hidden, one modality holds the values of other molecules

Where hiding is random it is a hash of (protocol, rate, draw, id of the molecule), never of a row number, and it is
conditional on one present modality at least staying visible. The share that is really hidden is therefore smaller than
the rate asked for, for M present modalities (p - p^M) / (1 - p^M), and is reported beside it.
"""

from dataclasses import dataclass
from itertools import combinations
from typing import Literal

Protocol = Literal["subset", "random", "imbalanced", "not-at-random", "corrupted"]
OFTEN, SELDOM = 0.75, 0.1
"""Rates of the modality that is hidden often, and of the others."""


@dataclass(frozen=True, order=True)
class Pattern:
    """One way of hiding modalities in some rows."""

    protocol: Protocol
    visible: tuple[str, ...]
    """Names that may be visible, in the task's order."""
    rate: float | None = None
    """Asked-for share of hidden cells where hiding is random, else None."""
    draw: int | None = None
    """Number of the random draw, else None."""
    target: str | None = None
    """The one modality that is hidden often or corrupted, else None."""


def subsets(modalities: tuple[str, ...]) -> list[tuple[str, ...]]:
    """All 2^M - 1 non-empty subsets, the complete one first, then by how many are absent."""
    return [chosen for size in range(len(modalities), 0, -1) for chosen in combinations(modalities, size)]


def complete(modalities: tuple[str, ...]) -> Pattern:
    """Nothing hidden: what is naturally present stays."""
    return Pattern("subset", modalities)


def all_subsets(modalities: tuple[str, ...]) -> list[Pattern]:
    """Every subset, the complete one first."""
    return [Pattern("subset", chosen) for chosen in subsets(modalities)]


def random_rates(modalities: tuple[str, ...], rates: tuple[float, ...], draws: int) -> list[Pattern]:
    """`draws` patterns for every rate; rate 0 hides nothing and has one."""
    return [Pattern("random", modalities, rate, draw) for rate in rates for draw in range(draws if rate else 1)]


def imbalanced(modalities: tuple[str, ...], draws: int) -> list[Pattern]:
    """Every modality in turn hidden with chance 0.75, the others with 0.1."""
    return [Pattern("imbalanced", modalities, OFTEN, draw, name) for name in modalities for draw in range(draws)]


def not_at_random(modalities: tuple[str, ...], rates: tuple[float, ...], draws: int) -> list[Pattern]:
    """The chance grows linearly with the rank of the molecule's size, on average `rate` (at most 0.5: it ends at 1)."""
    return [
        Pattern("not-at-random", modalities, rate, draw) for rate in rates if 0 < rate <= 0.5 for draw in range(draws)
    ]


def corrupted(modalities: tuple[str, ...]) -> list[Pattern]:
    """Every modality in turn with the values of other molecules, and marked as present."""
    return [Pattern("corrupted", modalities, target=name) for name in modalities]
