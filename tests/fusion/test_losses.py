"""Each loss against a table worked by hand, or against a slow loop that follows the formula's words."""

import math

import pytest
import torch

from dynfusion.fusion.batch import Batch
from dynfusion.fusion.gating import gate
from dynfusion.fusion.losses import (
    Context,
    LossSettings,
    contrast,
    cosine_alignment,
    entropy_deficit,
    entropy_hinge,
    gate_constancy,
    hoyer_square,
    imbalance,
    mean_gate,
    reconstruct_hidden,
    reconstruct_hidden_squared,
    shared_cosine,
)
from dynfusion.fusion.model import Fused
from dynfusion.fusion.presets import count_balanced, count_varied_gates, count_visible_pairs

T = torch.tensor


def context(**given: object) -> Context:
    """Two modalities, two rows, one group; anything not given is plain."""
    two = [torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[0.0, 2.0], [0.0, 1.0]])]
    present = given.pop("present", torch.ones(2, 2, dtype=torch.bool))
    hidden = given.pop("hidden", torch.zeros(2, 2, dtype=torch.bool))
    settings = given.pop("settings", LossSettings())
    ids = given.pop("row_ids", torch.arange(2))
    scale = given.pop("logit_scale", torch.tensor([1.0]))
    weights = (present & ~hidden).float()
    opened = given.pop("gates", [torch.full((2, 2), 0.5)] * 2)
    fields: dict[str, object] = {
        "standardised": two,
        "gates": [gate(torch.logit(g), two[m], weights[None, :, m]) for m, g in enumerate(opened)],
        "projections": two,
        "saliencies": two,
        "fused": torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
        "attention": torch.full((2, 2), 0.5),
        "reconstructions": two,
    }
    fused = Fused(**{**fields, **given})
    return Context(
        batch=Batch(tuple(two), present, hidden, ids, 2),
        fused=fused,
        settings=settings,
        informative=[torch.ones(2, dtype=torch.bool)] * 2,
        logit_scale=scale,
    )


def test_reconstruction_counts_hidden_cells_only() -> None:
    # modality 0, row 0 is hidden: x = (3, 4), xhat = (4, 3): squared error (1 + 1) / 2 = 1, cosine 24 / 25.
    made = context(
        hidden=T([[True, False], [False, False]]),
        reconstructions=[T([[4.0, 3.0], [9.0, 9.0]]), T([[7.0, 7.0], [7.0, 7.0]])],
    )
    torch.testing.assert_close(reconstruct_hidden_squared(made), T([1.0, 0.0]))
    torch.testing.assert_close(reconstruct_hidden(made), T([1.0 + 0.5 * (1 - 24 / 25), 0.0]))


def test_reconstruction_leaves_out_dimensions_that_do_not_vary() -> None:
    # only dimension 0 varies: x = (3, 0 after standardising), xhat = (5, 100): squared error 4 / 1.
    made = context(
        hidden=T([[True, False], [False, False]]),
        standardised=[T([[3.0, 0.0], [1.0, 0.0]]), T([[0.0, 2.0], [0.0, 1.0]])],
        reconstructions=[T([[5.0, 100.0], [0.0, 0.0]]), T([[0.0, 0.0], [0.0, 0.0]])],
    )
    flat = Context(
        made.batch, made.fused, made.settings, [T([True, False]), T([True, True])], logit_scale=made.logit_scale
    )
    torch.testing.assert_close(reconstruct_hidden_squared(flat), T([4.0, 0.0]))


def test_cosine_alignment_by_hand() -> None:
    # z = (1,0), (0,1). Modality 0: cosines 3/5 and 0; modality 1: 0 and 1. Sum of 1 - cos: .4 + 1 + 1 + 0 = 2.4.
    torch.testing.assert_close(cosine_alignment(context()), T([2.4]))


def test_contrast_by_hand() -> None:
    # Modality 1's keys are (0,1), (0,1): both rows see both keys alike, so each direction loses log 2 or its like.
    made = context(projections=[T([[1.0, 0.0], [0.0, 1.0]]), T([[0.0, 2.0], [0.0, 1.0]])])
    own = math.log(1 + math.exp(-1))  # cosines 1 and 0
    towards_keys = [math.log(2), math.log(2)]  # row 0 sees (0, 0), row 1 sees (1, 1)
    towards_fused = [math.log(1 + math.exp(1)), math.log(1 + math.exp(-1))]
    expected = T([2 * own, sum(towards_keys) / 2 + sum(towards_fused) / 2])
    torch.testing.assert_close(contrast(made), expected)


