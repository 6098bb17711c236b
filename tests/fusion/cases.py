"""Small networks and batches in float64 for the tests of the mathematics."""

import torch

from dynfusion.fusion.batch import Batch
from dynfusion.fusion.losses import LossSettings
from dynfusion.fusion.model import FusionNetwork, ModelSettings
from dynfusion.fusion.objective import FusionObjective

WIDTHS = {"a": 7, "b": 5, "c": 9}
SMALL = ModelSettings(dim=6, gate_hidden=4, decoder_hidden=5, score_hidden=3)


def network(widths: dict[str, int] = WIDTHS, seed: int = 0) -> FusionNetwork:
    torch.manual_seed(seed)
    made = FusionNetwork(widths, SMALL).double()
    made.set_statistics({name: ([0.1] * width, [0.0, *[1.5] * (width - 1)]) for name, width in widths.items()})
    return made


def objective(preset: str = "robust", **weights: float) -> FusionObjective:
    settings = LossSettings.model_validate({"preset": preset, "alignment": 0.5, "gate_deviation": 0.2, **weights})
    return FusionObjective(network(), settings).double()


def batch(rows: int = 32, *, group_rows: int = 8, seed: int = 0, widths: dict[str, int] = WIDTHS) -> Batch:
    """Values, presence (each row at least one) and hiding (each row keeps at least one visible), all random."""
    draw = torch.Generator().manual_seed(seed)
    present = torch.rand(rows, len(widths), generator=draw) < 0.75
    present[~present.any(dim=1), 0] = True
    hidden = present & (torch.rand(rows, len(widths), generator=draw) < 0.4)
    lost = ~(present & ~hidden).any(dim=1)
    hidden[lost] = False
    return Batch(
        values=tuple(torch.randn(rows, width, generator=draw, dtype=torch.float64) for width in widths.values()),
        present=present,
        hidden=hidden,
        row_ids=torch.arange(rows),
        group_rows=group_rows,
    )


def with_garbage(clean: Batch, cells: torch.Tensor, value: float) -> Batch:
    """The same batch with `value` written wherever `cells` [rows, modalities] is set."""
    values = tuple(
        torch.where(cells[:, modality, None], torch.full_like(column, value), column)
        for modality, column in enumerate(clean.values)
    )
    return Batch(values, clean.present, clean.hidden, clean.row_ids, clean.group_rows)


def loss_and_gradients(given: FusionObjective, parts: list[Batch]) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of one global batch that comes in parts, as the training loop computes them."""
    given.zero_grad()
    counts = sum((given.counts(part) for part in parts), torch.zeros(1))
    coefficients = given.coefficients(counts)
    loss = 0.0
    for part in parts:
        totals, _ = given(part)
        value = (coefficients * totals).sum()
        value.backward()
        loss += value.item()
    return loss, {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in given.named_parameters()
    }
