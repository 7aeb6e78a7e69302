"""Checks of constructor arguments: every message names the argument, its value and what it must satisfy."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import NDArray

Seed = np.random.Generator | int


def integer(name: str, value: SupportsIndex, low: int, high: int | None = None, because: str = "") -> int:
    """``value`` as an int within [low, high]; ValueError otherwise."""
    wanted = f"at least {low}" if high is None else f"between {low} and {high}"
    reason = f" ({because})" if because else ""
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name}={value!r} must be an integer, {wanted}{reason}") from None
    if isinstance(value, bool) or number < low or (high is not None and number > high):
        raise ValueError(f"{name}={value!r} must be an integer, {wanted}{reason}")
    return number


def choice(name: str, value: str, allowed: Sequence[str]) -> str:
    """``value`` if it is among ``allowed``; ValueError otherwise."""
    if value not in allowed:
        raise ValueError(f"{name}={value!r} must be one of {', '.join(map(repr, allowed))}")
    return value


def workers_and_stragglers(workers: SupportsIndex, stragglers: SupportsIndex) -> tuple[int, int]:
    """Both as ints: at least one worker, and at least one of them no straggler."""
    n = integer("workers", workers, 1)
    s = integer("stragglers", stragglers, 0, n - 1, f"one of workers={n} must answer")
    return n, s


def group_sizes(partitions: SupportsIndex | None, groups: int, what: str = "workers") -> NDArray[np.int64]:
    """Sizes (groups,) of nearly equal consecutive groups of the partitions; each partition alone for None."""
    if partitions is None:
        return np.ones(groups, dtype=np.int64)
    total = integer("partitions", partitions, groups, because=f"each of {groups} {what} needs one")
    return np.diff(even_cuts(total, groups))


def even_cuts(total: int, parts: int) -> NDArray[np.int64]:
    """Cut points (parts + 1,) of ``total`` items into ``parts`` runs whose lengths differ by at most one."""
    return np.arange(parts + 1, dtype=np.int64) * total // parts


def generator(rng: Seed) -> np.random.Generator:
    """The generator given, or a new one from the seed given."""
    if rng is None:
        raise ValueError("rng=None must be a numpy Generator or an integer seed: a code is drawn reproducibly")
    return np.random.default_rng(rng)


def plain(value: Any) -> Any:
    """``value`` as it is printed: arrays as lists."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
