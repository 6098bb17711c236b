"""The invariants of the mathematics, as properties over random batches."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynfusion.fusion.batch import Batch
from dynfusion.fusion.objective import FusionObjective
from tests.fusion.cases import WIDTHS, batch, loss_and_gradients, network, objective, with_garbage

SEEDS = st.integers(0, 10_000)
GARBAGE = st.sampled_from([float("nan"), float("inf"), 1e30, -1e30])
few = settings(max_examples=15, deadline=None)


def forward(given_batch: Batch, seed: int = 0) -> list[torch.Tensor]:
    fused = network(seed=seed)(given_batch.values, given_batch.present, given_batch.visible)
    return [fused.fused, fused.attention, *fused.reconstructions]


@pytest.mark.parametrize("preset", ["robust", "paper"])
@few
@given(seed=SEEDS, value=GARBAGE)
def test_absent_values_change_no_output_no_loss_and_no_gradient(preset: str, seed: int, value: float) -> None:
    clean = batch(seed=seed)
    dirty = with_garbage(clean, ~clean.present, value)
    for one, other in zip(forward(clean), forward(dirty), strict=True):
        assert torch.equal(one, other)
    made = objective(preset)
    loss, gradients = loss_and_gradients(made, [clean])
    dirty_loss, dirty_gradients = loss_and_gradients(made, [dirty])
    assert loss == dirty_loss
    assert all(torch.equal(gradients[name], dirty_gradients[name]) for name in gradients)


@few
@given(seed=SEEDS, value=GARBAGE)
def test_hidden_values_change_neither_the_fused_embedding_nor_attention_nor_reconstructions(
    seed: int, value: float
) -> None:
    clean = batch(seed=seed)
    for one, other in zip(forward(clean), forward(with_garbage(clean, clean.hidden, value)), strict=True):
        assert torch.equal(one, other)


@few
@given(seed=SEEDS, order=st.permutations(range(len(WIDTHS))))
def test_the_order_of_modalities_is_irrelevant(seed: int, order: list[int]) -> None:
    clean = batch(seed=seed)
    straight = objective()
    names = list(WIDTHS)
    turned = FusionObjective(network({names[k]: WIDTHS[names[k]] for k in order}), straight.settings).double()
    for kind in ("towers", "scores", "decoders"):
        source, target = getattr(straight.network, kind), getattr(turned.network, kind)
        for position, modality in enumerate(order):
            target[position].load_state_dict(source[modality].state_dict())
    moved = Batch(
        tuple(clean.values[k] for k in order),
        clean.present[:, order],
        clean.hidden[:, order],
        clean.row_ids,
        clean.group_rows,
    )
    assert loss_and_gradients(straight, [clean])[0] == pytest.approx(loss_and_gradients(turned, [moved])[0], rel=1e-12)
    one = straight.network(clean.values, clean.present, clean.visible)
    other = turned.network(moved.values, moved.present, moved.visible)
    torch.testing.assert_close(one.fused, other.fused, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(one.attention[:, order], other.attention, rtol=1e-12, atol=1e-12)


@few
@given(seed=SEEDS)
def test_attention_is_zero_where_not_visible_and_sums_to_one(seed: int) -> None:
    clean = batch(seed=seed)
    attention = network()(clean.values, clean.present, clean.visible).attention
    assert (attention[~clean.visible] == 0).all()
    torch.testing.assert_close(attention.sum(dim=1), torch.ones(len(attention), dtype=torch.float64))


def test_one_visible_modality_has_all_attention_and_decides_the_fused_embedding_alone() -> None:
    clean = batch()
    alone = torch.zeros_like(clean.present)
    alone[:, 1] = True
    present = clean.present | alone
    made = network()
    fused = made(clean.values, present, alone)
    assert (fused.attention[:, 1] == 1).all()
    torch.testing.assert_close(fused.fused, fused.projections[1])
    others = tuple(value if k == 1 else value + 100 for k, value in enumerate(clean.values))
    assert torch.equal(made(others, present, alone).fused, fused.fused)


@pytest.mark.parametrize("preset", ["robust", "paper"])
@pytest.mark.parametrize("ranks", [2, 4])
@few
@given(seed=SEEDS)
def test_loss_and_gradient_of_a_split_batch_equal_the_whole_batch(preset: str, ranks: int, seed: int) -> None:
    whole = batch(seed=seed)
    made = objective(preset)
    loss, gradients = loss_and_gradients(made, [whole])
    split_loss, split_gradients = loss_and_gradients(made, whole.micro_batches(ranks))
    assert loss == pytest.approx(split_loss, rel=1e-12)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, split_gradients[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("preset", ["robust", "paper"])
def test_an_uneven_split_equals_the_whole_batch(preset: str) -> None:
    whole = batch(40, group_rows=8)
    made = objective(preset)
    loss, gradients = loss_and_gradients(made, [whole])
    parts = whole.micro_batches(3)
    assert sorted(len(part.row_ids) for part in parts) == [8, 16, 16]
    split_loss, split_gradients = loss_and_gradients(made, parts)
    assert loss == pytest.approx(split_loss, rel=1e-12)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, split_gradients[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("preset", ["robust", "paper"])
def test_no_data_gives_exactly_zero_gradient_and_says_so(preset: str) -> None:
    clean = batch()
    one_each = torch.zeros_like(clean.present)
    one_each[:, 0] = True
    bare = Batch(clean.values, one_each, torch.zeros_like(one_each), clean.row_ids, clean.group_rows)
    made = objective(preset, alignment=0.0, sparsity=0.0, visible_weight=0.0, gate_deviation=0.0)
    loss, gradients = loss_and_gradients(made, [bare])
    assert loss == 0
    assert all((gradient == 0).all() for gradient in gradients.values())
    counts = made.counts(bare)
    reading = made.read(made(bare)[0].detach(), counts)
    assert reading.terms["reconstruction"] is None
    assert reading.terms["entropy"] is None


@pytest.mark.parametrize("preset", ["robust", "paper"])
def test_a_single_modality_trains(preset: str) -> None:
    made = FusionObjective(network({"a": 7}), objective(preset).settings).double()
    clean = batch(16, widths={"a": 7})
    loss, gradients = loss_and_gradients(made, [replace(clean, hidden=torch.zeros_like(clean.hidden))])
    assert loss > 0
    assert all(gradient.isfinite().all() for gradient in gradients.values())


def test_a_group_is_never_split_over_micro_batches() -> None:
    with pytest.raises(ValueError, match="accumulation: found 5, allowed at most 4"):
        batch(32, group_rows=8).micro_batches(5)
