"""What training minimises: the network and its loss terms as one module from a batch to two additive vectors.

    batch --network--> Fused --parts--> totals [parts' entries]          gradient flows here
                                  \\----> observations [entries]          detached: attention, gates, entropy
    masks ----------------------------> counts of both, before any forward pass

Totals and counts of micro-batches and ranks are summed first; `coefficients` then does the one division.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dynfusion.fusion.batch import Batch
from dynfusion.fusion.losses import Context, LossSettings, initial_log_scale, reconstruct_visible
from dynfusion.fusion.metrics import observation_counts, observe
from dynfusion.fusion.model import FusionNetwork
from dynfusion.fusion.presets import PRESETS, TERMS, Part

MAX_LOG_SCALE = 4.6052  # a temperature of 0.01


@dataclass(frozen=True)
class Reading:
    """One global batch's loss and terms, each after the division by the counts of the whole global batch."""

    loss: float
    terms: dict[str, float | None]


class FusionObjective(nn.Module):
    """Network, loss settings and the contrast's learned temperature."""

    def __init__(self, network: FusionNetwork, settings: LossSettings) -> None:
        super().__init__()
        self.network = network
        self.settings = settings
        self.log_scale = nn.Parameter(torch.tensor([initial_log_scale(settings)]))
        self.parts = tuple(part for part in PRESETS[settings.preset] if weight(part, settings) > 0)
        self.sizes = [_entries(part, len(network.widths)) for part in self.parts]

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(totals, observations): vectors whose sum over micro-batches and ranks belongs to the global batch."""
        fused = self.network(
            batch.values, batch.present, batch.visible, wanted=self._wanted(batch), group_rows=batch.group_rows
        )
        context = Context(
            batch=batch,
            fused=fused,
            settings=self.settings,
            informative=[tower.informative for tower in self.network.towers],
            logit_scale=self.log_scale.clamp(0, MAX_LOG_SCALE).exp(),
        )
        totals = torch.cat([part.total(context) for part in self.parts])
        with torch.no_grad():
            return totals, observe(context)

    def counts(self, batch: Batch) -> Float[Tensor, " entries"]:
        """What the totals average over, from masks alone, float64."""
        return torch.cat([part.count(batch) for part in self.parts]).to(torch.float64)

    def coefficients(self, counts: Float[Tensor, " entries"]) -> Float[Tensor, " entries"]:
        """c such that the global batch's loss is c @ totals; entries without any data get 0.

        `counts` must be those of the whole global batch.
        """
        return torch.cat([weight(part, self.settings) * c for part, c in self._divisors(counts)])

    def read(self, totals: Float[Tensor, " entries"], counts: Float[Tensor, " entries"]) -> Reading:
        """The loss and each term, unweighted by the terms' own weights; None for a term without data or weight."""
        terms: dict[str, float | None] = dict.fromkeys(TERMS)
        start = 0
        for part, divisor in self._divisors(counts):
            entries = totals[start : start + len(divisor)].to(torch.float64)
            start += len(divisor)
            if divisor.any():
                value = part.share(self.settings) * float(divisor @ entries)
                terms[part.term] = (terms[part.term] or 0.0) + value
        weights = {term: float(getattr(self.settings, term)) for term in TERMS}
        loss = sum((weights[term] * value for term, value in terms.items() if value is not None), 0.0)
        return Reading(loss=loss, terms=terms)

    def observation_counts(self, batch: Batch) -> Float[Tensor, " entries"]:
        """What the observations average over, float64."""
        return observation_counts(batch).to(torch.float64)

    def _wanted(self, batch: Batch) -> Tensor:
        """The cells whose reconstruction some part looks at."""
        return batch.present if any(part.total is reconstruct_visible for part in self.parts) else batch.targets

    def _divisors(self, counts: Tensor) -> list[tuple[Part, Tensor]]:
        """Per part, [entries]: 1 / (count * number of entries with data), 0 where there are no data."""
        divisors = []
        for part, chunk in zip(self.parts, counts.split(self.sizes), strict=True):
            filled = chunk > 0
            divisors.append((part, torch.where(filled, 1 / (chunk.clamp_min(1) * filled.sum().clamp_min(1)), 0.0)))
        return divisors


def _entries(part: Part, modalities: int) -> int:
    """How long a part's vectors are: one entry, or one per modality."""
    nothing = torch.zeros(1, modalities, dtype=torch.bool)
    empty = Batch(
        values=tuple(torch.zeros(1, 1) for _ in range(modalities)),
        present=nothing,
        hidden=nothing,
        row_ids=torch.zeros(1, dtype=torch.int64),
        group_rows=1,
    )
    return len(part.count(empty))


def weight(part: Part, settings: LossSettings) -> float:
    """A part's weight in the loss: the term's weight times the part's share in the term."""
    return float(getattr(settings, part.term)) * part.share(settings)
