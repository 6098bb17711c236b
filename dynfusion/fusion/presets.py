"""How loss functions make up the five terms: parts with their counts, in two presets.

A part's `count` depends on masks alone, so it is known before any forward pass and can be summed over micro-batches and
ranks first; its `total` carries the gradient. Both are vectors, and

    value of a part = mean over entries with count > 0 of total / count      (macro: a wide modality weighs the same)

so the loss of a global batch is one linear function of totals, the same for any split into ranks and micro-batches.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from dynfusion.fusion.batch import Batch
from dynfusion.fusion.losses import (
    Context,
    LossSettings,
    contrast,
    cosine_alignment,
    entropy_deficit,
    entropy_hinge,
    gate_constancy,
    has_choice,
    hoyer_square,
    imbalance,
    mean_gate,
    reconstruct_hidden,
    reconstruct_hidden_squared,
    reconstruct_visible,
    shared_cosine,
)

TERMS = ("reconstruction", "alignment", "diversity", "entropy", "sparsity")


@dataclass(frozen=True)
class Part:
    """One summand of a term: its share in it, how many things it averages over, and their total."""

    term: str
    share: Callable[[LossSettings], float]
    count: Callable[[Batch], Tensor]
    total: Callable[[Context], Tensor]


# --- counts, from masks alone ---------------------------------------------------------------------------------------


def count_hidden(batch: Batch) -> Tensor:
    return batch.targets.sum(dim=0)


def count_visible(batch: Batch) -> Tensor:
    return batch.visible.sum(dim=0)


def count_present(batch: Batch) -> Tensor:
    return batch.present.sum(dim=0)


def count_visible_cells(batch: Batch) -> Tensor:
    return batch.visible.sum()[None]


def count_visible_pairs(batch: Batch) -> Tensor:
    number = batch.visible.sum(dim=1)
    return (number * (number - 1) // 2).sum()[None]


def count_varied_gates(batch: Batch) -> Tensor:
    return (batch.visible.unflatten(0, (-1, batch.group_rows)).sum(dim=1) >= 2).sum()[None]


def count_choices(batch: Batch) -> Tensor:
    return has_choice(batch).sum()[None]


def count_balanced(batch: Batch) -> Tensor:
    chosen = (batch.visible & has_choice(batch)[:, None]).unflatten(0, (-1, batch.group_rows))
    return chosen.any(dim=1).sum()[None]


# --- the two presets ------------------------------------------------------------------------------------------------


def _whole(settings: LossSettings) -> float:
    return 1.0


PRESETS: dict[str, tuple[Part, ...]] = {
    "robust": (
        Part("reconstruction", _whole, count_hidden, reconstruct_hidden),
        Part("reconstruction", lambda settings: settings.visible_weight, count_visible, reconstruct_visible),
        Part("alignment", _whole, count_present, contrast),
        Part("diversity", _whole, count_visible_pairs, shared_cosine),
        Part("diversity", _whole, count_varied_gates, gate_constancy),
        Part("entropy", _whole, count_choices, entropy_hinge),
        Part("entropy", lambda settings: settings.balance_weight, count_balanced, imbalance),
        Part("sparsity", _whole, count_visible, hoyer_square),
    ),
    "paper": (
        Part("reconstruction", _whole, count_hidden, reconstruct_hidden_squared),
        Part("alignment", _whole, count_visible_cells, cosine_alignment),
        Part("diversity", _whole, count_visible_pairs, shared_cosine),
        Part("entropy", _whole, count_choices, entropy_deficit),
        Part("sparsity", _whole, count_visible, mean_gate),
    ),
}
