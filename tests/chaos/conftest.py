"""One data set, one two-node cluster and one undisturbed run for the whole suite."""

from collections.abc import Iterator

import pytest

from dynfusion.store.dataset import Dataset
from tests.chaos.runs import run_file, train, weights
from tests.clusters import TwoNodes, two_node_cluster
from tests.datasets import packed


@pytest.fixture(scope="session")
def cluster() -> Iterator[TwoNodes]:
    with two_node_cluster(head_cpus=1, second_cpus=1, env={"RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.5"}) as made:
        yield made


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return packed(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def undisturbed(dataset: Dataset, cluster: TwoNodes, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The weights that every disturbed run has to end with."""
    folder = tmp_path_factory.mktemp("undisturbed")
    code, output = train(run_file(dataset.uri, folder), cluster.environment)
    assert code == 0, output
    return weights(folder)
