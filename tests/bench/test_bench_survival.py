"""What the survival benchmark calls a loss."""

from tests.bench.bench_survival import difference


def test_only_the_same_steps_and_the_same_weights_are_no_loss() -> None:
    steps = [20, 40, 60]
    assert difference(steps, steps, equal_weights=True) is None
    assert "1 missing [40]" in str(difference(steps, [20, 60], equal_weights=True))
    assert "1 repeated [40]" in str(difference(steps, [20, 40, 40, 60], equal_weights=True))
    assert "1 more [80]" in str(difference(steps, [*steps, 80], equal_weights=True))
    assert "weights" in str(difference(steps, steps, equal_weights=False))
    assert "recorded 0 steps" in str(difference([], [], equal_weights=True))
