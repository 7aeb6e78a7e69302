"""Waiting for the k fastest: little or no redundancy, and a gradient that may lack the others' samples."""

from __future__ import annotations

import numpy as np

from gradcode import codes
from gradcode.protocol import Floats, Iteration
from gradcode.schemes.registry import scheme
from gradcode.schemes.rows import RowScheme, Weights


class Fastest(RowScheme):
    """Every part of the data on one worker, or on ``replicas`` of them; ends after k replies.

    The parts that they hold, each of them once, are rescaled to the mean over their samples. Replies that hold all
    parts end the iteration too, and are exact.

    Unbiased when stragglers are independent of the data; under persistent stragglers the data of the slow workers
    is never seen. On encoded data (:class:`gradcode.training.EncodedLeastSquares`) this is encoded gradient descent:
    there every worker has something of all samples.

    Worker i holds part i mod N/r of N/r parts, r being ``replicas``.

    >>> Fastest(workers=8, k=6)
    fastest(workers=8, k=6)
    """

    def __init__(self, workers: int, k: int, partitions: int | None = None, replicas: int = 1) -> None:
        check_quorum(k, workers)
        if replicas < 1 or workers % replicas:
            raise ValueError(
                f"replicas={replicas} must be at least 1 and divide workers={workers}: the workers with the same part"
            )
        self._parts = workers // replicas
        code = codes.uncoded(self._parts, partitions=partitions)
        shares = [dict.fromkeys(map(int, held), 1.0) for held in code.placement]
        super().__init__(shares * replicas, deadline=None)
        self.partitions = code.partitions
        self.k, self.replicas = k, replicas
        self._fewest = min(k, self._parts)
        self._rounding = code.decode(range(self._parts)).error

    def __repr__(self) -> str:
        copies = f", replicas={self.replicas}" if self.replicas > 1 else ""
        return f"fastest(workers={self.workers}, k={self.k}{copies})"

    def suffice(self, arrived: set[int], iteration: Iteration) -> bool:
        return len(arrived) >= self.k or len(self._one_of_each(arrived)) == self._parts

    def _weights(self, arrived: set[int], iteration: Iteration) -> Weights:
        chosen = self._one_of_each(arrived)
        held = sum(int(iteration.sizes[j]) for worker in chosen for j in self.shares[worker])
        total = int(iteration.sizes.sum())
        # Replies without a sample (the end of an epoch) say nothing: the gradient is then zero.
        scale = total / held if held else 0.0
        weights = np.zeros(self.workers)
        weights[chosen] = scale
        exact = held == total
        missing = 0.0 if exact else max(1.0, scale - 1.0)
        return Weights(weights, missing + scale * self._rounding, exact)

    def completion(self, finish: Floats) -> Floats:
        enough = np.partition(finish, self.k - 1, axis=1)[:, self.k - 1]
        every_part: Floats = finish.reshape(len(finish), self.replicas, self._parts).min(axis=1).max(axis=1)
        return np.minimum(enough, every_part)

    def _one_of_each(self, workers: set[int]) -> list[int]:
        """One worker for every part that these hold."""
        return sorted({worker % self._parts: worker for worker in sorted(workers, reverse=True)}.values())


def check_quorum(k: int, workers: int) -> None:
    """ValueError unless one can wait for ``k`` of the workers."""
    if not 1 <= k <= workers:
        raise ValueError(f"k={k} must be from 1 to workers={workers}: the number of replies to wait for")


@scheme(
    "fastest",
    summary="waits for the k fastest workers and rescales",
    trade_off="least work and quick; inexact, and blind to the data of persistent stragglers",
)
def fastest(workers: int, k: int, partitions: int | None = None, replicas: int = 1) -> Fastest:
    """Ignores all but the ``k`` first replies; see :class:`Fastest`.

    Raises:
        ValueError: ``k`` is not from 1 to ``workers``, or ``replicas`` does not divide ``workers``.
    """
    return Fastest(workers, k, partitions, replicas)
