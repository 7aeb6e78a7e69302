"""What all tests share: one thread and the same examples every time, so that numbers repeat bit for bit, and one server
that forks the workers of local clusters."""

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
