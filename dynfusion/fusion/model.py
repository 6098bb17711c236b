"""The model: gates inside each modality, attention across them, decoders back to each.

    x~_m = clip((x_m - mean_m) / std_m)        standardised, zero where not observed
    g_m  = sigmoid(MLP_m(x~_m))                which features of this molecule count
    p_m  = W_m (g_m * x~_m) + b_m              into the shared space
    a    = softmax over visible m of score(p_m)
    z    = sum_m a_m p_m                       the fused embedding
    xhat_m = D_m(z)                            every modality again, hidden ones too

Training sees this once. A molecule that lacks a modality is encoded in two rounds (`completion`): xhat_m takes the
place of an absent x~_m, and all modalities are fused. Weights that sum to 1 over what is visible make a modality's own
share of z the larger the less there is beside it, which a head fitted on complete molecules takes for another molecule.

Source: Priyadarsini et al., "A Self-Supervised Framework for Robust Multi-Modal Molecular Representation Learning",
which gives the architecture in words; the widths, the score and the decoders' shape are our choice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from dynfusion.fusion import rowwise
from dynfusion.fusion.gating import Gates, gate
from dynfusion.settings import Settings

STD_FLOOR = 1e-3
CLIP = 8.0


class ModelSettings(Settings):
    """Widths and shapes of the model."""

    dim: int = Field(512, ge=2, description="width of the shared space and of the fused embedding")
    gate_hidden: int = Field(128, ge=1, description="hidden width of each gate's MLP")
    decoder_hidden: int = Field(512, ge=1, description="hidden width of each decoder")
    score_hidden: int = Field(64, ge=1, description="hidden width of the attention score")
    score_bound: float = Field(2.0, gt=0, description="attention scores lie within +-bound, through tanh")
    completion: bool = Field(
        True, description="when encoding, absent modalities are reconstructed and then fused like present ones"
    )


@dataclass(frozen=True)
class Fused:
    """What one forward pass gives. Lists are in the model's modality order; rows as in the batch.

    standardised: [rows, dim_m]; gates: see Gates; projections, saliencies: [rows, dim]; fused: [rows, dim];
    attention: [rows, modalities], 0 where not visible, rows sum to 1; reconstructions: [rows, dim_m], standardised,
    or only those of the rows that `decoded` names per modality.
    """

    standardised: list[Tensor]
    gates: list[Gates]
    projections: list[Tensor]
    saliencies: list[Tensor]
    fused: Tensor
    attention: Tensor
    reconstructions: list[Tensor]
    decoded: list[Tensor] | None = None


class GatedProjection(nn.Module):
    """A linear map that also tells where a gate is heard. It owns its weight: ZeRO 3 gathers parameters by owner."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        linear = nn.Linear(width, dim)
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, product: Float[Tensor, "rows width"], gate: Float[Tensor, "rows width"]) -> tuple[Tensor, Tensor]:
        """(W (g * x) + b, |W| g), [rows, dim] both, given g * x and g."""
        return F.linear(product, self.weight, self.bias), F.linear(gate, self.weight.abs())


class Tower(nn.Module):
    """One modality on its way in: standardise, gate, project."""

    mean: Tensor
    std: Tensor

    def __init__(self, width: int, settings: ModelSettings) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))
        self.gate = nn.Sequential(
            nn.Linear(width, settings.gate_hidden), nn.GELU(), nn.Linear(settings.gate_hidden, width)
        )
        self.projection = GatedProjection(width, settings.dim)

    @property
    def informative(self) -> Bool[Tensor, " width"]:
        """Dimensions that vary in the training data; the others are left out of reconstruction."""
        return self.std > STD_FLOOR

    def standardise(
        self, values: Float[Tensor, "rows width"], observed: Bool[Tensor, " rows"]
    ) -> Float[Tensor, "rows width"]:
        """Zero mean, unit variance, within +-8; exactly zero in rows that are not observed, whatever stands there."""
        scale = torch.where(self.informative, 1 / self.std, torch.zeros_like(self.std))
        return rowwise.standardise(values, observed, mean=self.mean, scale=scale, bound=CLIP)

    def forward(
        self, standardised: Float[Tensor, "rows width"], weights: Float[Tensor, "groups group_rows"]
    ) -> tuple[Gates, Tensor, Tensor]:
        """(gates, projection [rows, dim], saliency [rows, dim] = |W| g: where this gate is heard).

        `weights` says which rows of each contrast group count in the gates' variance.
        """
        gates = gate(self.gate(standardised), standardised, weights)
        return (gates, *self.projection(gates.product, gates.values))


