"""Micro-partitions: who holds which shares, and who computes which piece of them next (self_scheduling.md)."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from gradcode.codes import checks


class Schedule:
    """Who takes which micro-partition next: what is free, in flight and granted in one iteration.

    Share i is the micro-partitions i·m, …, i·m + m − 1.

    Args:
        shares: for each worker the shares that it holds, its own first, in the order in which ties are decided.
        micro: m.
        wanted: the micro-partitions to compute; None: all.
    """

    def __init__(self, shares: Sequence[Sequence[int]], micro: int, wanted: Iterable[int] | None = None) -> None:
        self.shares, self.micro = shares, micro
        everything = range(len(shares) * micro) if wanted is None else sorted(wanted)
        self._free: list[list[int]] = [[] for _ in shares]
        for piece in everything:
            self._free[piece // micro].append(piece)
        self._began: dict[int, int] = {}  # in flight, in the order in which they were first taken
        self.hands: list[list[int]] = [[] for _ in shares]  # taken by each worker and not finished
        self.owner: dict[int, int] = {}  # granted
        self.missing = len(everything)
        self._count = 0

    def take(self, worker: int) -> int | None:
        """The next micro-partition for ``worker``: a free one, else a copy of what is longest in flight, else None."""
        held = self.shares[worker]
        share = max(held, key=lambda share: len(self._free[share]))  # the first of the longest
        if self._free[share]:
            piece = self._free[share].pop(0 if share == held[0] else -1)
            self._began[piece] = self._count
            self._count += 1
        else:
            flying = [own for own in self._began if own // self.micro in held and own not in self.hands[worker]]
            if not flying:
                return None
            piece = min(flying, key=self._began.__getitem__)
        self.hands[worker].append(piece)
        return piece

    def finish(self, worker: int, piece: int) -> bool:
        """``worker`` has computed ``piece``: whether that is granted, for it is the first to say so."""
        self.hands[worker].remove(piece)
        if piece in self.owner:
            return False
        self.owner[piece] = worker
        del self._began[piece]
        self.missing -= 1
        return True

    def withdraw(self, worker: int, grants: bool = True) -> None:
        """``worker`` is lost: what it had in hand, and its ``grants``, are free unless somebody else is at them."""
        hand, self.hands[worker] = self.hands[worker], []
        back = [piece for piece in hand if piece in self._began]
        for piece in back:
            if not any(piece in other for other in self.hands):
                del self._began[piece]
                insort(self._free[piece // self.micro], piece)
        if grants:
            for piece in self.owned(worker):
                del self.owner[piece]
                self.missing += 1
                if any(piece in other for other in self.hands):  # a copy that would have been refused
                    self._began[piece] = self._count
                    self._count += 1
                else:
                    insort(self._free[piece // self.micro], piece)

    def stop(self) -> None:
        """Nobody is at anything any more: what was in flight is free."""
        for worker in range(len(self.hands)):
            self.withdraw(worker, grants=False)

    def owned(self, worker: int) -> list[int]:
        """The micro-partitions that are granted to ``worker``."""
        return sorted(piece for piece, owner in self.owner.items() if owner == worker)


def placed(
    workers: int, replication: int, placement: Literal["cyclic", "random"] = "cyclic", seed: int = 0
) -> list[list[int]]:
    """For each worker the shares that it holds, its own first, then from the next one on.

    Cyclic: share i is held by workers i, i − 1, …, i − r + 1 (mod N). Random: by worker i and those that r − 1 random
    permutations give it, each drawn again until a share's holders differ (self_scheduling.md, precise readings); where
    1000 draws do not find one, which many replicas make likely, it is an assignment of random costs (OURS).

    >>> placed(4, 2)
    [[0, 1], [1, 2], [2, 3], [3, 0]]
    """
    workers = checks.integer("workers", workers, 1)
    replication = checks.integer("replication", replication, 1, workers)
    if checks.choice("placement", placement, ("cyclic", "random")) == "cyclic":
        return [[(worker + step) % workers for step in range(replication)] for worker in range(workers)]
    rng, holders = np.random.default_rng(checks.integer("seed", seed, 0)), np.arange(workers)[None]
    while len(holders) < replication:
        drawn = next(
            (own for own in (rng.permutation(workers) for _ in range(1000)) if not (holders == own).any()), None
        )
        if drawn is None:
            from scipy.optimize import linear_sum_assignment

            costs = rng.random((workers, workers))
            costs[np.arange(workers), holders] = workers  # more than all others together
            drawn = linear_sum_assignment(costs)[1]
        holders = np.vstack([holders, drawn])
    own: list[list[int]] = [[] for _ in range(workers)]
    for share, held_by in enumerate(holders.T.tolist()):
        for worker in held_by:
            own[worker].append(share)
    return [sorted(held, key=lambda share: (share - worker) % workers) for worker, held in enumerate(own)]
