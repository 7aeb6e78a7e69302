"""Clusters to test on, and a fork server that stays while the tests of this folder run."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator

import pytest

from clusters.zoo import CLUSTERS
from gradcode.clusters.nursery import open_server
from gradcode.clusters.ray_connection import connection


@pytest.fixture(scope="session", autouse=True)
def fork_server() -> Iterator[None]:
    """Loading torch into the fork server takes seconds: once is enough for all tests.

    pytest is loaded there, too: every worker imports the main module, which is pytest's.
    """
    multiprocessing.set_forkserver_preload(["pytest"])
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
