"""Edge nodes between workers and master: a code across edge nodes, and one inside each (hierarchical.md 3, 6).

Source: Tang, Li, Chen, Chen 2024 (arXiv 2406.10831), of which only the abstract could be read: construction and
baselines are RECONSTRUCTED. Mapping of letters: n edge nodes, m_i workers under edge node i, K partitions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate

import numpy as np

from gradcode.codes import HierarchicalCode
from gradcode.protocol import Action, Coefficient, Floats, Iteration, Reply
from gradcode.schemes.coded import Coded
from gradcode.schemes.registry import scheme
from gradcode.schemes.rows import RowScheme, Weights


class Hierarchical(Coded):
    """Each edge node sends its row of the outer code, which it decodes from its workers' rows of its inner code.

    The master waits for n − s_e edge nodes and each of those for m_i − s_w workers, or for fewer where they decode
    already. After ``deadline`` seconds the master takes the least-squares gradient of what has arrived.
    """

    def __init__(self, code: HierarchicalCode, deadline: float | None = None) -> None:
        inner = [Coded(own, names=held.tolist()) for own, held in zip(code.inner, code.held, strict=True)]
        super().__init__(code.outer, deadline, inner=inner)
        self._whole = code

    def __repr__(self) -> str:
        deadline = "" if self.deadline is None else f", deadline={self.deadline}"
        return f"hierarchical({self._whole!r}{deadline})"

    def _weights(self, arrived: set[int], iteration: Iteration) -> Weights:
        weights, error, exact = super()._weights(arrived, iteration)
        # The master's own decoding knows nothing of the rounding of the edge nodes'.
        return Weights(weights, max(error, self._whole.layered_error) if exact else error, exact)


class Partial(RowScheme):
    """What an edge node of :class:`Greedy` runs: the plain sum of the first ``k`` replies, whatever is in it."""

    def __init__(self, shares: Sequence[Mapping[int, Coefficient]], k: int) -> None:
        super().__init__(shares, deadline=None)
        self.partitions = 1 + max(partition for share in shares for partition in share)
        self._fewest = k

    def suffice(self, arrived: set[int], iteration: Iteration) -> bool:
        return len(arrived) >= self._fewest

    def _weights(self, arrived: set[int], iteration: Iteration) -> Weights:
        weights = np.zeros(self.workers)
        weights[sorted(arrived)] = 1.0
        return Weights(weights, float(len(arrived) < self.workers), len(arrived) == self.workers)

    def completion(self, finish: Floats) -> Floats:
        return np.partition(finish, self._fewest - 1, axis=1)[:, self._fewest - 1]


class Greedy(RowScheme):
    """No redundancy: the first n − s_e edge nodes, and of each its first m_i − s_w workers, rescaled.

    The sum is rescaled to the mean over the samples that are in it, which for partitions of equal size is the factor
    K / (partitions received) of hierarchical.md 6. Unbiased when stragglers are independent of the data.

    >>> Greedy([2, 3], edge_stragglers=1, worker_stragglers=1)
    greedy(workers_per_edge=(2, 3), edge_stragglers=1, worker_stragglers=1)
    """

    def __init__(
        self,
        workers_per_edge: Sequence[int],
        edge_stragglers: int,
        worker_stragglers: int,
        partitions: int | None = None,
    ) -> None:
        per_edge = tuple(workers_per_edge)
        if not per_edge or min(per_edge) < 1:
            raise ValueError(f"workers_per_edge={per_edge} must have an entry from 1 for each edge node")
        total = sum(per_edge) if partitions is None else partitions
        if total < sum(per_edge):
            raise ValueError(f"partitions={partitions} must be at least the number of workers, {sum(per_edge)}")
        for name, value, most in (
            ("edge_stragglers", edge_stragglers, len(per_edge) - 1),
            ("worker_stragglers", worker_stragglers, min(per_edge) - 1),
        ):
            if not 0 <= value <= most:
                raise ValueError(f"{name}={value} must be from 0 to {most} for workers_per_edge={per_edge}")
        pieces = [dict.fromkeys(map(int, piece), 1.0) for piece in np.array_split(np.arange(total), sum(per_edge))]
        stops = list(accumulate(per_edge))
        below = [pieces[stop - own : stop] for own, stop in zip(per_edge, stops, strict=True)]
        shares = [{partition: 1.0 for piece in mine for partition in piece} for mine in below]
        super().__init__(shares, deadline=None, inner=[Partial(mine, len(mine) - worker_stragglers) for mine in below])
        self.partitions = total
        self._fewest = len(per_edge) - edge_stragglers
        self._given = per_edge, edge_stragglers, worker_stragglers
        self._in: set[int] = set()  # partitions that are in the replies

    def __repr__(self) -> str:
        per_edge, edges, workers = self._given
        return f"greedy(workers_per_edge={per_edge}, edge_stragglers={edges}, worker_stragglers={workers})"

    def start(self, iteration: Iteration) -> Sequence[Action]:
        self._in = set()
        return super().start(iteration)

    def receive(self, reply: Reply) -> Sequence[Action]:
        for partition, values in zip(reply.order.combination, reply.statistics, strict=True):
            if not np.isnan(values).all():
                self._in.add(partition)
        return super().receive(reply)

    def suffice(self, arrived: set[int], iteration: Iteration) -> bool:
        return len(arrived) >= self._fewest

    def _weights(self, arrived: set[int], iteration: Iteration) -> Weights:
        held, total = sum(int(iteration.sizes[j]) for j in self._in), int(iteration.sizes.sum())
        # Replies without a sample (the end of an epoch) say nothing: the gradient is then zero.
        scale = total / held if held else 0.0
        weights = np.zeros(self.workers)
        weights[sorted(arrived)] = scale
        exact = held == total
        rounding = self.partitions * 2.0**-24
        return Weights(weights, (0.0 if exact else max(1.0, scale - 1.0)) + scale * rounding, exact)

    def completion(self, finish: Floats) -> Floats:
        return np.partition(finish, self._fewest - 1, axis=1)[:, self._fewest - 1]


@scheme(
    "hierarchical",
    summary="edge nodes between workers and master: a code across them, and one inside each",
    trade_off="the master receives one vector per edge node; exact under s_e edge nodes and s_w workers of each other",
)
def hierarchical(code: HierarchicalCode, deadline: float | None = None) -> Hierarchical:
    """Hierarchical gradient coding with :func:`gradcode.codes.hierarchical`; see :class:`Hierarchical`.

    With s_e = s_w = 0 it is plain synchronous training over edge nodes that add up, with s_w = 0 coding only across
    edge nodes, with s_e = 0 only inside each (the baselines CGC-E and CGC-W of hierarchical.md 6, working names).

    Raises:
        ValueError: ``deadline`` is not a positive number of seconds.
    """
    return Hierarchical(code, deadline)


@scheme(
    "greedy",
    summary="edge nodes, waits for the quickest of them and the quickest workers of each, and rescales",
    trade_off="least work and quick; inexact, and blind to the data of persistent stragglers",
)
def greedy(
    workers_per_edge: Sequence[int], edge_stragglers: int, worker_stragglers: int, partitions: int | None = None
) -> Greedy:
    """Ignores stragglers at both levels (hierarchical.md 6); see :class:`Greedy`.

    Raises:
        ValueError: nobody would be waited for, or there are fewer partitions than workers.
    """
    return Greedy(workers_per_edge, edge_stragglers, worker_stragglers, partitions)
