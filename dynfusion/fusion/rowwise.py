"""Sums over wide rows with their gradients written out, a few rows at a time.

    wide tensor --piece of rows--> operations in a core's cache --> a number or two a row

Each function reads its wide inputs once forward and once backward and writes one gradient; what lies between never
leaves the cache. On a GPU, and under torch.compile, all rows are one piece.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

PIECE_ELEMENTS = 1 << 18  # 1 MB of float32
EPSILON = 1e-6


def pieces(wide: Tensor) -> list[slice]:
    """Slices that cover the rows of `wide`, each with about PIECE_ELEMENTS of its numbers a thread on a CPU."""
    rows = len(wide)
    if wide.device.type != "cpu" or torch.compiler.is_compiling():
        return [slice(0, rows)]
    step = max(1, PIECE_ELEMENTS * torch.get_num_threads() // max(1, math.prod(wide.shape[1:])))
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def at_least_single(tensor: Tensor) -> torch.dtype:
    """The dtype to sum in: at least float32."""
    return torch.promote_types(tensor.dtype, torch.float32)


@torch.no_grad()
def standardise(
    values: Float[Tensor, "rows width"],
    observed: Bool[Tensor, " rows"],
    *,
    mean: Float[Tensor, " width"],
    scale: Float[Tensor, " width"],
    bound: float,
) -> Float[Tensor, "rows width"]:
    """clip((values - mean) * scale, +-bound) in the mean's dtype; exactly zero in rows that are not observed."""
    out = torch.empty(values.shape, dtype=mean.dtype, device=mean.device)
    absent = ~observed[:, None]
    for rows in pieces(values):
        part = out[rows].copy_(values[rows])
        part.sub_(mean).mul_(scale).clamp_(-bound, bound).masked_fill_(absent[rows], 0)
    return out


def cell_errors(
    prediction: Float[Tensor, "rows width"],
    target: Float[Tensor, "all_rows width"],
    used: Bool[Tensor, " width"],
    chosen: Int[Tensor, " rows"] | None = None,
) -> tuple[Float[Tensor, " rows"], Float[Tensor, " rows"]]:
    """Per row: mean over used dimensions of (prediction - target)^2, and 1 - cos(prediction, target) over them.

    `chosen` says which row of `target` each prediction is for; None: all of them in order. `target` gets no gradient
    and must be 0 in dimensions that are not used. Lengths under 1e-6 count as 1e-6.
    """
    return _CellErrors.apply(prediction, target, used, chosen)


def pair_cosines(vectors: Sequence[Float[Tensor, "rows width"]]) -> Float[Tensor, "rows pairs"]:
    """cos(v_a - mean v_a, v_b - mean v_b) for every pair a < b in order; means are over a vector's own entries."""
    return _PairCosines.apply(*vectors)


def weighted_sum(
    vectors: Sequence[Float[Tensor, "rows width"]],
    weights: Float[Tensor, "rows vectors"],
    used: Bool[Tensor, "rows vectors"],
) -> Float[Tensor, "rows width"]:
    """sum_m w_m v_m over used m; what stands in a vector that is not used (NaN too) has no influence."""
    return _WeightedSum.apply(weights, used, *vectors)


def rescaled(
    vectors: Float[Tensor, "rows width"], length: Float[Tensor, " one"], dtype: torch.dtype
) -> Float[Tensor, "rows width"]:
    """Each row in its own direction with the given length, in `dtype`; rows shorter than 1e-12 stay short."""
    return _Rescaled.apply(vectors, length, dtype)


def choose_rows(vectors: Float[Tensor, "rows width"], choices: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """`vectors[rows]` for each choice of rows, none of them twice within one choice."""
    return _ChooseRows.apply(vectors, *choices)


class _ChooseRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor, *choices: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*choices)
        ctx.rows = len(vectors)
        return tuple(vectors.index_select(0, rows) for rows in choices)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        out = gradients[0].new_zeros(ctx.rows, gradients[0].shape[1])
        for rows, gradient in zip(ctx.saved_tensors, gradients, strict=True):
            out.index_add_(0, rows, gradient)
        return out, *[None] * len(gradients)


class _CellErrors(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, prediction: Tensor, target: Tensor, used: Tensor, chosen: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        number = used.sum().clamp_min(1)
        mask = None if target.device.type == "cpu" and used.all() else used.to(target.dtype)
        dots, lengths = target.new_empty(len(prediction)), target.new_empty(3, len(prediction))
        for rows in pieces(prediction):
            one, other = _masked(prediction[rows].to(target.dtype), mask), _at(target, chosen, rows)
            torch.sum(one * other, dim=1, out=dots[rows])
            for which, vector in enumerate((one - other, one, other)):
                lengths[which, rows] = torch.linalg.vector_norm(vector, dim=1)
        ends = lengths[1:].clamp_min(EPSILON)
        cosine = dots / (ends[0] * ends[1])
        ctx.save_for_backward(prediction, target, mask, number, ends, cosine, chosen)
        return lengths[0].square() / number, 1 - cosine

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, square: Tensor, distance: Tensor) -> tuple[Tensor, None, None, None]:
        prediction, target, mask, number, lengths, cosine, chosen = ctx.saved_tensors
        twice = 2 * square / number
        turning = torch.where(lengths[0] > EPSILON, cosine / lengths[0].square(), torch.zeros_like(cosine))
        own = (twice + distance * turning)[:, None]
        other = (twice + distance / (lengths[0] * lengths[1])).neg_()[:, None]
        out = torch.empty_like(prediction)
        for rows in pieces(prediction):
            part = prediction[rows].to(target.dtype) * own[rows]
            out[rows] = _masked(part.addcmul_(_at(target, chosen, rows), other[rows]), mask)
        return out, None, None, None


