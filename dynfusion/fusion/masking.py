"""Which present modalities are hidden from the model this step, and how that hardens while training goes on.

    samples seen -> hidden_rate -> hide(present, row_ids, epoch) -> hidden

Every draw is a hash of (seed, epoch, row), never of the rank, the batch or the step, so any world size and any resumed
run hides the same cells. Source: DESIGN 5.3; uniform subsets as in MultiMAE (arXiv:2204.01678), section 3.2.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from dynfusion.settings import Settings


class MaskingSettings(Settings):
    """The curriculum of hiding."""

    schedule: Literal["linear", "cosine", "step", "exponential", "constant"] = Field(
        "linear", description="how the rate climbs from start to end"
    )
    start: float = Field(0.1, ge=0, le=0.95, description="rate at which present modalities are hidden at first")
    end: float = Field(0.6, ge=0, le=0.95, description="rate after the ramp; `constant` uses this one throughout")
    ramp_share: float = Field(0.6, ge=0, le=1, description="share of all samples seen during which the rate climbs")
    subset_share: float = Field(
        0.2, ge=0, le=1, description="share of rows that draw a uniform non-empty subset once the ramp is over"
    )


STEPS = 4
_CLIMB: dict[str, Callable[[float], float]] = {
    "linear": lambda x: x,
    "cosine": lambda x: (1 - math.cos(math.pi * x)) / 2,
    "step": lambda x: math.floor(x * STEPS) / STEPS,
    "exponential": lambda x: (math.exp(3 * x) - 1) / (math.exp(3) - 1),
    "constant": lambda x: 1.0,
}


def hidden_rate(settings: MaskingSettings, progress: float) -> float:
    """The rate in [0, 1) at `progress` = samples seen / samples in all, a number in [0, 1]."""
    ramp = 1.0 if settings.ramp_share == 0 else min(1.0, progress / settings.ramp_share)
    return settings.start + (settings.end - settings.start) * _CLIMB[settings.schedule](ramp)


def subset_share(settings: MaskingSettings, progress: float) -> float:
    """The share of rows that draw a uniform subset at `progress`: none before the ramp is over."""
    return settings.subset_share if progress >= settings.ramp_share else 0.0


def hide(
    present: Bool[Tensor, "rows modalities"],
    row_ids: Int[Tensor, " rows"],
    *,
    seed: int,
    epoch: int,
    rate: float,
    subsets: float = 0.0,
) -> Bool[Tensor, "rows modalities"]:
    """Which present cells are hidden: Bernoulli(`rate`) each, given that at least one of the row stays visible.

    A share `subsets` of rows draws one of its non-empty subsets of present modalities uniformly instead. A row with
    one present modality is never hidden from; absent cells are never `hidden`.
    """
    modalities = present.shape[1]
    draws = [uniform(seed, epoch, row_ids, stream) for stream in range(modalities + 2)]
    bernoulli = _conditional_bernoulli(present, draws[:modalities], rate)
    subset = _uniform_subset(present, draws[modalities])
    return torch.where((draws[modalities + 1] < subsets)[:, None], subset, bernoulli)


def uniform(seed: int, epoch: int, row_ids: Int[Tensor, " rows"], stream: int) -> Float[Tensor, " rows"]:
    """Numbers in [0, 1), float64, one a row: a hash of (seed, epoch, row, stream) and of nothing else.

    Source: the finaliser of SplitMix64 (Steele, Lea and Flood 2014, doi:10.1145/2714064.2660195).
    """
    key = _mix_integer(_mix_integer(_mix_integer(seed) ^ epoch) ^ stream)
    bits = _mix(_mix(row_ids.to(torch.int64)) ^ _signed(key))
    return (_shift_right(bits, 11)).to(torch.float64) / 2.0**53


def _conditional_bernoulli(present: Tensor, draws: list[Tensor], rate: float) -> Tensor:
    """Exact and free of rejection: while nothing is kept yet, the chance to hide is taken given that a later one is."""
    remaining = present.sum(dim=1).to(torch.float64)
    kept = torch.zeros_like(present[:, 0])
    hidden = torch.zeros_like(present)
    for modality, draw in enumerate(draws):
        candidate = present[:, modality]
        given = rate * (1 - rate ** (remaining - 1).clamp_min(0)) / (1 - rate ** remaining.clamp_min(1))
        chance = torch.where(kept, torch.full_like(given, rate), given)
        hidden[:, modality] = candidate & (draw < chance)
        kept = kept | (candidate & ~hidden[:, modality])
        remaining = remaining - candidate.to(torch.float64)
    return hidden


def _uniform_subset(present: Tensor, draw: Tensor) -> Tensor:
    number = present.sum(dim=1)
    choice = 1 + (draw * (2.0 ** number.to(torch.float64) - 1)).floor().to(torch.int64)
    rank = (present.cumsum(dim=1) - 1).clamp_min(0)
    kept = ((choice[:, None] >> rank) & 1).bool()
    return present & ~kept


_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_INCREMENT = 0x9E3779B97F4A7C15
_WORD = (1 << 64) - 1


def _signed(word: int) -> int:
    return word - (1 << 64) if word >= 1 << 63 else word


def _mix_integer(number: int) -> int:
    word = (number + _INCREMENT) & _WORD
    word = ((word ^ (word >> 30)) * _MULTIPLIERS[0]) & _WORD
    word = ((word ^ (word >> 27)) * _MULTIPLIERS[1]) & _WORD
    return word ^ (word >> 31)


def _mix(words: Tensor) -> Tensor:
    words = words + _signed(_INCREMENT)
    words = (words ^ _shift_right(words, 30)) * _signed(_MULTIPLIERS[0])
    words = (words ^ _shift_right(words, 27)) * _signed(_MULTIPLIERS[1])
    return words ^ _shift_right(words, 31)


def _shift_right(words: Tensor, bits: int) -> Tensor:
    """A logical shift; torch's `>>` on int64 carries the sign in."""
    return (words >> bits) & ((1 << (64 - bits)) - 1)
