"""Waiting for the k fastest: no redundancy, and a gradient that lacks the others' samples."""

from __future__ import annotations

import numpy as np

from gradcode import codes
from gradcode.protocol import Floats, Iteration
from gradcode.schemes.registry import scheme
from gradcode.schemes.rows import RowScheme, Weights


class Fastest(RowScheme):
    """Every partition on one worker; the first k replies are rescaled to the mean over the samples they hold.

    Unbiased when stragglers are independent of the data; under persistent stragglers the data of the slow workers
    is never seen.

    >>> Fastest(workers=8, k=6)
    fastest(workers=8, k=6)
    """

    def __init__(self, workers: int, k: int, partitions: int | None = None) -> None:
        if not 1 <= k <= workers:
            raise ValueError(f"k={k} must be from 1 to workers={workers}: the number of replies to wait for")
        code = codes.uncoded(workers, partitions=partitions)
        super().__init__([dict.fromkeys(map(int, held), 1.0) for held in code.placement], deadline=None)
        self.partitions = code.partitions
        self.k = self._fewest = k
        self._rounding = code.decode(range(workers)).error

    def __repr__(self) -> str:
        return f"fastest(workers={self.workers}, k={self.k})"

    def _suffice(self, arrived: set[int], iteration: Iteration) -> bool:
        return len(arrived) >= self.k

    def _weights(self, arrived: set[int], iteration: Iteration) -> Weights:
        held = sum(int(iteration.sizes[j]) for worker in arrived for j in self._shares[worker])
        total = int(iteration.sizes.sum())
        # Replies without a sample (the end of an epoch) say nothing: the gradient is then zero.
        scale = total / held if held else 0.0
        weights = np.zeros(self.workers)
        weights[sorted(arrived)] = scale
        exact = held == total
        missing = 0.0 if exact else max(1.0, scale - 1.0)
        return Weights(weights, missing + scale * self._rounding, exact)

    def _completion(self, finish: Floats) -> Floats:
        return np.partition(finish, self.k - 1, axis=1)[:, self.k - 1]


@scheme(
    "fastest",
    summary="waits for the k fastest workers and rescales",
    trade_off="least work and quick; inexact, and blind to the data of persistent stragglers",
)
def fastest(workers: int, k: int, partitions: int | None = None) -> Fastest:
    """Ignores all but the ``k`` first replies; see :class:`Fastest`.

    Raises:
        ValueError: ``k`` is not from 1 to ``workers``.
    """
    return Fastest(workers, k, partitions)
