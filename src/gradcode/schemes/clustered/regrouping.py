"""Forming clusters so that those who straggle, or are slow, are spread over them as evenly as they can be.

Source: dynamic_clustering.md 4 and 11 (RECONSTRUCTED there: of the paper's algorithm only the aim is known).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from gradcode.codes import checks
from gradcode.codes.code import Indices
from gradcode.protocol import Floats

Storage = Literal["cluster", "slot"]
STORAGES = ("cluster", "slot")


class Regrouping:
    """Which row of a clustered code each worker computes, given who is believed to straggle and how slow all are.

    Rows are numbered as by :class:`gradcode.codes.ClusteredCode`: row jP + c is slot j of cluster c, and at home worker
    k computes row k.

    Args:
        candidates: for each worker the clusters that it may join, its home k mod P first.
        clusters: P.
        storage: "cluster": a worker may take any slot of its candidates; "slot": only its own, k // P.
    """

    def __init__(self, candidates: Sequence[Sequence[int]], clusters: int, storage: Storage = "cluster") -> None:
        checks.choice("storage", storage, STORAGES)
        self.clusters, self.storage = clusters, storage
        self.workers = len(candidates)
        self._by_slot = storage == "slot"
        self._choices = [
            [cluster + (worker - worker % clusters) * self._by_slot for cluster in own]
            for worker, own in enumerate(candidates)
        ]

    def rows(self, stragglers: npt.ArrayLike, seconds: Floats | None = None) -> Indices:
        """(N,) the row of each worker.

        Stragglers come first, each into the cluster of its candidates with the fewest, and are then moved where that
        makes the sum of squares of their numbers per cluster smaller. The others fill up what is left: those at home
        first; or, if ``seconds`` are given, the slowest first and each into the smallest cluster. Where that would
        need a straggler to move, stragglers are placed anew by :meth:`optimum` and the others fill up again. So the
        sum of squares is always the smallest possible.

        Args:
            stragglers: (N,) who is believed to straggle.
            seconds: (N,) that each is expected to take; None: no matter.
        """
        flags = np.asarray(stragglers, dtype=np.bool_)
        slow, others = np.flatnonzero(flags).tolist(), np.flatnonzero(~flags).tolist()
        if seconds is not None:
            others.sort(key=lambda worker: -seconds[worker])  # of equals the smaller index first
        evenly = seconds is not None
        placement = self.placement()
        placement.fill(slow, evenly=True)
        placement.improve()
        if not placement.fill(others, fixed=slow, evenly=evenly):
            placement = self.placement(self.optimum(slow))
            placement.fill(others, fixed=slow, evenly=evenly)
        return self.numbered(placement.place)

    def placement(self, place: Mapping[int, int] | None = None) -> Placement:
        """One that begins with these workers in these places."""
        capacity = 1 if self._by_slot else self.workers // self.clusters
        return Placement(self._choices, self.clusters, capacity, place or {})

    def numbered(self, place: Mapping[int, int]) -> Indices:
        """(N,) rows: the members of a cluster take its slots in the order of their indices."""
        if self._by_slot:
            return np.array([place[worker] for worker in range(self.workers)])
        rows, slots = np.empty(self.workers, dtype=np.int64), [0] * self.clusters
        for worker in range(self.workers):
            cluster = place[worker]
            rows[worker] = slots[cluster] * self.clusters + cluster
            slots[cluster] += 1
        return rows

    def optimum(self, stragglers: Sequence[int]) -> dict[int, int]:
        """Places of the stragglers that leave places for all others: those with the smallest sum of squares.

        Of several with that sum one that moves the fewest workers from home. An integer program: for each worker a
        choice of its places, for each cluster unit steps that cost 1, 3, 5, … for its first, second, third straggler,
        which add up to the square of their number.
        """
        from scipy import optimize, sparse

        size = self.workers // self.clusters
        pairs = [(worker, place) for worker, own in enumerate(self._choices) for place in own]
        workers, places = np.array(pairs).T
        count, steps = len(pairs), self.clusters * size
        number = 1 + int(places.max())
        slow = np.flatnonzero(np.isin(workers, stragglers))
        step = np.arange(count, count + steps)
        # One equation per worker, place and cluster; one unknown per choice, then per step.
        each_cluster = self.workers + number
        row = np.concatenate(
            [
                workers,
                self.workers + places,
                each_cluster + places[slow] % self.clusters,
                each_cluster + np.arange(steps) % self.clusters,
            ]
        )
        column = np.concatenate([np.arange(count), np.arange(count), slow, step])
        value = np.concatenate([np.ones(2 * count + len(slow)), -np.ones(steps)])
        capacity = self.workers // number
        equals = np.concatenate([np.ones(self.workers), np.full(number, capacity), np.zeros(self.clusters)])
        moved = workers % self.clusters != places % self.clusters
        cost = np.concatenate([moved / (2 * self.workers), 2.0 * (np.arange(steps) // self.clusters) + 1])
        matrix = sparse.coo_array((value, (row, column)), shape=(len(equals), count + steps)).tocsr()
        found = optimize.milp(
            cost,
            integrality=np.ones(count + steps),
            bounds=optimize.Bounds(0, 1),
            constraints=optimize.LinearConstraint(matrix, equals, equals),
            options={"mip_rel_gap": 0.0},
        )
        assert found.success, found.message  # the homes are a solution
        chosen = np.flatnonzero(found.x[:count] > 0.5)
        wanted = set(stragglers)
        return {pairs[i][0]: pairs[i][1] for i in chosen.tolist() if pairs[i][0] in wanted}


class Placement:
    """Workers put into places, one after the other; a place is a cluster, or a slot of one.

    Args:
        choices: for each worker its places, in the order in which it prefers them; place p is of cluster p mod P.
        clusters: P.
        capacity: workers per place.
        place: who is somewhere already.
    """

    def __init__(
        self, choices: Sequence[Sequence[int]], clusters: int, capacity: int, place: Mapping[int, int]
    ) -> None:
        self._choices, self._clusters, self._capacity = choices, clusters, capacity
        self.place: dict[int, int] = {}
        self.counts = [0] * clusters
        self._members: list[set[int]] = [set() for _ in range(len(choices) // capacity)]
        for worker, own in place.items():
            self._put(worker, own)

    def fill(self, workers: Iterable[int], fixed: Collection[int] = (), evenly: bool = False) -> bool:
        """Puts these workers into places with room; False as soon as there is no way to.

        Each takes the place that it prefers, or ``evenly`` the one of the cluster with the fewest workers so far, of
        equals the first. One that finds none has others move on, but not those that are ``fixed``.
        """
        for worker in workers:
            free = [place for place in self._choices[worker] if self._room(place)]
            if free:
                self._put(worker, min(free, key=self._fullness) if evenly else free[0])
            elif not self._augment(worker, fixed):
                return False
        return True

    def improve(self) -> None:
        """Moves workers along paths while that makes the sum of squares of :attr:`counts` smaller.

        At the end it is the smallest for the workers that are placed.
        """
        while any(map(self._relieve, sorted(range(self._clusters), key=lambda cluster: -self.counts[cluster]))):
            pass

    def _relieve(self, crowded: int) -> bool:
        """Moves one worker out of the cluster towards one with two fewer at least; False if no path leads to one."""
        few = self.counts[crowded] - 2
        if few < min(self.counts):
            return False
        path: dict[int, tuple[int, int | None]] = {}
        queue: deque[int] = deque()
        seen: set[int] = set()
        self._branch(self._of(crowded), None, path, queue, seen)
        while queue:
            place = queue.popleft()
            cluster, room = place % self._clusters, self._room(place)
            if room and self.counts[cluster] <= few:
                self._shift(place, path)
                return True
            # Into a place with room anybody's leaving makes good for the one that comes; else its occupants'.
            self._branch(self._of(cluster) if room else self._members[place], place, path, queue, seen)
        return False

    def _augment(self, worker: int, fixed: Collection[int]) -> bool:
        """Puts the worker into one of its places, whose occupants move on along a shortest path to one with room."""
        path: dict[int, tuple[int, int | None]] = {}
        queue: deque[int] = deque()
        seen = set(fixed)
        self._branch([worker], None, path, queue, seen)
        while queue:
            place = queue.popleft()
            if self._room(place):
                self._shift(place, path)
                return True
            self._branch(self._members[place], place, path, queue, seen)
        return False

    def _branch(
        self,
        movers: Iterable[int],
        origin: int | None,
        path: dict[int, tuple[int, int | None]],
        queue: deque[int],
        seen: set[int],
    ) -> None:
        """One step of a breadth-first search: where these workers could go, to make room for who comes to ``origin``.

        ``path`` has for each place that was reached who would move there, and the place where that makes room.
        """
        for mover in sorted(set(movers).difference(seen)):
            seen.add(mover)
            for place in self._choices[mover]:
                if place not in path and place != self.place.get(mover):
                    path[place] = (mover, origin)
                    queue.append(place)

    def _shift(self, place: int, path: Mapping[int, tuple[int, int | None]]) -> None:
        """Everybody on the path moves, the last one first."""
        end: int | None = place
        while end is not None:
            mover, origin = path[end]
            self._put(mover, end)
            end = origin

    def _put(self, worker: int, place: int) -> None:
        before = self.place.get(worker)
        if before is not None:
            self._members[before].remove(worker)
            self.counts[before % self._clusters] -= 1
        self.place[worker] = place
        self._members[place].add(worker)
        self.counts[place % self._clusters] += 1

    def _room(self, place: int) -> bool:
        return len(self._members[place]) < self._capacity

    def _of(self, cluster: int) -> list[int]:
        return [worker for own in self._members[cluster :: self._clusters] for worker in own]

    def _fullness(self, place: int) -> tuple[int, int]:
        return self.counts[place % self._clusters], place
