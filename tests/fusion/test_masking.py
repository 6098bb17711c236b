"""Hiding is exact, reproducible and independent of who asks."""

import itertools

import pytest
import torch

from dynfusion.fusion.masking import MaskingSettings, hidden_rate, hide, subset_share, uniform

MANY = 200_000


def realised_rate(rate: float, modalities: int) -> float:
    """The expected share of hidden cells among complete rows: Bernoulli(`rate`) given that one at least stays visible.

    Source: (p - p^M) / (1 - p^M), the mean of a binomial conditioned on not being full.
    """
    return (rate - rate**modalities) / (1 - rate**modalities)


def test_draws_are_uniform_and_differ_by_seed_epoch_row_and_stream() -> None:
    rows = torch.arange(MANY)
    draws = uniform(0, 0, rows, 0)
    assert float(draws.min()) >= 0
    assert float(draws.max()) < 1
    histogram = torch.histc(draws, bins=20, min=0, max=1)
    expected = MANY / 20
    assert float(((histogram - expected) ** 2 / expected).sum()) < 43.8  # chi-square, 19 degrees, p = .001
    for other in (uniform(1, 0, rows, 0), uniform(0, 1, rows, 0), uniform(0, 0, rows, 1)):
        assert abs(float(torch.corrcoef(torch.stack([draws, other]))[0, 1])) < 0.01


def test_the_draw_is_splitmix64_whatever_the_sign_of_its_words() -> None:
    word = (1 << 64) - 1

    def mix(number: int) -> int:
        number = (number + 0x9E3779B97F4A7C15) & word
        number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & word
        number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & word
        return number ^ (number >> 31)

    key = mix(mix(mix(7) ^ 3) ^ 2)
    rows = [0, 1, 12345, 10**9 + 7]
    expected = [(mix(mix(row) ^ key) >> 11) / 2**53 for row in rows]
    assert uniform(7, 3, torch.tensor(rows), 2).tolist() == expected


@pytest.mark.parametrize("rate", [0.1, 0.6, 0.9])
def test_hiding_is_bernoulli_given_that_one_stays_visible(rate: float) -> None:
    present = torch.ones(MANY, 3, dtype=torch.bool)
    hidden = hide(present, torch.arange(MANY), seed=0, epoch=0, rate=rate)
    assert not hidden.all(dim=1).any()
    for pattern in itertools.product([False, True], repeat=3):
        share = float((hidden == torch.tensor(pattern)).all(dim=1).double().mean())
        chance = rate ** sum(pattern) * (1 - rate) ** (3 - sum(pattern)) / (1 - rate**3) if not all(pattern) else 0.0
        assert share == pytest.approx(chance, abs=0.005)
    assert float(hidden.double().mean()) == pytest.approx(realised_rate(rate, 3), abs=0.005)


def test_after_the_ramp_rows_draw_uniform_non_empty_subsets_of_what_is_present() -> None:
    present = torch.tensor([True, False, True, True]).repeat(MANY, 1)
    hidden = hide(present, torch.arange(MANY), seed=1, epoch=2, rate=0.1, subsets=1.0)
    assert not hidden[:, 1].any()
    visible = (present & ~hidden)[:, [0, 2, 3]]
    for pattern in itertools.product([False, True], repeat=3):
        share = float((visible == torch.tensor(pattern)).all(dim=1).double().mean())
        assert share == pytest.approx(1 / 7 if any(pattern) else 0.0, abs=0.005)


def test_a_row_with_one_present_modality_keeps_it() -> None:
    present = torch.eye(3, dtype=torch.bool).repeat(1000, 1)
    for subsets in (0.0, 1.0):
        assert not hide(present, torch.arange(3000), seed=0, epoch=0, rate=0.9, subsets=subsets).any()


def test_any_part_of_the_rows_in_any_order_is_hidden_alike() -> None:
    present = torch.rand(512, 3, generator=torch.Generator().manual_seed(0)) < 0.8
    rows = torch.arange(512) * 17
    whole = hide(present, rows, seed=5, epoch=1, rate=0.4, subsets=0.3)
    turned = torch.randperm(512, generator=torch.Generator().manual_seed(1))
    assert torch.equal(whole[turned], hide(present[turned], rows[turned], seed=5, epoch=1, rate=0.4, subsets=0.3))


def test_schedules_start_end_and_hold() -> None:
    for schedule in ("linear", "cosine", "step", "exponential"):
        settings = MaskingSettings(schedule=schedule, start=0.1, end=0.6, ramp_share=0.5)
        rates = [hidden_rate(settings, progress / 100) for progress in range(101)]
        assert rates[0] == pytest.approx(0.1)
        assert rates[50] == pytest.approx(0.6)
        assert rates[100] == pytest.approx(0.6)
        assert rates == sorted(rates)
    assert hidden_rate(MaskingSettings(schedule="constant"), 0.0) == 0.6
    assert hidden_rate(MaskingSettings(ramp_share=0.5), 0.25) == pytest.approx(0.35)
    assert [subset_share(MaskingSettings(), progress) for progress in (0.0, 0.59, 0.6, 1.0)] == [0, 0, 0.2, 0.2]
