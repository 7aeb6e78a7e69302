"""Grouping: workers in groups that compute the same; the first of each group answers for it.

Source: Zhang and Simeone 2021, of which the abstract was read (lagc.md 3). Mapping of letters: their M workers are our
N.
"""

from __future__ import annotations

from collections.abc import Sequence

from gradcode import codes
from gradcode.codes import checks
from gradcode.protocol import Abandon, Action, Reply
from gradcode.schemes.coded import Coded
from gradcode.schemes.registry import scheme


class Grouping(Coded):
    """Fractional repetition whose workers stop as soon as another of their group has answered.

    So the master receives one message per group, where ``coded`` may receive several.

    >>> Grouping(workers=6, redundancy=2)
    grouping(workers=6, redundancy=2)
    """

    def __init__(
        self, workers: int, redundancy: int, partitions: int | None = None, deadline: float | None = None
    ) -> None:
        groups_of(workers, redundancy)
        code = codes.fractional_repetition(workers, redundancy - 1, partitions, replicas="consecutive")
        super().__init__(code, deadline)
        self.redundancy = redundancy

    def __repr__(self) -> str:
        partitions = "" if self.partitions == self.workers else f", partitions={self.partitions}"
        deadline = "" if self.deadline is None else f", deadline={self.deadline}"
        return f"grouping(workers={self.workers}, redundancy={self.redundancy}{partitions}{deadline})"

    def receive(self, reply: Reply) -> Sequence[Action]:
        super().receive(reply)
        first = reply.order.worker - reply.order.worker % self.redundancy
        others = tuple(worker for worker in range(first, first + self.redundancy) if worker not in self._arrived)
        return [Abandon(others)] if others else ()


def groups_of(workers: int, redundancy: int) -> int:
    """N/r, the number of groups of so many workers each.

    Raises:
        ValueError: r does not divide N, or one of them is out of its range.
    """
    checks.integer("redundancy", redundancy, 1, checks.integer("workers", workers, 1))
    if workers % redundancy:
        divisors = [r for r in range(1, workers + 1) if workers % r == 0]
        raise ValueError(
            f"redundancy={redundancy} must divide workers={workers}, for groups of so many each: one of {divisors}"
        )
    return workers // redundancy


@scheme(
    "grouping",
    summary="groups of workers that compute the same; the first of each group answers for it",
    trade_off="each worker computes redundancy times as much; the master receives one message per group",
)
def grouping(workers: int, redundancy: int, partitions: int | None = None, deadline: float | None = None) -> Grouping:
    """Exact as soon as one worker of each group has answered; see :class:`Grouping`.

    Args:
        workers: N.
        redundancy: r, workers per group, a divisor of N.
        partitions: K ≥ N/r; None: N.
        deadline: seconds after which the least squares of what has arrived are taken; None: none.

    Raises:
        ValueError: an argument is out of its range.
    """
    return Grouping(workers, redundancy, partitions, deadline)
