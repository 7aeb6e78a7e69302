"""Clusters to test on, and a fork server that stays while the tests of this folder run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from clusters.zoo import CLUSTERS
from gradcode.clusters.nursery import open_server
from gradcode.clusters.ray_connection import connection


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of this folder by themselves; the hook sees those of other folders, too."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.serial)


@pytest.fixture(scope="session", autouse=True)
def fork_server() -> Iterator[None]:
    """Loading torch into the fork server takes seconds: once is enough for all tests."""
    with open_server():
        yield


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
