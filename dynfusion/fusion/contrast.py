"""Cross-entropies in both directions of a square of logits, group by group, with the gradient written out."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from dynfusion.fusion.rowwise import at_least_single, pieces


def symmetric_cross_entropy(
    logits: Float[Tensor, "groups rows rows"], closed: Bool[Tensor, "groups rows rows"]
) -> Float[Tensor, "groups rows"]:
    """Mean of the two cross-entropies that have their target on the diagonal: along a row, and along its column.

    Closed candidates are left out; the diagonal must stay open.
    """
    return _SymmetricCrossEntropy.apply(logits, closed)


class _SymmetricCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, closed: Tensor) -> Tensor:
        wide = at_least_single(logits)
        along_row = torch.empty(logits.shape[:2], dtype=wide, device=logits.device)
        along_column = torch.empty_like(along_row)
        for groups in pieces(logits):
            part = _opened(logits[groups], closed[groups], wide)
            along_row[groups] = part.logsumexp(dim=2)
            along_column[groups] = part.logsumexp(dim=1)
        ctx.save_for_backward(logits, closed, along_row, along_column)
        return (along_row + along_column) / 2 - logits.diagonal(dim1=1, dim2=2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        logits, closed, along_row, along_column = ctx.saved_tensors
        out = torch.empty_like(logits)
        for groups in pieces(logits):
            part, half = _opened(logits[groups], closed[groups], along_row.dtype), gradient[groups] / 2
            found = (part - along_row[groups, :, None]).exp_().mul_(half[:, :, None])
            found.addcmul_(part.sub_(along_column[groups, None]).exp_(), half[:, None])
            found.diagonal(dim1=1, dim2=2).sub_(gradient[groups])
            out[groups] = found
        return out, None


def _opened(logits: Tensor, closed: Tensor, dtype: torch.dtype) -> Tensor:
    return logits.to(dtype).masked_fill(closed, float("-inf"))
