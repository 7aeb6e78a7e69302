"""DRACO by repetition: copies of the same sum, and a vote."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gradcode import codes
from gradcode.protocol import Action, Floats, Iteration, Reply
from gradcode.schemes.decoding import squared_norm
from gradcode.schemes.draco.agreement import Draco, numbers, redundancy_of


class MajorityVote(Draco):
    """Groups of r workers that compute the same sum; in each, the s + 1 first replies that are equal are true.

    Worker i is in group i mod N/r. Replies are equal if gradient, loss and buffers have the same bits, which they have
    where all workers run the same software on machines of one type, the order of samples and of sums being fixed.
    With a ``tolerance`` they are equal if they differ by no more than that: a reply that s others of its group are near
    to is near to a true one, for one of those s + 1 is true.

    Args:
        workers: N, a multiple of r.
        adversaries, stragglers, audit: as of :class:`Draco`.
        partitions: K ≥ N/r; None: N.
        tolerance: of ‖difference‖ / ‖the longer one‖, and of losses and buffers, relative and absolute.
        dtype: of the replies, for the bound of the error.

    Raises:
        ValueError: an argument is out of its range, or r does not divide N.

    >>> MajorityVote(workers=6, adversaries=1)
    draco(workers=6, adversaries=1, kind='repetition')
    """

    def __init__(
        self,
        workers: int,
        adversaries: int,
        stragglers: int = 0,
        partitions: int | None = None,
        *,
        audit: bool = False,
        tolerance: float = 0.0,
        dtype: str = "float32",
    ) -> None:
        redundancy = redundancy_of(workers, adversaries, stragglers)
        if workers % redundancy:
            raise ValueError(
                f"workers={workers} must be a multiple of {redundancy}, of 2·adversaries + stragglers + 1 workers in a "
                f'group: take {workers - workers % redundancy or redundancy} of them, or kind="cyclic"'
            )
        code = codes.fractional_repetition(workers, redundancy - 1, partitions, dtype=dtype)
        super().__init__(code, adversaries, stragglers, audit)
        self.tolerance = tolerance
        self.groups = workers // redundancy
        self._fewest = (adversaries + 1) * self.groups
        self._replies: dict[int, Reply] = {}
        self._distance: dict[frozenset[int], float] = {}
        self._agreed: set[int] = set()  # groups

    def __repr__(self) -> str:
        return self._described("repetition", self.tolerance or None)

    @property
    def _certain(self) -> bool:
        return len(self._agreed) == self.groups

    def start(self, iteration: Iteration) -> Sequence[Action]:
        self._replies, self._distance, self._agreed = {}, {}, set()
        return super().start(iteration)

    def _examine(self, reply: Reply) -> tuple[int, ...]:
        worker = reply.order.worker
        group = range(worker % self.groups, self.workers, self.groups)
        for other in group:
            if other in self._replies:
                self._distance[frozenset((worker, other))] = self._apart(reply, self._replies[other])
        self._replies[worker] = reply
        there = [member for member in group if member in self._replies]
        near = {member: self._within(self.tolerance, member, there) for member in there}
        chosen = max(there, key=lambda member: len(near[member]))
        if len(near[chosen]) <= self.adversaries:
            if len(there) == len(group):
                raise self._contradiction(
                    there, f"tolerance={self.tolerance} must then be larger, or the workers' machines be of one type"
                )
            return ()
        self._agreed.add(worker % self.groups)
        self._trusted = self._trusted.difference(group) | near[chosen]
        # What is near to a true one is at most twice as far from another: so nobody is accused for rounding.
        far = set(there) - self._within(3 * self.tolerance, chosen, there)
        self.corrupt = tuple(sorted(set(self.corrupt).difference(group) | far))
        return tuple(member for member in group if member not in self._replies)

    def _within(self, tolerance: float, worker: int, others: Sequence[int]) -> set[int]:
        """Those of the ``others`` whose replies are so near to the worker's, itself among them."""
        return {other for other in others if self._distance.get(frozenset((worker, other)), 0.0) <= tolerance}

    def _apart(self, one: Reply, other: Reply) -> float:
        """The distance of two replies, relative to the longer one; not a number, or infinite: they are not alike."""
        import torch

        assert one.payload is not None and other.payload is not None
        if torch.equal(one.payload, other.payload) and np.array_equal(one.statistics, other.statistics):
            return 0.0
        slack = 3 * self.tolerance
        if not slack or not np.allclose(one.statistics, other.statistics, rtol=slack, atol=slack):
            return float("inf")
        first, second = (numbers(reply.payload, self._iteration) for reply in (one, other))
        longer = max(squared_norm(first), squared_norm(second))
        # Of numbers so large that their squares are infinite the quotient is not a number, and nothing is near to that.
        return float(np.sqrt(squared_norm(first, second) / longer)) if longer else 0.0

    def completion(self, finish: Floats) -> Floats:
        """Without adversaries: until s + 1 of each group have answered, or all of it."""
        groups = finish.reshape(len(finish), -1, self.groups)
        place = groups.shape[1] - 1 if self.audit else self.adversaries
        latest: Floats = np.partition(groups, place, axis=1)[:, place].max(axis=1)
        return latest
