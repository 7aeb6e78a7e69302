"""Block coordinate descent: every worker answers for coordinates of its own, and the k fastest blocks move.

Source: Karakus et al. 2019, model parallel (encoded_optimization.md 4). Their m workers are our N. There a worker that
is late takes its own step back; here the master takes no step in the blocks that it has not received.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from gradcode.codes import checks
from gradcode.protocol import Action, Block, Floats, Iteration, Layout, Order, Source
from gradcode.schemes.fastest import check_quorum
from gradcode.schemes.registry import scheme
from gradcode.schemes.rows import RowScheme, Weights

if TYPE_CHECKING:
    from torch import Tensor


class FastestBlocks(RowScheme):
    """Worker i answers the gradient in block i of N blocks of coordinates; ends after k replies, zero elsewhere.

    With plain SGD the other blocks' coordinates then stay where they are. An optimizer with a memory (momentum, Adam)
    would move them all the same, but for parameters of which nobody answered anything, whose ``grad`` may be None.

    Every worker computes on all partitions. Blocks of a network that are not near its output cost about a whole
    backward pass; those of a linear model their share.

    Args:
        workers: N.
        k: blocks to wait for.
        length: L, the number of parameters, at least N.
        partitions: K; more than one only lets workers stop earlier when nobody needs them any more.
        source: the objective, asked what blocks cost, for :meth:`duration`; None: as if every coordinate cost the
            same and were computed by itself.

    >>> FastestBlocks(workers=4, k=3, length=10).blocks[1]
    Block(start=2, stop=5)
    """

    def __init__(self, workers: int, k: int, length: int, partitions: int = 1, source: Source | None = None) -> None:
        check_quorum(k, workers)
        checks.integer("length", length, workers, because=f"each of workers={workers} needs a coordinate")
        checks.integer("partitions", partitions, 1)
        if source is not None and source.length != length:
            raise ValueError(f"length={length} must be {source.length}, the coordinates of the objective")
        super().__init__([dict.fromkeys(range(partitions), 1.0)] * workers, deadline=None)
        self.layout = Layout(rows=workers, slots=workers, length=length)
        self.partitions = partitions
        self.k = self._fewest = k
        self.blocks = tuple(Block(int(a), int(b)) for a, b in pairwise(checks.even_cuts(length, workers)))
        costs = [(b.stop - b.start) / length if source is None else source.cost(b) for b in self.blocks]
        self._loads = np.array([sum([cost] * partitions) for cost in costs])

    def __repr__(self) -> str:
        return f"fastest_blocks(workers={self.workers}, k={self.k}, length={self.layout.length})"

    def start(self, iteration: Iteration) -> Sequence[Action]:
        orders = super().start(iteration)
        return [replace(own, block=self.blocks[own.worker]) if isinstance(own, Order) else own for own in orders]

    def gradient(self, rows: Tensor, out: Tensor) -> None:
        import torch

        assert self._iteration is not None
        weights, self.error, self.exact = self._weights(self._arrived, self._iteration)
        out.zero_()
        for worker in np.flatnonzero(weights):
            block = slice(*self.blocks[worker])
            out[block].copy_(rows[worker, block])
        self.error += self.partitions * torch.finfo(rows.dtype).eps

    def suffice(self, arrived: set[int], iteration: Iteration) -> bool:
        return len(arrived) >= self.k

    def _weights(self, arrived: set[int], iteration: Iteration) -> Weights:
        weights = np.zeros(self.workers)
        weights[sorted(arrived)] = 1.0
        exact = len(arrived) == self.workers
        return Weights(weights, 0.0 if exact else 1.0, exact)  # nothing is known of a block that is missing

    def completion(self, finish: Floats) -> Floats:
        return np.partition(finish, self.k - 1, axis=1)[:, self.k - 1]


@scheme(
    "fastest_blocks",
    summary="a block of coordinates per worker; the k fastest blocks are stepped in",
    trade_off="no redundancy, and whoever is slow for good leaves its coordinates where they are",
)
def fastest_blocks(
    workers: int, k: int, length: int, partitions: int = 1, source: Source | None = None
) -> FastestBlocks:
    """Block coordinate descent over the ``k`` first blocks; see :class:`FastestBlocks`.

    Raises:
        ValueError: ``k`` is not from 1 to ``workers``, or ``length`` is below ``workers`` or not that of ``source``.
    """
    return FastestBlocks(workers, k, length, partitions, source)
