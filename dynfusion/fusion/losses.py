"""The five loss terms in all their forms: pure functions of a batch and its forward pass.

Every function here gives a total, the sum that carries the gradient; presets.py pairs it with its count. Where a loss
couples rows it does so inside contrast groups only. Formulas are written for row i and modality m.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from dynfusion.fusion.batch import Batch
from dynfusion.fusion.contrast import symmetric_cross_entropy
from dynfusion.fusion.model import Fused
from dynfusion.fusion.rowwise import cell_errors, pair_cosines, rescaled
from dynfusion.settings import Settings


class LossSettings(Settings):
    """Weights of the terms, and the constants of their forms."""

    preset: Literal["robust", "paper"] = Field("robust", description="which form each term takes")
    reconstruction: float = Field(1.0, ge=0, description="weight of the reconstruction term")
    alignment: float = Field(0.05, ge=0, description="weight of the alignment term")
    diversity: float = Field(0.1, ge=0, description="weight of the diversity term")
    entropy: float = Field(0.05, ge=0, description="weight of the entropy term")
    sparsity: float = Field(0.01, ge=0, description="weight of the sparsity term")
    visible_weight: float = Field(
        0.25, ge=0, description="robust: weight of reconstructing what was visible, beside what was hidden"
    )
    cosine_weight: float = Field(0.5, ge=0, description="robust: weight of 1 - cosine beside the squared error")
    entropy_floor: float = Field(
        0.5, ge=0, le=1, description="robust: normalised attention entropy below it is penalised"
    )
    balance_weight: float = Field(
        0.1, ge=0, description="robust: weight of balanced mean attention in the entropy term"
    )
    gate_deviation: float = Field(
        0.05, ge=0, le=0.5, description="robust: a gate's deviation over rows below it is penalised"
    )
    temperature: float = Field(
        0.07, gt=0, le=1, description="robust: temperature of the contrast at the start; it is learned"
    )


@dataclass(frozen=True)
class Context:
    """What the parts look at: batch, forward pass, constants, which dimensions vary, the contrast's scale."""

    batch: Batch
    fused: Fused
    settings: LossSettings
    informative: list[Tensor]
    logit_scale: Tensor

    @cached_property
    def errors(self) -> list[tuple[Tensor, Tensor]]:
        """(squared error, 1 - cosine) of each modality, [rows] both; 0 where nothing was decoded."""
        rows, fused = len(self.batch.row_ids), self.fused
        found = []
        for number, used in enumerate(self.informative):
            chosen = fused.decoded[number] if fused.decoded else None
            pair = cell_errors(fused.reconstructions[number], fused.standardised[number], used, chosen)
            if chosen is not None:
                square, distance = (error.new_zeros(rows).index_copy(0, chosen, error) for error in pair)
                pair = square, distance
            found.append(pair)
        return found


# --- reconstruction -------------------------------------------------------------------------------------------------


def squared_error(context: Context) -> list[Float[Tensor, " rows"]]:
    """Mean over informative dimensions of (xhat - x~)^2, per modality and row; 1 is what predicting the mean scores."""
    return [square for square, _ in context.errors]


def cosine_distance(context: Context) -> list[Float[Tensor, " rows"]]:
    """1 - cos(xhat, x~), per modality and row; standardised embeddings make it the centred cosine. Range [0, 2]."""
    return [distance for _, distance in context.errors]


def _robust_error(context: Context) -> list[Tensor]:
    weight = context.settings.cosine_weight
    return [square + weight * distance for square, distance in context.errors]


def reconstruct_hidden(context: Context) -> Float[Tensor, " modalities"]:
    """Squared error + cosine_weight * (1 - cos) summed over the hidden cells of each modality."""
    return _sum_where(_robust_error(context), context.batch.targets)


def reconstruct_visible(context: Context) -> Float[Tensor, " modalities"]:
    """The same over the visible cells."""
    return _sum_where(_robust_error(context), context.batch.visible)


def reconstruct_hidden_squared(context: Context) -> Float[Tensor, " modalities"]:
    """Paper: squared error over hidden cells only (as ActionMAE's masked loss, arXiv:2211.13916)."""
    return _sum_where(squared_error(context), context.batch.targets)


# --- alignment ------------------------------------------------------------------------------------------------------


def contrast(context: Context) -> Float[Tensor, " modalities"]:
    """Symmetric InfoNCE between z_i and p_im over the rows of one contrast group where m is present.

    Hidden modalities are keys too. Rows and candidate columns without the modality are masked, and so is another row
    with the same id. Source: CLIP (arXiv:2103.00020), restricted to observed rows and columns.
    """
    batch, size = context.batch, context.batch.group_rows
    dtype, one = context.fused.projections[0].dtype, torch.ones_like(context.logit_scale)
    keys = [rescaled(projection, one, dtype).unflatten(0, (-1, size)) for projection in context.fused.projections]
    fused = rescaled(context.fused.fused, context.logit_scale, dtype).unflatten(0, (-1, size))
    ids = batch.row_ids.unflatten(0, (-1, size))
    others = ~torch.eye(size, dtype=torch.bool, device=ids.device)
    twins = ids[:, :, None] == ids[:, None, :]
    totals = []
    for key, present in zip(keys, batch.present.unbind(dim=1), strict=True):
        valid = present.unflatten(0, (-1, size))
        # A row without the modality keeps its diagonal, so no softmax runs over nothing; its loss is left out.
        closed = (twins | ~valid[:, :, None] | ~valid[:, None, :]) & others
        losses = symmetric_cross_entropy(fused @ key.transpose(1, 2), closed)
        totals.append(torch.where(valid, losses, torch.zeros_like(losses)).sum())
    return torch.stack(totals)


