"""Several data sets as one: shares, resume, and the same rows as each set alone would give."""

from collections import Counter

import numpy as np
import pytest

from dynfusion.fusion.losses import LossSettings
from dynfusion.store.dataset import Dataset
from dynfusion.store.feed import Feed, FeedSettings
from dynfusion.store.order import Position
from dynfusion.training.assemble import begin, make_mixture, make_objective, make_order, start_from
from dynfusion.training.config import DataSettings, TrainSettings
from dynfusion.training.mixture import MixedFeed
from dynfusion.training.sources import Sources, join
from tests.datasets import packed
from tests.training.cases import MODEL, TRAIN


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> list[Dataset]:
    return [packed(tmp_path_factory.mktemp("one")), packed(tmp_path_factory.mktemp("two"), seed=5)]


def settings(datasets: list[Dataset], **more: object) -> DataSettings:
    return DataSettings(uri=tuple(dataset.uri for dataset in datasets), group_rows=32, **more)


def batches(sources: Sources, data: DataSettings, start: int, number: int) -> list[tuple[list[int], int]]:
    mixture = make_mixture(sources, data, TRAIN)

    def open_feed(source: int, at: Position) -> Feed:
        return Feed(
            sources.datasets[source],
            mixture.orders[source],
            rank=0,
            world_size=1,
            start=at,
            settings=FeedSettings(threads=1).shared_by(2),
        )

    feed = MixedFeed(mixture, start, open_feed)
    try:
        return [(batch.row_ids.tolist(), batch.position.epoch) for batch, _ in zip(feed, range(number), strict=False)]
    finally:
        feed.close()


@pytest.mark.parametrize("weights", [(), (2.0, 1.0), (0.4, 1.0)])
def test_an_epoch_passes_over_each_set_as_often_as_its_weight_says(
    weights: tuple[float, ...], datasets: list[Dataset]
) -> None:
    mixture = make_mixture(join(datasets, weights), settings(datasets), TRAIN)
    epoch = mixture.steps_per_epoch
    alone = [order.steps_per_epoch for order in mixture.orders]
    for number in range(3):
        seen = Counter(mixture.at(number * epoch + step)[0] for step in range(epoch))
        assert [seen[source] for source in (0, 1)] == [
            round(weight * steps) for weight, steps in zip(weights or (1, 1), alone, strict=True)
        ]
    for half in (range(epoch // 2), range(epoch // 2, epoch)):
        share = np.mean([mixture.at(step)[0] for step in half])
        assert share == pytest.approx(mixture.shares[1] / epoch, abs=1.5 / len(half))


def test_every_set_goes_its_own_way_through_its_epochs(datasets: list[Dataset]) -> None:
    mixture = make_mixture(join(datasets, (2.0, 1.0)), settings(datasets), TRAIN)
    for source, order in enumerate(mixture.orders):
        steps = [step for step in range(3 * mixture.steps_per_epoch) if mixture.at(step)[0] == source]
        expected = Position(0, 0)
        for step in steps:
            assert mixture.at(step) == (source, expected)
            assert mixture.position(source, step) == expected
            expected = order.after(expected)


def test_a_mixed_feed_gives_each_sets_own_batches_and_resumes_anywhere(datasets: list[Dataset]) -> None:
    sources, data = join(datasets, (2.0, 1.0)), settings(datasets)
    mixture = make_mixture(sources, data, TRAIN)
    whole = batches(sources, data, 0, 20)
    for step, (rows, epoch) in enumerate(whole):
        source, position = mixture.at(step)
        order = mixture.orders[source]
        assert rows == order.rows(position.epoch, position.step, range(order.layout.lanes)).tolist()
        assert epoch == position.epoch
    for start in (1, 7, 13):
        assert batches(sources, data, start, 20 - start) == whole[start:]


def test_statistics_are_those_of_all_rows_together(datasets: list[Dataset]) -> None:
    together = join(datasets, ()).modalities
    for column, spec in enumerate(together):
        parts = [dataset.read("train") for dataset in datasets]
        rows = np.concatenate([part.values[spec.name][part.present[:, column]] for part in parts]).astype(np.float64)
        np.testing.assert_allclose(spec.mean, rows.mean(axis=0), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(spec.std, rows.std(axis=0), rtol=1e-9, atol=1e-12)
        assert spec.present_rows == len(rows)


def test_what_does_not_go_together_is_refused(datasets: list[Dataset]) -> None:
    with pytest.raises(ValueError, match=r"setting data\.weights: found 3 of them, allowed are 2 or none"):
        join(datasets, (1.0, 1.0, 1.0))
    assert join(datasets[:1], ()).fingerprint == datasets[0].manifest.fingerprint
    fingerprints = {join(datasets, weights).fingerprint for weights in ((), (2.0, 1.0), (1.0, 2.0))}
    assert len(fingerprints) == 3


def test_a_warm_start_takes_weights_and_statistics_and_refuses_another_build(datasets: list[Dataset]) -> None:
    trained = make_objective(datasets[0].manifest.modalities, MODEL, LossSettings(), seed=1).network
    mine = make_objective(datasets[1].manifest.modalities, MODEL, LossSettings(), seed=2).network
    start_from(mine, trained, "model")
    for name, tensor in trained.state_dict().items():
        assert (mine.state_dict()[name] == tensor).all(), name
    wide = MODEL.model_copy(update={"dim": 16})
    other = make_objective(datasets[1].manifest.modalities, wide, LossSettings(), seed=2).network
    with pytest.raises(ValueError, match=r"setting train\.init: the model in model has dim 8, this run 16"):
        start_from(other, trained, "model")


def test_a_principal_start_sees_all_data_sets_and_excludes_a_warm_start(datasets: list[Dataset]) -> None:
    def weights(sets: list[Dataset], start: str) -> list[np.ndarray]:
        made = make_objective(datasets[0].manifest.modalities, MODEL, LossSettings(), seed=1).network
        begin(made, join(sets, ()), TRAIN.model_copy(update={"start": start}))
        return [tower.projection.weight.detach().numpy() for tower in made.towers]

    drawn, one, both = weights(datasets, "random"), weights(datasets[:1], "principal"), weights(datasets, "principal")
    for first, second, third in zip(drawn, one, both, strict=True):
        assert not np.array_equal(first, second)
        assert not np.allclose(second, third, atol=1e-3)
    with pytest.raises(ValueError, match="start principal would replace the weights of init"):
        TrainSettings(init="model", start="principal")


def test_one_data_set_is_a_mixture_of_one(datasets: list[Dataset]) -> None:
    data = DataSettings(uri=datasets[0].uri)
    order = make_order(datasets[0].manifest, data, TRAIN)
    mixture = make_mixture(join(datasets[:1], ()), data, TRAIN)
    assert mixture.steps_per_epoch == order.steps_per_epoch
    assert [mixture.at(step) for step in range(12)] == [
        (0, Position(*divmod(step, order.steps_per_epoch))) for step in range(12)
    ]