class _PairCosines(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *vectors: Tensor) -> Tensor:
        number_of_rows = len(vectors[0])
        wide, pairs = at_least_single(vectors[0]), _pairs(len(vectors))
        dots = torch.empty(len(pairs), number_of_rows, dtype=wide, device=vectors[0].device)
        lengths = torch.empty(len(vectors), number_of_rows, dtype=wide, device=vectors[0].device)
        for rows in pieces(vectors[0]):
            centred = _centred(vectors, rows, wide)
            for number, vector in enumerate(centred):
                lengths[number, rows] = torch.linalg.vector_norm(vector, dim=1)
            for number, (first, second) in enumerate(pairs):
                torch.sum(centred[first] * centred[second], dim=1, out=dots[number, rows])
        lengths.clamp_min_(EPSILON)
        cosines = torch.stack([dot / (lengths[a] * lengths[b]) for dot, (a, b) in zip(dots, pairs, strict=True)], dim=1)
        ctx.save_for_backward(lengths, cosines, *vectors)
        return cosines

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        lengths, cosines, *vectors = ctx.saved_tensors
        number = len(vectors)
        mixing = gradient.new_zeros(number, number, len(gradient), 1)
        for pair, (a, b) in enumerate(_pairs(number)):
            share = gradient[:, pair]
            mixing[a, b, :, 0] = mixing[b, a, :, 0] = share / (lengths[a] * lengths[b])
            for own in (a, b):
                turning = share * cosines[:, pair] / lengths[own].square()
                mixing[own, own, :, 0] -= torch.where(lengths[own] > EPSILON, turning, torch.zeros_like(turning))
        out = tuple(torch.empty_like(vector) for vector in vectors)
        for rows in pieces(vectors[0]):
            centred = _centred(vectors, rows, gradient.dtype)
            for own in range(number):
                part = centred[0] * mixing[own, 0, rows]
                for other in range(1, number):
                    part.addcmul_(centred[other], mixing[own, other, rows])
                out[own][rows] = part
        return out


class _WeightedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, used: Tensor, *vectors: Tensor) -> Tensor:
        ctx.save_for_backward(weights, used, *vectors)
        out = torch.empty_like(vectors[0], dtype=weights.dtype)
        for rows in pieces(out):
            total = torch.zeros_like(out[rows])
            for number, vector in enumerate(vectors):
                total.addcmul_(_where(used[rows, number], vector[rows], out.dtype), weights[rows, number, None])
            out[rows] = total
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weights, used, *vectors = ctx.saved_tensors
        shares = weights.masked_fill(~used, 0).to(gradient.dtype)
        of_weights = torch.empty_like(weights)
        out = tuple(torch.empty_like(vector) for vector in vectors)
        for rows in pieces(gradient):
            for number, vector in enumerate(vectors):
                out[number][rows] = gradient[rows] * shares[rows, number, None]
                part = _where(used[rows, number], vector[rows], gradient.dtype)
                of_weights[rows, number] = part.mul_(gradient[rows]).sum(dim=1)
        return of_weights, None, *out


class _Rescaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor, length: Tensor, dtype: torch.dtype) -> Tensor:
        wide = at_least_single(vectors)
        out = torch.empty_like(vectors, dtype=dtype)
        factors = torch.empty(len(vectors), 1, dtype=wide, device=vectors.device)
        for rows in pieces(vectors):
            part = vectors[rows].to(wide)
            norms = torch.linalg.vector_norm(part, dim=1, keepdim=True).clamp_min_(1e-12)
            factors[rows] = length / norms
            out[rows] = part * factors[rows]
        ctx.save_for_backward(vectors, length, factors)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        vectors, length, factors = ctx.saved_tensors
        out = torch.empty_like(vectors)
        along = torch.empty_like(factors)
        for rows in pieces(vectors):
            part, arriving = vectors[rows].to(factors.dtype), gradient[rows].to(factors.dtype)
            torch.sum(part * arriving, dim=1, keepdim=True, out=along[rows])
            inward = (along[rows] * factors[rows] / length) * (factors[rows] / length) * factors[rows]
            out[rows] = torch.addcmul(arriving * factors[rows], part, inward, value=-1)
        return out, (along * factors).sum()[None].to(length.dtype) / length, None


def _where(used: Tensor, vectors: Tensor, dtype: torch.dtype) -> Tensor:
    """A new tensor: the rows that are used, zeros for the others."""
    return vectors.to(dtype, copy=True).masked_fill_(~used[:, None], 0)


def _masked(vectors: Tensor, mask: Tensor | None) -> Tensor:
    return vectors if mask is None else vectors * mask


def _at(target: Tensor, chosen: Tensor | None, rows: slice) -> Tensor:
    return target[rows] if chosen is None else target.index_select(0, chosen[rows])


def _pairs(number: int) -> list[tuple[int, int]]:
    return [(first, second) for first in range(number) for second in range(first + 1, number)]


def _centred(vectors: Sequence[Tensor], rows: slice, dtype: torch.dtype) -> list[Tensor]:
    parts = [vector[rows].to(dtype) for vector in vectors]
    return [part - part.mean(dim=1, keepdim=True) for part in parts]
