"""The mean time of an iteration by integration (spec, section 4.1; RECONSTRUCTED)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gradcode.planning.hierarchical.integration import NEGLIGIBLE, mean_time
from gradcode.planning.hierarchical.system import Columns, Floats, System, Tail, columns_of

Indices = NDArray[np.intp]
_CHUNK = 1 << 15  # numbers in a piece of work: what stays in a core's cache
_RARE = 1e-15


def expected_time(system: System, edge_stragglers: int, worker_stragglers: int, tail: Tail = "fixed") -> float:
    """E[T] of an iteration that waits for all but s_w workers of an edge node and all but s_e edge nodes.

    Computed from the distributions, without sampling, to 1e-6 of its value; the time of decoding is neglected.

    Args:
        system: the machines.
        edge_stragglers: s_e.
        worker_stragglers: s_w.
        tail: whether the random part of computing is ``"fixed"`` or grows with the ``"load"``.

    Raises:
        ValueError: the choice is not feasible, and which one is; an unknown tail.
    """
    load = system.load(edge_stragglers, worker_stragglers)
    return time_at(system, load, edge_stragglers, worker_stragglers, tail)


def time_at(system: System, load: float, edge_stragglers: int, worker_stragglers: int, tail: Tail) -> float:
    """The same for any load, for schemes that wait alike with another one."""
    iteration = _Iteration(system, load, edge_stragglers, worker_stragglers, tail)
    return mean_time(iteration.late, iteration.start, iteration.stop, iteration.work)


def check_tail(tail: str) -> None:
    """ValueError for an unknown tail."""
    if tail not in ("fixed", "load"):
        raise ValueError(f"tail={tail!r} must be 'fixed' or 'load'")


class Answers:
    """P(T_ij > t) of the workers of several edge nodes at a load, in closed form.

    With u = t − c·D and n = ⌊u/τ⌋ attempts that may have ended by then, v = u − nτ and q = exp(−λτ), it is
    pⁿ + (1 − p)·exp(−λv)·(pⁿ − qⁿ)/(p − q): the spec's sum over the attempts, summed up.
    """

    def __init__(self, columns: Columns, load: float, tail: Tail) -> None:
        check_tail(tail)
        rate = columns.rate.T / load if tail == "load" else columns.rate.T
        attempt = columns.attempt.T
        random = np.isfinite(rate)
        at_once = attempt == 0
        self.start = columns.compute.T * load
        self.first = self.start + attempt  # before it, no answer
        self._attempt = attempt
        self._inverse = np.divide(1.0, attempt, out=np.zeros_like(attempt), where=~at_once)
        self._one = at_once.astype(float)
        self._rate = np.where(random, rate, 0.0)
        with np.errstate(divide="ignore"):
            self._p = np.where(at_once, -np.inf, np.log(columns.failure.T))
        q = -self._rate * attempt
        larger, smaller = np.maximum(self._p, q), np.minimum(self._p, q)
        self._larger = np.maximum(larger, -1e300)  # of two zeros, to keep 0·∞ away
        # Equal p and q are a limit; so near to it the error is 1e-9 of a term.
        self._ratio = np.minimum(smaller - self._larger, -1e-9)
        failure = np.where(at_once, 0.0, columns.failure.T)
        self._factor = np.where(random, (1 - failure) / -np.expm1(self._ratio), 0.0)
        with np.errstate(divide="ignore"):
            self.scale = np.where(random, 1 / rate, 0.0) + attempt / (1 - failure)

    def late(self, times: Floats, edges: Indices) -> Floats:
        """P(T_ij > t), (m, points), for a time and an edge node per point."""

        def at(values: Floats) -> Floats:
            return np.asarray(values[:, edges])

        u = times - at(self.start)
        n = np.floor(u * at(self._inverse)) + at(self._one)
        early = (n < 1) | (u < 0)
        n = np.maximum(n, 1)
        v = np.maximum(u - (n - at(self._one)) * at(self._attempt), 0)
        late = at(self._factor) * np.exp((n - 1) * at(self._larger) - at(self._rate) * v)
        late *= -np.expm1(n * at(self._ratio))
        late += np.exp(n * at(self._p))
        late[early] = 1.0
        return np.asarray(late)


def more_than(late: Floats, allowed: int) -> Floats:
    """P(more than ``allowed`` of independent events happen), (points,), of their probabilities (events, points).

    The dynamic programme over the events counts those that happen or those that do not, whichever are fewer.
    """
    events, points = late.shape
    wanted = events - allowed  # so many that do not happen are enough
    if allowed < wanted:
        counts, beyond = np.zeros((allowed + 1, points)), np.zeros(points)
        counts[0] = 1.0
        for number, own in enumerate(late):
            top = min(number, allowed) + 1
            moved = counts[:top] * own
            counts[:top] -= moved
            if top <= allowed:
                counts[1 : top + 1] += moved
            else:
                counts[1:] += moved[:-1]
                beyond += moved[-1]
        return beyond
    counts = np.zeros((wanted, points))
    counts[0] = 1.0
    for number, own in enumerate(late):
        top = min(number, wanted - 1) + 1
        stay = counts[:top] * own
        moved = counts[:top] - stay
        counts[:top] = stay
        counts[1 : top + 1] += moved[: wanted - 1] if top == wanted else moved
    return np.asarray(counts.sum(axis=0))


class _Iteration:
    """The distribution of an iteration's time; edge nodes that are alike are computed once."""

    def __init__(self, system: System, load: float, s_e: int, s_w: int, tail: Tail) -> None:
        kinds = {edge: number for number, edge in enumerate(dict.fromkeys(system.edges))}
        self._kind = np.array([kinds[edge] for edge in system.edges])
        columns = columns_of(tuple(kinds))
        self._answers = Answers(columns, load, tail)
        self._workers = columns.compute.shape[1]
        self._s_e, self._s_w = s_e, s_w
        self._attempt = columns.link_attempt
        self._failure = np.where(self._attempt > 0, columns.link_failure, 0.0)
        with np.errstate(divide="ignore"):
            self._attempts = np.maximum(np.ceil(np.log(_RARE) / np.log(self._failure)), 1)
        kth = self._workers - 1 - s_w
        self._low = np.sort(self._answers.first, axis=0)[kth]  # before it, no edge node of that kind is served
        self._high = self._served()
        last = len(self._kind) - 1 - s_e
        self.start = float(np.sort((self._low + self._attempt)[self._kind])[last])
        self.work = float(self._attempts.sum()) * (10 + self._workers)  # ten: of the attempts themselves
        self.stop = float(np.sort((self._high + self._attempts * self._attempt)[self._kind])[last])

    def late(self, times: Floats) -> Floats:
        """P(T > t), (points,)."""
        return more_than(self._edges_late(times)[self._kind], self._s_e)

    def _edges_late(self, times: Floats) -> Floats:
        """P(Z_i > t), (kinds, points): Σ over the attempts k of (1 − p)·p^(k−1)·P(not served at t − kτ)."""
        attempt, p = self._attempt[:, None], self._failure[:, None]
        step = np.where(attempt > 0, attempt, 1.0)
        last = np.ceil((times - self._low[:, None]) / step) - 1
        last = np.where(attempt > 0, np.clip(last, 0, self._attempts[:, None]), times > self._low[:, None])
        # Attempts so few that the edge node is as good as certainly served before them add nothing.
        first = np.floor((times - self._high[:, None]) / step) + 1
        first = np.where(attempt > 0, np.maximum(first, 1), 1 + (times >= self._high[:, None]))
        number = np.maximum(last - first + 1, 0).astype(np.intp).ravel()
        place = np.repeat(np.arange(number.size), number)
        k = np.arange(place.size) - np.repeat(np.cumsum(number) - number, number) + first.ravel()[place]
        kind, point = np.divmod(place, times.size)
        weights = (1 - self._failure[kind]) * self._failure[kind] ** (k - 1)
        unserved = self._unserved(times[point] - k * self._attempt[kind], kind)
        sums = np.bincount(place, weights * unserved, minlength=number.size)
        return np.asarray(sums.reshape(last.shape) + p**last)

    def _unserved(self, times: Floats, kinds: Indices) -> Floats:
        """P(more than s_w workers have not answered at t), (points,), for a time and a kind of edge node per point."""
        rows = max(self._workers, min(self._s_w + 1, self._workers - self._s_w))
        size = max(_CHUNK // rows, 1)
        pieces = range(0, len(times), size)
        parts = [more_than(self._answers.late(times[i : i + size], kinds[i : i + size]), self._s_w) for i in pieces]
        return np.concatenate(parts) if parts else np.zeros(0)

    def _served(self) -> Floats:
        """A time per kind after which it is as good as certainly served."""
        kinds = np.arange(len(self._low))
        low, step = self._low.copy(), self._answers.scale.max(axis=0)
        step = np.maximum(step, np.finfo(float).eps * np.maximum(low, np.finfo(float).tiny))
        high = low + step
        while (unserved := self._unserved(high, kinds) > NEGLIGIBLE).any():
            low = np.where(unserved, high, low)
            step = 2 * step
            high = np.where(unserved, high + step, high)
        for _ in range(4):
            middle = (low + high) / 2
            unserved = self._unserved(middle, kinds) > NEGLIGIBLE
            low, high = np.where(unserved, middle, low), np.where(unserved, high, middle)
        return np.asarray(high)