class Decoder(nn.Module):
    """From the fused embedding back to one modality, standardised: a linear map plus one hidden layer."""

    def __init__(self, width: int, settings: ModelSettings) -> None:
        super().__init__()
        self.linear = nn.Linear(settings.dim, width)
        self.hidden = nn.Sequential(
            nn.Linear(settings.dim, settings.decoder_hidden), nn.GELU(), nn.Linear(settings.decoder_hidden, width)
        )

    def forward(self, fused: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows width"]:
        return self.linear(fused).add_(self.hidden(fused))


class FusionNetwork(nn.Module):
    """Gates, projections, attention and decoders over any number of modalities of any widths."""

    def __init__(self, widths: Mapping[str, int], settings: ModelSettings) -> None:
        super().__init__()
        self.widths = dict(widths)
        self.settings = settings
        # The casts tell a type checker what a ModuleList holds.
        self.towers = cast(Sequence[Tower], nn.ModuleList(Tower(width, settings) for width in widths.values()))
        self.scores = cast(Sequence[nn.Sequential], nn.ModuleList(_score(settings) for _ in widths))
        self.decoders = cast(Sequence[Decoder], nn.ModuleList(Decoder(width, settings) for width in widths.values()))

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.widths)

    def set_statistics(self, statistics: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> None:
        """Store each modality's mean and standard deviation over the training rows in the model's buffers."""
        for name, tower in zip(self.modalities, self.towers, strict=True):
            mean, std = statistics[name]
            tower.mean.copy_(torch.as_tensor(mean))
            tower.std.copy_(torch.as_tensor(std))

    def forward(
        self,
        values: Sequence[Tensor],
        present: Bool[Tensor, "rows modalities"],
        visible: Bool[Tensor, "rows modalities"],
        *,
        wanted: Bool[Tensor, "rows modalities"] | None = None,
        group_rows: int | None = None,
    ) -> Fused:
        """Everything the losses need. Only visible cells reach attention, fused embedding and reconstructions.

        `wanted` names the cells whose reconstructions will be looked at. On a CPU the others are not computed; on a GPU
        they are, since choosing rows there would make the host wait. `group_rows` are those of a contrast group, all of
        them by default.
        """
        columns = present.unbind(dim=1)
        standardised = [
            tower.standardise(value, column) for tower, value, column in zip(self.towers, values, columns, strict=True)
        ]
        weights = visible.to(standardised[0].dtype).unflatten(0, (-1, group_rows or len(visible)))
        encoded = [
            tower(value, weight)
            for tower, value, weight in zip(self.towers, standardised, weights.unbind(dim=2), strict=True)
        ]
        projections = [projection for _, projection, _ in encoded]
        attention = self.attend(projections, visible)
        fused = fuse(projections, attention, visible)
        decoded = _rows_to_decode(wanted)
        base = fused.to(projections[0].dtype)  # once, not in every decoder, where autocast makes it narrow
        bases = [base] * len(projections) if decoded is None else rowwise.choose_rows(base, decoded)
        return Fused(
            standardised=standardised,
            gates=[gate for gate, _, _ in encoded],
            projections=projections,
            saliencies=[saliency for _, _, saliency in encoded],
            fused=fused,
            attention=attention,
            reconstructions=[decoder(base) for decoder, base in zip(self.decoders, bases, strict=True)],
            decoded=decoded,
        )

    def attend(
        self, projections: Sequence[Tensor], visible: Bool[Tensor, "rows modalities"]
    ) -> Float[Tensor, "rows modalities"]:
        """Weights that are 0 where not visible and sum to 1 over each row; every row needs one visible modality."""
        raw = torch.cat([score(projection) for score, projection in zip(self.scores, projections, strict=True)], dim=1)
        bounded = self.settings.score_bound * torch.tanh(raw.to(torch.promote_types(raw.dtype, torch.float32)))
        return masked_softmax(bounded, visible)

    def encode(
        self, values: Sequence[Tensor], visible: Bool[Tensor, "rows modalities"]
    ) -> tuple[Float[Tensor, "rows dim"], Float[Tensor, "rows modalities"]]:
        """The fused embedding, completed if the settings say so, and the attention to what is visible."""
        columns = visible.unbind(dim=1)
        standardised = [
            tower.standardise(value, column) for tower, value, column in zip(self.towers, values, columns, strict=True)
        ]
        fused, attention = self._fuse_once(standardised, visible)
        lacking = (~visible.all(dim=1)).nonzero()[:, 0]
        if self.settings.completion and len(lacking):
            filled = self._fill([value[lacking] for value in standardised], visible[lacking], fused[lacking])
            fused[lacking], _ = self._fuse_once(filled, torch.ones_like(visible[lacking]))
        return fused, attention

    def _fuse_once(self, standardised: Sequence[Tensor], visible: Tensor) -> tuple[Tensor, Tensor]:
        weights = visible.to(standardised[0].dtype)
        projections = [
            tower(value, weight[None])[1]
            for tower, value, weight in zip(self.towers, standardised, weights.unbind(dim=1), strict=True)
        ]
        attention = self.attend(projections, visible)
        return fuse(projections, attention, visible), attention

    def _fill(self, standardised: Sequence[Tensor], visible: Tensor, fused: Tensor) -> list[Tensor]:
        """What is visible, and reconstructions within the bounds of standardised values where it is not."""
        return [
            torch.where(column[:, None], value, found.clamp(-CLIP, CLIP) * tower.informative)
            for column, value, found, tower in zip(
                visible.unbind(dim=1), standardised, self.decode(fused), self.towers, strict=True
            )
        ]

    def decode(self, fused: Float[Tensor, "rows dim"]) -> list[Tensor]:
        """Every modality in standardised units, [rows, dim_m] each."""
        return [decoder(fused) for decoder in self.decoders]


def _score(settings: ModelSettings) -> nn.Sequential:
    """How much a projection asks for attention, before it is bounded."""
    return nn.Sequential(
        nn.LayerNorm(settings.dim, elementwise_affine=False),
        nn.Linear(settings.dim, settings.score_hidden),
        nn.GELU(),
        nn.Linear(settings.score_hidden, 1),
    )


def masked_softmax(
    scores: Float[Tensor, "rows modalities"], visible: Bool[Tensor, "rows modalities"]
) -> Float[Tensor, "rows modalities"]:
    """Softmax over the visible entries of each row; exactly 0 elsewhere, with exactly zero gradient there."""
    return torch.softmax(scores.masked_fill(~visible, float("-inf")), dim=1)


def fuse(
    projections: Sequence[Tensor],
    attention: Float[Tensor, "rows modalities"],
    visible: Bool[Tensor, "rows modalities"],
) -> Float[Tensor, "rows dim"]:
    """The attention-weighted sum of the visible projections."""
    return rowwise.weighted_sum(projections, attention, visible)


def _rows_to_decode(wanted: Tensor | None) -> list[Tensor] | None:
    """Per modality the rows with a wanted cell; None: all of them."""
    if wanted is None or wanted.device.type != "cpu" or torch.compiler.is_compiling() or wanted.all():
        return None
    return [column.nonzero()[:, 0] for column in wanted.unbind(dim=1)]
