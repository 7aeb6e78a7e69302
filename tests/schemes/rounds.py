"""Iterations of sequential gradient coding driven by hand, and who straggles in them."""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache

import numpy as np
import torch

from gradcode.protocol import Combination, Iteration, Keep, Order, Reply
from gradcode.schemes import Multiplexed, SelectiveRepetition

LENGTH = 3
PADDED = 4


class Rounds:
    """Drives a scheme through iterations; the partitions' gradients of each are random numbers."""

    def __init__(self, scheme: SelectiveRepetition | Multiplexed) -> None:
        self.scheme, self.number, self.waited, self.repeated = scheme, 0, 0, 0
        self.target = Combination(dict.fromkeys(range(scheme.partitions), 1.0))
        self.computed = np.zeros(scheme.workers)  # partitions, in the last iteration

    def gradients(self, number: int) -> torch.Tensor:
        return torch.from_numpy(_gradients(self.scheme.partitions, number)[:, :LENGTH])

    def go(self, stragglers: Collection[int]) -> torch.Tensor:
        """One iteration: the stragglers answer after the others and the deadline, as far as they are waited for."""
        scheme, everybody = self.scheme, range(self.scheme.workers)
        sizes = np.ones(scheme.partitions, dtype=np.int64)
        keep, *orders = scheme.start(Iteration(self.number, self.number, self.target, tuple(everybody), sizes))
        assert isinstance(keep, Keep) and keep.vector is None
        rows = torch.full((scheme.layout.rows, PADDED), torch.nan, dtype=torch.float64)
        self.computed = np.zeros(scheme.workers)
        for order in orders:
            assert isinstance(order, Order)
            self.computed[order.worker] += len(order.combination)
        for order in sorted(orders, key=lambda order: order.worker in stragglers):  # type: ignore[union-attr]
            assert isinstance(order, Order)
            late = order.worker in stragglers
            if late and not scheme.done:
                scheme.expire()
            if scheme.done:
                break
            self.waited += late
            at = self.number if order.at is None else order.at.number
            assert self.number - scheme.delay <= at <= self.number
            self.repeated += isinstance(scheme, SelectiveRepetition) and at < self.number
            rows[order.row] = torch.from_numpy(_row(order, _gradients(scheme.partitions, at)))
            scheme.receive(Reply(order, torch.zeros(1, dtype=torch.uint8), 2.0 if late else 1.0, np.zeros((1, 1))))
        assert scheme.done and scheme.deadline == 2.0
        out = torch.full((LENGTH,), torch.nan, dtype=torch.float64)
        scheme.gradient(rows, out)
        self.number += 1
        return out


@lru_cache(maxsize=256)
def _gradients(partitions: int, number: int) -> np.ndarray:
    gradients = np.zeros((partitions, PADDED))
    gradients[:, :LENGTH] = np.random.default_rng(number).standard_normal((partitions, LENGTH))
    return gradients


def _row(order: Order, gradients: np.ndarray) -> np.ndarray:
    """(PADDED,) as a worker makes it: packed, halves of the vector are real and imaginary part."""
    own, half = gradients[list(order.combination)], PADDED // 2
    row = np.array(list(order.combination.values())) @ (own[:, :half] + 1j * own[:, half:])
    return np.concatenate([row.real, row.imag])


def bursty(pattern: np.ndarray, number: int, worker: int, burst: int, window: int, most: int) -> bool:
    """Whether the windows about an iteration and a worker are those of the (B, W, λ)-bursty model."""
    for begin in range(max(0, number - window + 1), number + 1):
        part = pattern[begin : begin + window]
        own = np.flatnonzero(part[:, worker])
        if part.any(axis=0).sum() > most or own[-1] - own[0] >= burst:
            return False
    return True


def arbitrary(pattern: np.ndarray, number: int, worker: int, burst: int, window: int, most: int) -> bool:
    """The same of the model in which at most λ straggle in any W − 1 + B iterations, and none in more than B."""
    window += burst - 1
    for begin in range(max(0, number - window + 1), number + 1):
        part = pattern[begin : begin + window]
        if part.any(axis=0).sum() > most or part[:, worker].sum() > burst:
            return False
    return True


def conforming(
    rng: np.random.Generator, workers: int, burst: int, window: int, most: int, rounds: int, model: object = bursty
) -> np.ndarray:
    """(rounds, N) who straggles: as many as are drawn and the model allows, one by one; never all, for one is first."""
    assert callable(model)
    pattern = np.zeros((rounds, workers), dtype=bool)
    for number in [*rng.permutation(rounds), *rng.permutation(rounds)]:
        for worker in rng.permutation(workers)[: rng.integers(workers + 1)]:
            if not pattern[number, worker]:
                pattern[number, worker] = True
                allowed = not pattern[number].all() and model(pattern, number, worker, burst, window, most)
                pattern[number, worker] = allowed
    return pattern
