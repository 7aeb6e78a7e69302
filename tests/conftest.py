"""What all tests share: one thread and the same examples every time, so that numbers repeat bit for bit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("repeatable", deadline=None, derandomize=True)  # a busy machine is no failure
settings.load_profile("repeatable")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With ``-n`` the tests of a file go to one process, for what they share, and so do all those on one Ray."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group("ray" if _shares_ray(item) else item.path.as_posix()))


def _shares_ray(item: pytest.Item) -> bool:
    """Whether it asks for the kept actors, or has the parameter "ray" and comes to ask for them."""
    given = getattr(item, "callspec", None)
    return "kept_actors" in getattr(item, "fixturenames", ()) or (given is not None and "ray" in given.params.values())