def test_contrast_masks_rows_and_candidate_columns_without_the_modality() -> None:
    made = context(present=T([[True, True], [True, False]]))
    assert contrast(made)[1] == 0  # the one row that has modality 1 has no other candidate left
    assert contrast(made)[0] > 0


def test_contrast_never_calls_the_same_molecule_a_negative() -> None:
    assert torch.equal(contrast(context(row_ids=T([4, 4]))), torch.zeros(2))


def test_contrast_equals_a_loop_over_rows() -> None:
    draw = torch.Generator().manual_seed(3)
    rows, size = 12, 6
    present = torch.rand(rows, 2, generator=draw) < 0.6
    present[~present.any(dim=1), 0] = True
    z = torch.randn(rows, 4, generator=draw, dtype=torch.float64)
    keys = [torch.randn(rows, 4, generator=draw, dtype=torch.float64) for _ in range(2)]
    ids = T([0, 1, 2, 0, 4, 5, 6, 7, 8, 9, 6, 11])
    made = context(fused=z, projections=keys)
    made = Context(
        Batch(tuple(keys), present, torch.zeros_like(present), ids, size),
        made.fused,
        made.settings,
        made.informative,
        torch.tensor([2.5]),
    )
    for modality in range(2):
        total = 0.0
        for start in (0, size):
            valid = [i for i in range(start, start + size) if present[i, modality]]
            for i in valid:
                for left, right in ((z, keys[modality]), (keys[modality], z)):
                    cosines = {
                        j: 2.5 * float(torch.nn.functional.cosine_similarity(left[i], right[j], dim=0))
                        for j in valid
                        if j == i or ids[j] != ids[i]
                    }
                    total += (math.log(sum(math.exp(c) for c in cosines.values())) - cosines[i]) / 2
        assert float(contrast(made)[modality]) == pytest.approx(total, rel=1e-9)


def test_diversity_is_one_for_equal_and_zero_for_orthogonal_centred_saliencies() -> None:
    same = context(saliencies=[T([[1.0, 2.0, 6.0]] * 2), T([[11.0, 12.0, 16.0]] * 2)])
    torch.testing.assert_close(shared_cosine(same), T([2.0]))  # two rows, one pair each
    crossed = context(saliencies=[T([[1.0, -1.0, 1.0, -1.0]] * 2), T([[1.0, 1.0, -1.0, -1.0]] * 2)])
    torch.testing.assert_close(shared_cosine(crossed), T([0.0]))
    assert count_visible_pairs(same.batch) == 2


def test_gate_constancy_by_hand() -> None:
    # Modality 0: dimension 0 is constant (lack 1), dimension 1 deviates by .25 of a floor of .5 (lack .5): mean .75.
    # Modality 1 is constant: lack 1.
    made = context(
        gates=[T([[0.3, 0.25], [0.3, 0.75]]), T([[0.5, 0.5], [0.5, 0.5]])], settings=LossSettings(gate_deviation=0.5)
    )
    torch.testing.assert_close(gate_constancy(made), T([0.75 + 1.0]), atol=1e-4, rtol=0)
    assert count_varied_gates(made.batch) == 2


def test_entropy_hinge_and_deficit_by_hand() -> None:
    # Row 0 has entropy H(.9, .1) / log 2 = .469, row 1 is uniform: 1.
    made = context(attention=T([[0.9, 0.1], [0.5, 0.5]]))
    low = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1)) / math.log(2)
    torch.testing.assert_close(entropy_hinge(made), T([0.5 - low]))
    torch.testing.assert_close(entropy_deficit(made), T([1 - low]))


def test_entropy_ignores_rows_without_a_choice() -> None:
    made = context(attention=T([[1.0, 0.0], [0.5, 0.5]]), present=T([[True, False], [True, True]]))
    assert entropy_hinge(made) == 0
    assert entropy_deficit(made) == 0


def test_imbalance_lets_single_rows_decide_but_not_the_group() -> None:
    decided = context(attention=T([[1.0, 0.0], [0.0, 1.0]]))
    torch.testing.assert_close(imbalance(decided), T([0.0]))
    starved = context(attention=T([[1.0, 0.0], [1.0, 0.0]]))
    torch.testing.assert_close(imbalance(starved), T([2.0]))  # (2 - 1)^2 + (0 - 1)^2
    assert count_balanced(starved.batch) == 2


def test_hoyer_square_is_the_share_of_open_gates_whatever_their_scale() -> None:
    gates = [T([[0.8, 0.8], [0.4, 0.4]]), T([[0.9, 0.0], [0.1, 0.0]])]
    torch.testing.assert_close(hoyer_square(context(gates=gates)), T([2.0, 1.0]))
    torch.testing.assert_close(mean_gate(context(gates=gates)), T([1.2, 0.5]))
