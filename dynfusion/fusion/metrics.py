"""What is watched beside the loss: who is attended to, how gates behave. Additive vectors, like the loss's totals."""

import torch
from jaxtyping import Float
from torch import Tensor

from dynfusion.fusion.batch import Batch
from dynfusion.fusion.losses import Context, gate_means, normalised_entropy, squared_error


def observe(context: Context) -> Float[Tensor, " entries"]:
    """[1 + 4 * modalities] sums: entropy; then per modality attention, gate mean, share of open gates, R2's residual.

    Attention and gates are summed over visible cells, entropy over rows with a choice, the squared residual over hidden
    cells. Detached.
    """
    batch, fused = context.batch, context.fused
    visible = batch.visible
    choice = visible.sum(dim=1) >= 2
    entropy = normalised_entropy(fused.attention, visible).masked_fill(~choice, 0).sum()[None]
    attention = (fused.attention * choice[:, None]).sum(dim=0)
    gate = _per_modality(gate_means(context), visible)
    opened = [gates.opened / gates.values.shape[1] for gates in fused.gates]
    residual = _per_modality(squared_error(context), batch.targets)
    return torch.cat([entropy, attention, gate, _per_modality(opened, visible), residual]).detach()


def observation_counts(batch: Batch) -> Float[Tensor, " entries"]:
    """What the sums of `observe` are divided by, entry for entry."""
    visible = batch.visible
    choice = visible.sum(dim=1) >= 2
    cells = visible.sum(dim=0)
    chosen = (visible & choice[:, None]).sum(dim=0)
    return torch.cat([choice.sum()[None], chosen, cells, cells, batch.targets.sum(dim=0)]).to(torch.float64)


def read_observations(sums: Tensor, counts: Tensor, modalities: tuple[str, ...]) -> dict[str, object]:
    """The means by name; None where nothing was observed.

    attention_entropy in [0, 1]; attention: mean weight where visible beside another; gate: mean gate; gate_open: share
    of gates above one half; residual: squared error of hidden cells in standardised units (1 = predicting the mean).
    """
    means = [float(s / c) if c > 0 else None for s, c in zip(sums.to(torch.float64), counts, strict=True)]
    number = len(modalities)
    blocks = [dict(zip(modalities, means[1 + k * number : 1 + (k + 1) * number], strict=True)) for k in range(4)]
    return {
        "attention_entropy": means[0],
        "attention": blocks[0],
        "gate": blocks[1],
        "gate_open": blocks[2],
        "residual": blocks[3],
    }


def _per_modality(per_row: list[Tensor], cells: Tensor) -> Tensor:
    stacked = torch.stack(per_row, dim=1)
    return torch.where(cells, stacked, torch.zeros_like(stacked)).sum(dim=0)
