"""Shapes written in signatures are checked at every call while testing; one Ray cluster serves the whole session."""

from collections.abc import Iterator

import pytest
from jaxtyping import install_import_hook

from tests.clusters import TwoNodes, two_node_cluster

install_import_hook("dynfusion", "beartype.beartype")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A local Ray cluster of at least four CPUs."""
    from dynfusion.edges.ray_cluster import cluster

    with cluster(cpus=4):
        yield


@pytest.fixture(scope="session")
def two_nodes() -> Iterator[TwoNodes]:
    """A cluster of two nodes with a CPU each, reached by address and token alone; whoever adds a node takes it away."""
    with two_node_cluster(head_cpus=1, second_cpus=1) as started:
        yield started


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The endpoint of an S3 server on the loopback address, and keys for it in the environment."""
    from tests.s3 import s3_server

    with pytest.MonkeyPatch.context() as patch, s3_server() as endpoint:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
            patch.delenv(name, raising=False)
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_REGION", "us-east-1")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield endpoint
