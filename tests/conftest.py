"""Shapes written in signatures are checked at every call while testing; one Ray cluster serves the whole session."""

from collections.abc import Iterator

import pytest
from jaxtyping import install_import_hook

install_import_hook("dynfusion", "beartype.beartype")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A local Ray cluster of at least four CPUs."""
    from dynfusion.edges.ray_cluster import cluster

    with cluster(cpus=4):
        yield
