"""Where training may start: a principal component analysis, written into projections and decoders."""

import torch
from torch import Tensor

from dynfusion.fusion.model import FusionNetwork, ModelSettings
from dynfusion.fusion.principal import principal_directions, start_at_principal_directions

WIDTHS = {"a": 7, "b": 5, "c": 9}
ROWS = 200


def started(dim: int, *, absent: str = "", seed: int = 0) -> tuple[FusionNetwork, list[Tensor], Tensor]:
    """A network that has been started on random rows; the rows, and where they are present."""
    torch.manual_seed(3)
    made = FusionNetwork(WIDTHS, ModelSettings(dim=dim, gate_hidden=4, decoder_hidden=5, score_hidden=3)).double()
    made.set_statistics({name: ([0.5] * width, [2.0] * width) for name, width in WIDTHS.items()})
    values = [0.5 + 2 * torch.randn(ROWS, width, dtype=torch.float64) for width in WIDTHS.values()]
    present = torch.ones(ROWS, len(WIDTHS), dtype=torch.bool)
    present[:, [name == absent for name in WIDTHS]] = False
    start_at_principal_directions(made, values, present, seed=seed)
    return made, values, present


@torch.no_grad()
def test_with_room_for_everything_the_start_is_an_isometry_that_is_decoded_exactly() -> None:
    made, values, present = started(dim=24)
    for tower, score in zip(made.towers, made.scores, strict=True):
        tower.gate[2].weight.zero_()  # gates at one half, and scores that are all equal
        score[3].weight.zero_()
        score[3].bias.zero_()
    fused, attention = made.encode(values, present)
    torch.testing.assert_close(attention, torch.full_like(attention, 1 / 3))
    standardised = torch.cat([(value - 0.5) / 2 for value in values], dim=1)
    torch.testing.assert_close(fused @ fused.T, standardised @ standardised.T)
    decoded = torch.cat([decoder.linear(fused) for decoder in made.decoders], dim=1)
    torch.testing.assert_close(decoded, standardised)


def test_planted_directions_are_found_and_no_dimension_is_left_empty() -> None:
    torch.manual_seed(0)
    planted = torch.linalg.qr(torch.randn(30, 4, dtype=torch.float64))[0]
    values = torch.randn(500, 4, dtype=torch.float64) * torch.tensor([9.0, 5.0, 3.0, 2.0]) @ planted.T
    values += 0.01 * torch.randn(500, 30, dtype=torch.float64)
    found = principal_directions(values, 4, seed=1)
    torch.testing.assert_close(found @ found.T, planted @ planted.T, atol=1e-2, rtol=0)
    wide = values @ principal_directions(values, 40, seed=1)
    assert wide.shape == (500, 40)
    assert (wide.std(dim=0) > 0.1).all()


def test_a_modality_without_rows_keeps_its_weights() -> None:
    torch.manual_seed(3)
    before = FusionNetwork(WIDTHS, ModelSettings(dim=6, gate_hidden=4, decoder_hidden=5, score_hidden=3)).double()
    made, _, _ = started(dim=6, absent="b")
    for number, name in enumerate(WIDTHS):
        same = torch.equal(made.towers[number].projection.weight, before.towers[number].projection.weight)
        assert same == (name == "b")


def test_the_start_is_decided_by_rows_and_seed_and_leaves_the_random_state_alone() -> None:
    one, values, present = started(dim=6)
    state = torch.get_rng_state()
    other, _, _ = started(dim=6)
    assert all(torch.equal(one.state_dict()[name], tensor) for name, tensor in other.state_dict().items())
    assert not torch.equal(one.towers[0].projection.weight, started(dim=6, seed=1)[0].towers[0].projection.weight)
    torch.set_rng_state(state)
    start_at_principal_directions(other, values, present, seed=5)
    assert torch.equal(torch.get_rng_state(), state)
