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

PIECE_ELEMENTS = 1 << 17  # 0.5 MB of float32
EPSILON = 1e-6


def pieces(wide: Tensor) -> list[slice]:
    """Slices that cover the rows of `wide`, each with about PIECE_ELEMENTS of its numbers on a CPU."""
    rows = len(wide)
    if wide.device.type != "cpu" or torch.compiler.is_compiling():
        return [slice(0, rows)]
    step = max(1, PIECE_ELEMENTS // max(1, math.prod(wide.shape[1:])))
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


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


def gated(logits: Float[Tensor, "rows width"], values: Float[Tensor, "rows width"]) -> tuple[Tensor, Tensor]:
    """(gate, gate * values) with gate = sigmoid(logits), both in the logits' dtype; no gradient for `values`."""
    return _Gated.apply(logits, values)


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


def gate_sums(gate: Float[Tensor, "rows width"]) -> tuple[Tensor, Tensor, Tensor]:
    """(sum_d g, sum_d g^2, number of g above one half) of every row, [rows] each; the last without gradient."""
    return _RowSums.apply(gate)


def group_variance(
    gate: Float[Tensor, "rows width"], weights: Float[Tensor, "groups group_rows"]
) -> Float[Tensor, "groups width"]:
    """Weighted variance over the rows of each group, about the weighted mean; weights that are all 0 give 0."""
    return _GroupVariance.apply(gate, weights)


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


def unit(vectors: Float[Tensor, "rows width"]) -> Float[Tensor, "rows width"]:
    """Each row divided by its length; lengths under 1e-12 count as that."""
    return _Unit.apply(vectors)


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        gate, product = torch.empty_like(logits), torch.empty_like(logits)
        for rows in pieces(logits):
            torch.sigmoid(logits[rows], out=gate[rows])
            product[rows] = gate[rows] * values[rows]
        ctx.save_for_backward(gate, values)
        return gate, product

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gate_gradient: Tensor, product_gradient: Tensor) -> tuple[Tensor, None]:
        gate, values = ctx.saved_tensors
        out = torch.empty_like(gate)
        for rows in pieces(gate):
            part = (product_gradient[rows] * values[rows]).add_(gate_gradient[rows])
            out[rows] = part.mul_(gate[rows]).mul_(1 - gate[rows])
        return out, None


class _CellErrors(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, prediction: Tensor, target: Tensor, used: Tensor, chosen: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        mask = used.to(target.dtype)
        sums = target.new_empty(4, len(prediction))
        for rows in pieces(prediction):
            one, other = prediction[rows].to(target.dtype) * mask, _at(target, chosen, rows)
            torch.sum((one - other).square_(), dim=1, out=sums[0, rows])
            torch.sum(one * other, dim=1, out=sums[1, rows])
            torch.sum(one.square_(), dim=1, out=sums[2, rows])
            torch.sum(other.square(), dim=1, out=sums[3, rows])
        number = mask.sum().clamp_min(1)
        lengths = sums[2:].sqrt().clamp_min_(EPSILON)
        cosine = sums[1] / (lengths[0] * lengths[1])
        ctx.save_for_backward(prediction, target, mask, number, lengths, cosine, chosen)
        return sums[0] / number, 1 - cosine

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
            out[rows] = part.addcmul_(_at(target, chosen, rows), other[rows]).mul_(mask)
        return out, None, None, None


class _RowSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(gate)
        sums = torch.empty(3, len(gate), dtype=_wide(gate), device=gate.device)
        for rows in pieces(gate):
            part = gate[rows].to(sums.dtype)
            torch.sum(part, dim=1, out=sums[0, rows])
            torch.sum(part.square(), dim=1, out=sums[1, rows])
            torch.sum((part > 0.5).to(part.dtype), dim=1, out=sums[2, rows])
        ctx.mark_non_differentiable(sums[2])
        return sums[0], sums[1], sums[2]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_sum: Tensor, of_square: Tensor, _: Tensor) -> Tensor:
        (gate,) = ctx.saved_tensors
        out = torch.empty_like(gate)
        for rows in pieces(gate):
            out[rows] = torch.addcmul(of_sum[rows, None], gate[rows].to(of_sum.dtype), 2 * of_square[rows, None])
        return out


