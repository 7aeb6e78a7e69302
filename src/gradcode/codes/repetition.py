"""Codes whose workers send plain sums over runs of partitions: uncoded, and fractional repetition."""

from __future__ import annotations

from typing import SupportsIndex

import numpy as np
from numpy.typing import NDArray

from gradcode.codes import checks
from gradcode.codes.code import Array, GradientCode, Indices
from gradcode.codes.registry import register
from gradcode.codes.stability import Worst


class IntervalCode(GradientCode):
    """Worker i sends the plain sum of the partitions start_i, …, stop_i − 1.

    Take the cut points as nodes and the workers as edges start_i – stop_i. A path from 0 to K of survivors, each
    passed forwards, is a tiling: their messages add up to the gradient, with weights 1, and rounding costs no
    more than in a plain sum. The sum of all partitions is in the span of the survivors' messages exactly when 0
    and K are connected; an edge passed backwards would be subtracted. But where the runs belong to at most two
    tilings, backward edges never help: just right of a node at most two distinct runs pass, and a path that
    comes back to the node has used both. There this decodes every set that any decoder can.

    Args:
        runs: (N, 2) start and stop of each worker's run, which together form tilings of 0, …, K − 1.
        tolerance: s; after s losses a tiling must be left.
        dtype: of the messages.
    """

    def __init__(self, runs: Indices, tolerance: int, dtype: str) -> None:
        cuts, nodes = np.unique(runs, return_inverse=True)
        nodes = nodes.reshape(runs.shape)
        column = np.arange(len(cuts) - 1)
        matrix = ((nodes[:, :1] <= column) & (column < nodes[:, 1:])).astype(np.float64)
        super().__init__(matrix, np.diff(cuts), tolerance, dtype)
        self._edges: list[tuple[int, int]] = [(int(a), int(b)) for a, b in nodes]
        self._order = sorted(range(self.workers), key=self._edges.__getitem__)
        self._last = len(cuts) - 1

    def _solve(self, alive: Indices) -> Array | None:
        members = self._tiling(frozenset(alive.tolist()))
        if members is None:
            return None
        weights = np.zeros(self.workers)
        weights[members] = 1
        return weights

    def _beyond(self, alive: frozenset[int]) -> bool:
        return len(alive) >= self.fewest and self._tiling(alive) is not None

    def _worst(self) -> Worst:
        # Within the tolerance a tiling is left, so v = 1 and only the number of messages counts; no tiling has
        # more of them than there are columns.
        messages = min(self.workers, self._last)
        terms = messages + self.load + 2
        error = terms * self._roundoff / (1 - terms * self._roundoff) + (messages + 2) * 2.0**-52
        return Worst(error, 1.0, (), 0, exhaustive=True)

    def _tiling(self, alive: frozenset[int]) -> list[int] | None:
        """Survivors whose runs follow one another from 0 to K, or None."""
        reached: dict[int, tuple[int, int]] = {0: (-1, 0)}  # node: the worker that reaches it, and from where
        for worker in self._order:  # by start: whatever reaches a node comes before whatever leaves it
            if worker in alive:
                start, stop = self._edges[worker]
                if start in reached and stop not in reached:
                    reached[stop] = (worker, start)
                    if stop == self._last:
                        break
        else:
            return None
        members, node = [], self._last
        while node:
            worker, node = reached[node]
            members.append(worker)
        return members


@register(
    summary="every partition on one worker; nothing is encoded",
    exact=True,
    tolerance="0",
    load="K/N",
    needs="partitions ≥ workers",
    choose="as the baseline, or with fastest-k where a missing partition may be left out",
)
def uncoded(workers: SupportsIndex, partitions: SupportsIndex | None = None, *, dtype: str = "float32") -> IntervalCode:
    """The identity: worker i sends the sum of its own K/N partitions, and all workers are needed.

    Args:
        workers: N.
        partitions: K ≥ N, in consecutive runs of nearly equal length; N by default.
        dtype: of the messages, for the error bound.

    Raises:
        ValueError: an argument is out of range.

    >>> uncoded(3).decode([0, 2]).weights.tolist()
    [1.0, 0.0, 1.0]
    """
    n = checks.integer("workers", workers, 1)
    stops = np.cumsum(checks.group_sizes(partitions, n))
    return IntervalCode(np.column_stack([np.r_[0, stops[:-1]], stops]), 0, dtype)


@register(
    summary="s + 1 clusters of workers, each of which holds everything; sums, no coefficients",
    exact=True,
    tolerance="s; more, as long as one way to tile the data is left",
    load="⌈K / ⌊N/(s+1)⌋⌉; K(s+1)/N when s+1 divides N",
    needs="stragglers < workers",
    choose="by default: exact at every size in float32, fastest decoding, often done before N − s answers",
)
def fractional_repetition(
    workers: SupportsIndex,
    stragglers: SupportsIndex,
    partitions: SupportsIndex | None = None,
    *,
    replicas: str = "interleaved",
    dtype: str = "float32",
) -> IntervalCode:
    """The (generalised) fractional repetition code: s + 1 clusters, each covering all partitions once.

    Where s + 1 divides N this is the code of Tandon et al. 2017 (gradient_codes.md 2.1): N/(s+1) blocks of
    partitions, each held by s + 1 workers. Elsewhere clusters of ⌈N/(s+1)⌉ and ⌊N/(s+1)⌋ workers cut the
    partitions as evenly as they can (idea of Charalambides et al. 2021; construction RECONSTRUCTED,
    gradient_codes.md 2.2). s stragglers leave one cluster whole; often more may be lost, because members of
    different clusters are mixed wherever their runs meet.

    Args:
        workers: N.
        stragglers: s < N.
        partitions: K, at least the size of the largest cluster; N by default.
        replicas: "interleaved" puts copies of a block N/(s+1) workers apart (a lost rack then costs one copy
            of each); "consecutive" puts them on neighbours.
        dtype: of the messages, for the error bound. Nothing is refused: all coefficients and weights are 0 or
            1, and the bound is that of a plain sum.

    Raises:
        ValueError: an argument is out of range.

    >>> code = fractional_repetition(workers=6, stragglers=2)
    >>> code.encoding[0], code.decode([3, 4]).weights
    (array([1., 1., 1., 0., 0., 0.]), array([0., 0., 0., 1., 1., 0.]))
    """
    n, s = checks.workers_and_stragglers(workers, stragglers)
    clusters = s + 1
    checks.choice("replicas", replicas, ("interleaved", "consecutive"))
    largest = -(-n // clusters)
    total = n if partitions is None else checks.integer("partitions", partitions, largest, because="one per member")
    runs = np.zeros((n, 2), dtype=np.int64)
    for members in _clusters(n, clusters, replicas):
        cuts = checks.even_cuts(total, len(members))
        runs[members, 0], runs[members, 1] = cuts[:-1], cuts[1:]
    return IntervalCode(runs, s, dtype)


def _clusters(workers: int, count: int, replicas: str) -> list[NDArray[np.int64]]:
    everyone = np.arange(workers, dtype=np.int64)
    if replicas == "consecutive":
        return [everyone[cluster::count] for cluster in range(count)]
    return list(np.array_split(everyone, count))
