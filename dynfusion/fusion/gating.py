"""Gates and everything that losses and records want to know of them, in one pass forward and one back.

    logits --sigmoid--> g --times x~--> what is projected
                        |--> sums over a row     (sparsity, what is watched)
                        \\--> variance over the visible rows of a contrast group     (gates must not be constant)

The gradient is written out for all of these together: a gate is 1,024 numbers a row, and every pass over it counts.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from dynfusion.fusion.rowwise import at_least_single, pieces


@dataclass(frozen=True)
class Gates:
    """One modality's gates. values: [rows, dim]; product: gates times the standardised embedding, [rows, dim].

    total, square, opened: [rows], sums over a row's gates of g, of g^2 and of g > 1/2 (no gradient); variance:
    [groups, dim], over the weighted rows of each contrast group about their mean, 0 where all weights are.
    """

    values: Tensor
    product: Tensor
    total: Tensor
    square: Tensor
    opened: Tensor
    variance: Tensor


def gate(
    logits: Float[Tensor, "rows width"],
    standardised: Float[Tensor, "rows width"],
    weights: Float[Tensor, "groups group_rows"],
) -> Gates:
    """sigmoid(logits) and what is derived from it; values and product have the logits' dtype.

    Neither `standardised` nor `weights`, 1 where a row counts in its group's variance and 0 where not, gets a gradient.
    """
    return Gates(*_Gate.apply(logits, standardised, weights))


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, standardised: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        wide, width = at_least_single(logits), logits.shape[1]
        values, product = torch.empty_like(logits), torch.empty_like(logits)
        sums = torch.empty(3, len(logits), dtype=wide, device=logits.device)
        mean = torch.empty(len(weights), width, dtype=wide, device=logits.device)
        variance = torch.empty_like(mean)
        number = weights.sum(dim=1, keepdim=True).clamp_min(1)
        for groups, rows in _groups_and_rows(logits, weights):
            torch.sigmoid(logits[rows], out=values[rows])
            part = values[rows].to(wide)
            torch.mul(part, standardised[rows], out=product[rows])
            torch.sum(part, dim=1, out=sums[0, rows])
            torch.sum(part.round(), dim=1, out=sums[2, rows])  # one half is rounded to zero
            weight = weights[groups, :, None]
            grouped = part.unflatten(0, weights[groups].shape)
            mean[groups] = (grouped * weight).sum(dim=1) / number[groups]
            spread = (grouped - mean[groups, None]).square_().mul_(weight)
            variance[groups] = spread.sum(dim=1) / number[groups]
            sums[1, rows] = torch.linalg.vector_norm(part, dim=1).square_()
        ctx.save_for_backward(values, standardised, weights, mean, number)
        ctx.mark_non_differentiable(sums[2])
        return values, product, sums[0], sums[1], sums[2], variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        of_values, of_product, of_total, of_square, _, of_variance = gradients
        values, standardised, weights, mean, number = ctx.saved_tensors
        factor = 2 * of_variance / number
        out = torch.empty_like(values)
        for groups, rows in _groups_and_rows(values, weights):
            part = values[rows].to(mean.dtype)
            grouped = part.unflatten(0, weights[groups].shape)
            found = (grouped - mean[groups, None]).mul_(factor[groups, None]).mul_(weights[groups, :, None])
            found = found.flatten(0, 1).addcmul_(of_product[rows].to(mean.dtype), standardised[rows])
            found.add_(of_values[rows]).addcmul_(part, 2 * of_square[rows, None]).add_(of_total[rows, None])
            out[rows] = torch.ops.aten.sigmoid_backward(found, part)
        return out, None, None


def _groups_and_rows(wide: Tensor, weights: Tensor) -> list[tuple[slice, slice]]:
    """Pieces of whole groups, and the rows of each."""
    size = weights.shape[1]
    found = pieces(wide.unflatten(0, (len(weights), size)))
    return [(groups, slice(groups.start * size, groups.stop * size)) for groups in found]