def cosine_alignment(context: Context) -> Float[Tensor, " one"]:
    """Paper: 1 - cos(z_i, p_im) over visible cells, in [0, 2]. Alone its trivial optimum is one constant direction."""
    distances = [1 - F.cosine_similarity(context.fused.fused, key, dim=1) for key in context.fused.projections]
    return _sum_where(distances, context.batch.visible).sum(dim=0, keepdim=True)


# --- diversity ------------------------------------------------------------------------------------------------------


def shared_cosine(context: Context) -> Float[Tensor, " one"]:
    """cos(s_ia, s_ib)^2 over pairs of visible modalities; s = |W_m| g_im centred over the shared dimensions.

    0: the gates feed different shared dimensions; 1: the same ones. Gate widths differ, so a cosine between gates
    themselves is undefined; uncentred, two non-negative vectors start at .999 and the term says nothing.
    """
    visible = context.batch.visible
    if visible.shape[1] < 2:
        return context.fused.fused.new_zeros(1)
    cosines = pair_cosines(context.fused.saliencies)
    both = torch.stack([visible[:, a] & visible[:, b] for a, b in combinations(range(visible.shape[1]), 2)], dim=1)
    return torch.where(both, cosines.square(), torch.zeros_like(cosines)).sum()[None]


def gate_constancy(context: Context) -> Float[Tensor, " one"]:
    """mean_d relu(1 - std_d / gate_deviation) per contrast group and modality with two or more visible rows.

    std_d is a gate's deviation over the group's visible rows. Constant gates are a degenerate optimum of diversity.
    """
    floor = max(context.settings.gate_deviation, 1e-6)
    total = context.fused.fused.new_zeros(1)
    for gates, seen in zip(context.fused.gates, context.batch.visible.unbind(dim=1), strict=True):
        grouped = seen.unflatten(0, (-1, context.batch.group_rows))
        lack = F.relu(1 - (gates.variance + 1e-12).sqrt() / floor).mean(dim=1)
        total = total + torch.where(grouped.sum(dim=1) >= 2, lack, torch.zeros_like(lack)).sum()
    return total


# --- entropy --------------------------------------------------------------------------------------------------------


def normalised_entropy(attention: Float[Tensor, "rows modalities"], visible: Tensor) -> Float[Tensor, " rows"]:
    """H(a_i) / log(number visible) in [0, 1]; rows with one visible modality have no choice and get 1."""
    surprise = -(attention * attention.clamp_min(1e-12).log()).sum(dim=1)
    number = visible.sum(dim=1)
    scale = number.clamp_min(2).to(attention.dtype).log()
    return torch.where(number >= 2, surprise / scale, torch.ones_like(surprise))


def entropy_hinge(context: Context) -> Float[Tensor, " one"]:
    """relu(entropy_floor - H_i) over rows with two or more visible modalities: a floor, with freedom above it."""
    entropy = normalised_entropy(context.fused.attention, context.batch.visible)
    return F.relu(context.settings.entropy_floor - entropy).masked_fill(~has_choice(context.batch), 0).sum()[None]


def entropy_deficit(context: Context) -> Float[Tensor, " one"]:
    """Paper: 1 - H_i over the same rows, so that its optimum is uniform attention."""
    entropy = normalised_entropy(context.fused.attention, context.batch.visible)
    return (1 - entropy).masked_fill(~has_choice(context.batch), 0).sum()[None]


def imbalance(context: Context) -> Float[Tensor, " one"]:
    """(mean over a group's rows of a_im * number visible, minus 1)^2 over modalities, rows where m is one of several.

    0: over the group every modality gets its fair share wherever it is visible, however decided single rows are.
    """
    batch = context.batch
    chosen = (batch.visible & has_choice(batch)[:, None]).unflatten(0, (-1, batch.group_rows))
    fair = context.fused.attention * batch.visible.sum(dim=1, keepdim=True)
    number = chosen.sum(dim=1)
    mean = fair.unflatten(0, (-1, batch.group_rows)).masked_fill(~chosen, 0).sum(dim=1) / number.clamp_min(1)
    return ((mean - 1) ** 2).masked_fill(number == 0, 0).sum()[None]


# --- sparsity -------------------------------------------------------------------------------------------------------


def hoyer_square(context: Context) -> Float[Tensor, " modalities"]:
    """(sum_d g)^2 / (dim * sum_d g^2) over visible cells: the effective share of open gates, in (0, 1].

    Free of scale, unlike a mean: g -> c g, W -> W / c leaves the model unchanged. Source: DeepHoyer, arXiv:1908.09979.
    """
    shares = [gates.total**2 / (gates.values.shape[1] * gates.square) for gates in context.fused.gates]
    return _sum_where(shares, context.batch.visible)


def mean_gate(context: Context) -> Float[Tensor, " modalities"]:
    """Paper: mean_d g over visible cells, in (0, 1); only weight decay keeps it from being met by scale alone."""
    return _sum_where(gate_means(context), context.batch.visible)


def gate_means(context: Context) -> list[Float[Tensor, " rows"]]:
    """mean_d g, per modality and row."""
    return [gates.total / gates.values.shape[1] for gates in context.fused.gates]


def initial_log_scale(settings: LossSettings) -> float:
    return math.log(1 / settings.temperature)


def has_choice(batch: Batch) -> Tensor:
    return batch.visible.sum(dim=1) >= 2


def _sum_where(per_row: list[Tensor], cells: Tensor) -> Tensor:
    """[rows] per modality, summed over the rows where the cell [rows, modalities] is set."""
    stacked = torch.stack(per_row, dim=1)
    return torch.where(cells, stacked, torch.zeros_like(stacked)).sum(dim=0)
