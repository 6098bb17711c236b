"""What a step computes: hand-worked, and beside recordings of real steps."""

import random
from typing import Any

import pytest

from dynfusion.fusion.losses import LossSettings
from dynfusion.fusion.masking import MaskingSettings
from dynfusion.fusion.model import FusionNetwork, ModelSettings
from dynfusion.fusion.objective import FusionObjective
from dynfusion.training.planning.passes import calls, held_bytes, pass_bytes
from dynfusion.training.planning.work import (
    Shape,
    decoded_shares,
    mean_hidden_share,
    parameters,
    products,
    step_flops,
)
from tests.training.fit_passes import Case, random_case, record

TINY = ModelSettings(dim=3, gate_hidden=1, decoder_hidden=2, score_hidden=1)
KINDS = [("robust", "fp32"), ("robust", "bf16"), ("paper", "fp32"), ("paper", "bf16")]


def test_a_tiny_model_has_the_parameters_counted_by_hand() -> None:
    # gate 2x1 + 1 + 1x2 + 2, projection 2x3 + 3, score 3x1 + 1 + 1x1 + 1, decoder 3x2 + 2 + 3x2 + 2 + 2x2 + 2, and
    # the temperature
    assert parameters((2,), TINY) == 7 + 9 + 6 + 22 + 1


def test_a_tiny_step_has_the_operations_counted_by_hand() -> None:
    shape = Shape((2,), TINY, LossSettings(), "fp32", rows=4, group_rows=2, decoded=(1.0,))
    linear = {
        "gate in": 2 * (4 * 2 * 1) * 2,  # its input is data: no gradient
        "gate out": 2 * (4 * 1 * 2) * 3,
        "projection": 2 * (4 * 2 * 3) * 3,
        "saliency": 2 * (4 * 2 * 3) * 1,  # one modality has no pair, so nothing comes back
        "score": 2 * (4 * 3 * 1) * 3 + 2 * (4 * 1 * 1) * 3,
        "decoder": 2 * (4 * 3 * 2) * 3,
        "decoder's hidden layer": 2 * (4 * 3 * 2) * 3 + 2 * (4 * 2 * 2) * 3,
    }
    contrast = 2 * (2 * 2 * 3) * 2 * 3  # two groups of two rows
    assert step_flops(shape) == sum(linear.values()) + contrast == 752 + 144


@pytest.mark.parametrize("dims", [(2,), (12, 20, 16), (768, 1024, 1024)])
@pytest.mark.parametrize("model", [ModelSettings(), TINY, ModelSettings(dim=64, decoder_hidden=200)])
def test_parameters_are_those_of_the_real_model(dims: tuple[int, ...], model: ModelSettings) -> None:
    network = FusionNetwork({f"m{number}": width for number, width in enumerate(dims)}, model)
    real = FusionObjective(network, LossSettings())
    assert parameters(dims, model) == sum(parameter.numel() for parameter in real.parameters())


@pytest.mark.parametrize(("preset", "precision"), KINDS)
def test_operations_are_those_of_recorded_steps_and_the_rest_nearly_so(preset: Any, precision: str) -> None:
    draw = random.Random(7)  # the table was fitted to other draws
    for _ in range(3):
        shape, recorded = record(random_case(draw, preset, precision))
        assert step_flops(shape) == recorded.flops
        assert len(products(shape)) == len(recorded.products)
        assert calls(shape) == pytest.approx(recorded.calls, rel=0.05)
        assert pass_bytes(shape) == pytest.approx(recorded.pass_bytes, rel=0.1)
        assert held_bytes(shape) == pytest.approx(recorded.peak_bytes, rel=0.2)


@pytest.mark.parametrize(("preset", "precision"), KINDS)
def test_a_step_of_the_default_model_is_planned_as_it_is_recorded(preset: Any, precision: str) -> None:
    case = Case((768, 1024, 1024), ModelSettings(), LossSettings(preset=preset), precision, 256, 32)
    shape, recorded = record(case)
    assert step_flops(shape) == recorded.flops
    assert pass_bytes(shape) == pytest.approx(recorded.pass_bytes, rel=0.1)
    assert held_bytes(shape) == pytest.approx(recorded.peak_bytes, rel=0.2)


@pytest.mark.parametrize("changed", [{"diversity": 0.0}, {"alignment": 0.0}, {"visible_weight": 0.0}])
def test_a_term_without_weight_is_not_computed(changed: dict[str, float]) -> None:
    shape, recorded = record(Case((48, 96), TINY, LossSettings(**changed), "fp32", 64, 16))
    assert step_flops(shape) == recorded.flops


def test_only_looked_at_reconstructions_count_on_a_cpu_and_all_on_a_gpu() -> None:
    present, masking = (0.5, 1.0), MaskingSettings(schedule="constant", end=0.0, ramp_share=1.0, subset_share=0.0)
    assert decoded_shares(present, LossSettings(), masking, on_gpu=True) == (1.0, 1.0)
    assert decoded_shares(present, LossSettings(), masking, on_gpu=False) == present
    assert decoded_shares(present, LossSettings(preset="paper"), masking, on_gpu=False) == (0.0, 0.0)


def test_the_mean_share_of_hidden_cells_is_that_of_the_schedule() -> None:
    # two modalities at rate r: both hidden is ruled out, so each is hidden in r (1 - r) of 1 - r^2 cases
    constant = MaskingSettings(schedule="constant", end=0.5, ramp_share=1.0, subset_share=0.0)
    assert mean_hidden_share(2, constant) == pytest.approx(0.5 * 0.5 / 0.75)
    uniform = MaskingSettings(schedule="constant", end=0.5, ramp_share=0.0, subset_share=1.0)
    assert mean_hidden_share(2, uniform) == pytest.approx(1 / 3)  # of {a}, {b}, {a, b}
