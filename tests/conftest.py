"""What all tests share: one thread and the same examples every time, so that numbers repeat bit for bit; one server
that forks the workers of local clusters; and which tests stay together."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

from gradcode.clusters.nursery import open_server

torch.set_num_threads(1)
settings.register_profile("repeatable", deadline=None, derandomize=True)  # a busy machine is no failure
settings.load_profile("repeatable")


@pytest.fixture(scope="session", autouse=True)
def fork_server() -> Iterator[None]:
    """Loading torch and Numba into the fork server takes seconds: once is enough for all tests.

    pytest is loaded there, too: every worker imports the main module, which is pytest's.
    """
    multiprocessing.set_forkserver_preload(["pytest"])
    with open_server(compressing=True):
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With ``-n`` the tests of a file go to one process, for what they share, and so do all those on one Ray."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group("ray" if _shares_ray(item) else item.path.as_posix()))


def _shares_ray(item: pytest.Item) -> bool:
    """Whether it asks for the kept actors, or has the parameter "ray" and comes to ask for them."""
    given = getattr(item, "callspec", None)
    return "kept_actors" in getattr(item, "fixturenames", ()) or (given is not None and "ray" in given.params.values())
