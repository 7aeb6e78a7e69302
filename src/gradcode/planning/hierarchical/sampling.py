"""Times of iterations from draws: the check of the integration, and the quick look at all choices at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gradcode.delays.bounds import count
from gradcode.planning.hierarchical.expected import check_tail
from gradcode.planning.hierarchical.system import Floats, System, Tail

_PIECE = 1 << 20  # numbers drawn at a time


class Estimate(NamedTuple):
    """A mean and its standard error, in seconds."""

    mean: float
    error: float


@dataclass(frozen=True, eq=False)
class Draws:
    """R draws of all times, for any load D: workers need slope·D + offset, links behind them link.

    ``slope`` and ``offset`` are (R, n, m), the number of draws 1 where nothing is random; ``link`` is (R, n).
    """

    slope: NDArray[Any]
    offset: NDArray[Any]
    link: NDArray[Any]

    def times(self, load: float, choices: Sequence[tuple[int, int]]) -> NDArray[Any]:
        """The iteration's time, (choices, R), for each (s_e, s_w) of that load: an order statistic of another."""
        workers = np.sort(self.slope * load + self.offset, axis=-1)
        n, m = workers.shape[1:]
        times = np.empty((len(choices), len(workers)), dtype=workers.dtype)
        for row, (s_e, s_w) in enumerate(choices):
            served = workers[:, :, m - 1 - s_w] + self.link
            times[row] = np.partition(served, n - 1 - s_e, axis=1)[:, n - 1 - s_e]
        return times


def draw(system: System, tail: Tail, number: int, rng: np.random.Generator) -> Draws:
    """So many independent draws of an iteration."""
    check_tail(tail)
    own = system.columns
    shape = (number, *own.compute.shape)
    random = rng.standard_exponential(shape) / own.rate
    sent = rng.geometric(1 - own.failure, shape) * own.attempt
    link = rng.geometric(1 - own.link_failure, shape[:2]) * own.link_attempt
    if tail == "load":
        return Draws(own.compute + random, sent, link)
    return Draws(own.compute[None], random + sent, link)


def means(system: System, tail: Tail) -> Draws:
    """One draw in which everything takes its mean: the μ_ij and η_i of the spec's section 5."""
    check_tail(tail)
    own = system.columns
    sent, link = own.attempt / (1 - own.failure), own.link_attempt / (1 - own.link_failure)
    random = 1 / own.rate
    if tail == "load":
        return Draws((own.compute + random)[None], sent[None], link[None])
    return Draws(own.compute[None], (random + sent)[None], link[None])


def by_load(system: System, choices: NDArray[np.intp]) -> Iterator[tuple[int, NDArray[np.intp]]]:
    """(D, which of ``choices`` (choices, 2) have it), for every load that occurs."""
    products = (choices + 1).prod(axis=1)
    order = np.argsort(products, kind="stable")
    for same in np.split(order, np.flatnonzero(np.diff(products[order])) + 1):
        yield system.partitions * int(products[same[0]]) // system.workers, same


def times_of(system: System, draws: Draws, choices: NDArray[np.intp]) -> NDArray[Any]:
    """The iteration's time, (choices, R), for each of ``choices`` (choices, 2) on common draws."""
    times = np.empty((len(choices), len(draws.link)), dtype=draws.offset.dtype)
    for load, same in by_load(system, choices):
        times[same] = draws.times(load, [(int(s_e), int(s_w)) for s_e, s_w in choices[same]])
    return times


def monte_carlo(
    system: System,
    edge_stragglers: int,
    worker_stragglers: int,
    tail: Tail = "fixed",
    draws: int = 100_000,
    rng: np.random.Generator | int = 0,
) -> Estimate:
    """E[T] from draws, with its standard error: what :func:`expected_time` is checked by.

    Args:
        system: the machines.
        edge_stragglers: s_e.
        worker_stragglers: s_w.
        tail: whether the random part of computing is ``"fixed"`` or grows with the ``"load"``.
        draws: how many iterations, ≥ 2.
        rng: a generator, or the seed of one.

    Raises:
        ValueError: the choice is not feasible, and which one is.
    """
    load = system.load(edge_stragglers, worker_stragglers)
    count("draws", draws, 2)
    rng = np.random.default_rng(rng)
    size = max(_PIECE // system.columns.compute.size, 1)
    parts: list[Floats] = []
    for begin in range(0, draws, size):
        piece = draw(system, tail, min(size, draws - begin), rng)
        parts.append(piece.times(load, [(edge_stragglers, worker_stragglers)])[0])
    times = np.concatenate(parts)
    return Estimate(float(times.mean()), float(times.std(ddof=1) / np.sqrt(draws)))
