"""Clusters to test on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from clusters.zoo import CLUSTERS
from gradcode.clusters.ray_connection import connection


@pytest.fixture(scope="session")
def kept_actors() -> Iterator[None]:
    """A Ray whose actors go from test to test: starting them takes seconds."""
    with connection(None, cpus=64, keep_actors=True):
        yield


@pytest.fixture(params=CLUSTERS)
def kind(request: pytest.FixtureRequest) -> str:
    """Every cluster in turn."""
    if request.param == "ray":
        request.getfixturevalue("kept_actors")
    return str(request.param)
