"""A start for training: projections and linear decoders that are a principal component analysis of the embeddings.

    X~ = U S V^T, rows of all modalities side by side --first r = min(dim, rank) columns--> A = V_r Q
    p_m = number * 2 A_m^T (g * x~_m), xhat_m = A_m z          so that z = X~ A, with gates at 1/2 and equal attention

Q is a random orthogonal matrix: every dimension of z starts with about the same variance, and none is noise to a head
that standardises. An absent modality counts as its mean, and a modality's columns are scaled up by how often it lacks.
Source: randomised SVD, Halko, Martinsson and Tropp 2011 (arXiv:0909.4061), algorithm 4.4 as `torch.svd_lowrank` has it.
"""

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dynfusion.fusion.model import FusionNetwork

SMALL = 0.1  # what the non-linear parts keep of their own random start


@torch.no_grad()
def start_at_principal_directions(
    network: FusionNetwork, values: Sequence[Tensor], present: Bool[Tensor, "rows modalities"], *, seed: int
) -> None:
    """Set a network's projections and decoders from sample rows; its statistics must be in place.

    values: [rows, dim_m] in original units. A modality that no row has keeps the weights it came with.
    """
    columns = [
        tower.standardise(value, column) / column.to(tower.mean.dtype).mean().clamp_min(1e-6).sqrt()
        for tower, value, column in zip(network.towers, values, present.unbind(dim=1), strict=True)
    ]
    directions = principal_directions(torch.cat(columns, dim=1), network.settings.dim, seed=seed)
    number = len(network.towers)
    own = directions.split(list(network.widths.values()))
    for tower, decoder, part, column in zip(network.towers, network.decoders, own, present.unbind(dim=1), strict=True):
        if not column.any():
            continue
        tower.projection.weight.copy_(2 * number * part.T)
        decoder.linear.weight.copy_(part)
        tower.projection.bias.zero_()
        decoder.linear.bias.zero_()
        for last in (cast(nn.Linear, tower.gate[2]), cast(nn.Linear, decoder.hidden[2])):
            last.weight.mul_(SMALL)
            last.bias.zero_()


def principal_directions(values: Float[Tensor, "rows width"], dim: int, *, seed: int) -> Float[Tensor, "width dim"]:
    """A = V_r Q: orthonormal columns, or r-dimensional ones when there are fewer than `dim` rows or columns."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _, _, components = torch.svd_lowrank(values, q=min(dim, *values.shape), niter=2)
        rotation, _ = torch.linalg.qr(torch.randn(dim, dim, dtype=values.dtype))
    return components @ rotation[: components.shape[1]]