class _GroupVariance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, weights: Tensor) -> Tensor:
        size, wide = weights.shape[1], _wide(gate)
        number = weights.sum(dim=1, keepdim=True).clamp_min(1)
        mean = torch.empty(len(weights), gate.shape[1], dtype=wide, device=gate.device)
        variance = torch.empty_like(mean)
        for groups in pieces(gate.unflatten(0, (-1, size))):
            part = gate.unflatten(0, (-1, size))[groups].to(wide)
            weight = weights[groups, :, None]
            mean[groups] = (part * weight).sum(dim=1) / number[groups]
            spread = (part - mean[groups, None]).square_().mul_(weight)
            variance[groups] = spread.sum(dim=1) / number[groups]
        ctx.save_for_backward(gate, weights, mean, number)
        return variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        gate, weights, mean, number = ctx.saved_tensors
        size = weights.shape[1]
        factor = 2 * gradient / number
        out = torch.empty_like(gate)
        for groups in pieces(gate.unflatten(0, (-1, size))):
            part = gate.unflatten(0, (-1, size))[groups] - mean[groups, None]
            out.unflatten(0, (-1, size))[groups] = part.mul_(factor[groups, None]).mul_(weights[groups, :, None])
        return out, None


class _PairCosines(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *vectors: Tensor) -> Tensor:
        number_of_rows = len(vectors[0])
        wide, pairs = _wide(vectors[0]), _pairs(len(vectors))
        dots = torch.empty(len(pairs), number_of_rows, dtype=wide, device=vectors[0].device)
        squares = torch.empty(len(vectors), number_of_rows, dtype=wide, device=vectors[0].device)
        for rows in pieces(vectors[0]):
            centred = _centred(vectors, rows, wide)
            for number, vector in enumerate(centred):
                torch.sum(vector.square(), dim=1, out=squares[number, rows])
            for number, (first, second) in enumerate(pairs):
                torch.sum(centred[first] * centred[second], dim=1, out=dots[number, rows])
        lengths = squares.sqrt().clamp_min_(EPSILON)
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
        out = torch.zeros_like(vectors[0], dtype=weights.dtype)
        for rows in pieces(out):
            for number, vector in enumerate(vectors):
                part = vector[rows].to(out.dtype).masked_fill(~used[rows, number, None], 0)
                out[rows].addcmul_(part, weights[rows, number, None])
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
                part = vector[rows].to(gradient.dtype).masked_fill(~used[rows, number, None], 0)
                of_weights[rows, number] = part.mul_(gradient[rows]).sum(dim=1)
        return of_weights, None, *out


class _Unit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor) -> Tensor:
        out, lengths = torch.empty_like(vectors), vectors.new_empty(len(vectors), 1, dtype=_wide(vectors))
        for rows in pieces(vectors):
            part = vectors[rows].to(lengths.dtype)
            lengths[rows] = torch.linalg.vector_norm(part, dim=1, keepdim=True).clamp_min_(1e-12)
            out[rows] = part / lengths[rows]
        ctx.save_for_backward(out, lengths)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        units, lengths = ctx.saved_tensors
        out = torch.empty_like(gradient)
        for rows in pieces(units):
            here = units[rows].to(lengths.dtype)
            along = (here * gradient[rows]).sum(dim=1, keepdim=True)
            out[rows] = torch.addcmul(gradient[rows], here, along, value=-1).div_(lengths[rows])
        return out


def _at(target: Tensor, chosen: Tensor | None, rows: slice) -> Tensor:
    return target[rows] if chosen is None else target.index_select(0, chosen[rows])


def _pairs(number: int) -> list[tuple[int, int]]:
    return [(first, second) for first in range(number) for second in range(first + 1, number)]


def _centred(vectors: Sequence[Tensor], rows: slice, dtype: torch.dtype) -> list[Tensor]:
    parts = [vector[rows].to(dtype) for vector in vectors]
    return [part - part.mean(dim=1, keepdim=True) for part in parts]


def _wide(tensor: Tensor) -> torch.dtype:
    """The dtype to sum in: at least float32."""
    return torch.promote_types(tensor.dtype, torch.float32)
