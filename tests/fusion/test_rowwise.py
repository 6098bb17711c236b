"""Each hand-written gradient against autograd through the plain formula, over one piece and over many."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dynfusion.fusion import rowwise
from dynfusion.fusion.contrast import symmetric_cross_entropy
from dynfusion.fusion.gating import gate
from tests.fusion.cases import batch, objective

DRAW = torch.Generator().manual_seed(0)


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=DRAW, dtype=torch.float64)


TARGET, USED = random(12, 7), torch.tensor([True] * 6 + [False])
TARGET[:, 6] = 0
CHOSEN = torch.tensor([1, 2, 5, 7, 11])
WEIGHTS = (torch.rand(3, 4, generator=DRAW) < 0.6).double()
WEIGHTS[1] = 0
CLOSED = (torch.rand(3, 5, 5, generator=DRAW) < 0.4) & ~torch.eye(5, dtype=torch.bool)
SEEN = torch.rand(12, 3, generator=DRAW) < 0.6


def plain_errors(prediction: Tensor) -> list[Tensor]:
    rows = TARGET[CHOSEN] if len(prediction) == len(CHOSEN) else TARGET
    square = ((prediction - rows).square() * USED).sum(dim=1) / USED.sum()
    return [square, 1 - F.cosine_similarity(prediction * USED, rows, dim=1, eps=1e-6)]


def plain_gate(logits: Tensor) -> list[Tensor]:
    gate = torch.sigmoid(logits)
    grouped, weight = gate.unflatten(0, (3, 4)), WEIGHTS[:, :, None]
    number = weight.sum(dim=1).clamp_min(1)
    mean = (grouped * weight).sum(dim=1) / number
    variance = ((grouped - mean[:, None]).square() * weight).sum(dim=1) / number
    return [gate, gate * TARGET, gate.sum(1), gate.square().sum(1), variance]


def fast_gate(logits: Tensor) -> list[Tensor]:
    made = gate(logits, TARGET, WEIGHTS)
    return [made.values, made.product, made.total, made.square, made.variance]


def plain_contrast(logits: Tensor) -> list[Tensor]:
    open_ = logits.masked_fill(CLOSED, float("-inf"))
    return [(open_.logsumexp(2) + open_.logsumexp(1)) / 2 - logits.diagonal(dim1=1, dim2=2)]


def plain_cosines(*vectors: Tensor) -> list[Tensor]:
    centred = [vector - vector.mean(dim=1, keepdim=True) for vector in vectors]
    pairs = [(0, 1), (0, 2), (1, 2)]
    return [torch.stack([F.cosine_similarity(centred[a], centred[b], dim=1) for a, b in pairs], dim=1)]


def plain_sum(weights: Tensor, *vectors: Tensor) -> list[Tensor]:
    return [sum((weights * SEEN)[:, m, None] * vector for m, vector in enumerate(vectors))]


Case = tuple[Callable[..., object], Callable[..., object], list[Tensor]]
CASES: dict[str, Case] = {
    "cell errors": (lambda p: rowwise.cell_errors(p, TARGET, USED), plain_errors, [random(12, 7)]),
    "cell errors of some rows": (
        lambda p: rowwise.cell_errors(p, TARGET, USED, CHOSEN),
        plain_errors,
        [random(5, 7)],
    ),
    "gate": (fast_gate, plain_gate, [random(12, 7)]),
    "contrast": (lambda x: [symmetric_cross_entropy(x, CLOSED)], plain_contrast, [random(3, 5, 5)]),
    "rows": (
        lambda v: rowwise.choose_rows(v, [CHOSEN, CHOSEN[2:]]),
        lambda v: [v[CHOSEN], v[CHOSEN[2:]]],
        [random(12, 7)],
    ),
    "pair cosines": (
        lambda *v: [rowwise.pair_cosines(v)],
        plain_cosines,
        [random(12, 7), random(12, 7), random(12, 7)],
    ),
    "weighted sum": (
        lambda w, *v: [rowwise.weighted_sum(v, w, SEEN)],
        plain_sum,
        [random(12, 3), random(12, 7), random(12, 7), random(12, 7)],
    ),
    "rescaled": (
        lambda v, s: [rowwise.rescaled(v, s, torch.float64)],
        lambda v, s: [s * F.normalize(v, dim=1)],
        [random(12, 7), random(1)],
    ),
}


@pytest.mark.parametrize("piece_elements", [7, 21, 1 << 17])
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_the_plain_formula(
    name: str, piece_elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rowwise, "PIECE_ELEMENTS", piece_elements)
    fast, plain, inputs = CASES[name]
    results = []
    for function in (fast, plain):
        leaves = [tensor.clone().requires_grad_() for tensor in inputs]
        outputs = list(function(*leaves))
        draw = torch.Generator().manual_seed(1)
        total = sum((out * torch.randn(out.shape, generator=draw, dtype=out.dtype)).sum() for out in outputs)
        results.append((outputs, torch.autograd.grad(total, leaves)))
    for found, expected in zip(results[0][0] + list(results[0][1]), results[1][0] + list(results[1][1]), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_lengths_of_zero_give_finite_gradients() -> None:
    nothing = torch.zeros(12, 7, dtype=torch.float64, requires_grad=True)
    square, distance = rowwise.cell_errors(nothing, TARGET, USED)
    cosines = rowwise.pair_cosines([nothing, nothing])
    (
        square.sum() + distance.sum() + cosines.sum() + rowwise.rescaled(nothing, torch.ones(1), torch.float64).sum()
    ).backward()
    assert nothing.grad is not None
    assert nothing.grad.isfinite().all()
    assert (cosines == 0).all()


def test_standardising_gives_exact_zeros_where_nothing_was_observed() -> None:
    values = torch.tensor([[1.0, 900.0], [float("nan"), float("inf")], [-3.0, 2.0]]).half()
    found = rowwise.standardise(
        values,
        torch.tensor([True, False, True]),
        mean=torch.tensor([1.0, 0.0]),
        scale=torch.tensor([0.5, 1.0]),
        bound=8.0,
    )
    assert found.tolist() == [[0.0, 8.0], [0.0, 0.0], [-2.0, 2.0]]


def test_open_gates_are_counted() -> None:
    logits = torch.logit(torch.tensor([[0.5, 0.6, 0.9], [0.1, 0.2, 0.51]]))
    assert gate(logits, logits, torch.ones(1, 2)).opened.tolist() == [2.0, 1.0]


@pytest.mark.parametrize("preset", ["robust", "paper"])
def test_decoding_only_wanted_rows_changes_no_loss_and_no_gradient(
    preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, clean = objective(preset), batch(40)
    results = []
    for everywhere in (False, True):
        if everywhere:
            monkeypatch.setattr(type(given), "_wanted", lambda _, some: torch.ones_like(some.present))
        given.zero_grad()
        totals, observed = given(clean)
        totals.sum().backward()
        results.append([totals, observed, *(p.grad.clone() for p in given.parameters() if p.grad is not None)])
    for some, all_rows in zip(*results, strict=True):
        torch.testing.assert_close(some, all_rows, rtol=1e-10, atol=1e-12)
