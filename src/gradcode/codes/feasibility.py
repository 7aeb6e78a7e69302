"""Which tolerances and numbers of partitions a hierarchical code can have, and how many partitions each edge node."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from math import gcd, lcm
from typing import SupportsIndex

import numpy as np

from gradcode.codes import checks
from gradcode.codes.code import Indices


def edge_loads(
    workers_per_edge: Sequence[SupportsIndex],
    edge_stragglers: SupportsIndex,
    worker_stragglers: SupportsIndex,
    partitions: SupportsIndex | None,
    capped: bool,
) -> tuple[tuple[int, ...], Indices]:
    """m_i, and the partitions n_i of each edge node; Σ n_i = (s_e+1)K (hierarchical.md 2.1).

    Raises:
        ValueError: names the condition that fails and the nearest choice that is feasible.
    """
    if isinstance(workers_per_edge, str | bytes) or not np.iterable(workers_per_edge) or not len(workers_per_edge):
        raise ValueError(f"workers_per_edge={workers_per_edge!r} must be a list of numbers of workers")
    m = tuple(checks.integer(f"workers_per_edge[{i}]", size, 1) for i, size in enumerate(workers_per_edge))
    s_e = checks.integer("edge_stragglers", edge_stragglers, 0)
    s_w = checks.integer("worker_stragglers", worker_stragglers, 0)
    K = sum(m) if partitions is None else checks.integer("partitions", partitions, 1)
    if problem := _obstacle(m, s_e, s_w, K):
        if not capped or s_e >= len(m) or s_w >= min(m):
            raise ValueError(f"{problem}; {_nearest(m, s_e, s_w, K, capped)}")
        if sum(m) > K:
            raise ValueError(f"partitions={K} must be at least {sum(m)} with capped=True: one per worker")
        return m, _capped(m, s_e, s_w, K)
    return m, np.array([K * (s_e + 1) * size // sum(m) for size in m], dtype=np.int64)


def _obstacle(m: tuple[int, ...], s_e: int, s_w: int, K: int) -> str:
    """Which of F1, F2 and F3 fails, and why; empty if all hold."""
    n, M, largest = len(m), sum(m), m.index(max(m))
    if s_e >= n:
        return f"edge_stragglers={s_e} must be at most {n - 1} (F1): one of the {n} edge nodes must answer"
    if s_w >= min(m):
        return (
            f"worker_stragglers={s_w} must be at most {min(m) - 1} (F1): one of the {min(m)} workers of edge node "
            f"{m.index(min(m))} must answer"
        )
    if (s_e + 1) * max(m) > M:
        return (
            f"edge_stragglers={s_e} must be at most {M // max(m) - 1} (F2): edge node {largest} has {max(m)} of the "
            f"{M} workers, and {s_e + 1} times that share of the partitions is more than all of them"
        )
    for i, size in enumerate(m):
        if K * (s_e + 1) * size % M:
            share = f"edge node {i} would hold K(s_e+1)m_i/M = {K}·{s_e + 1}·{size}/{M} partitions"
            return f"partitions={K} cannot be shared out (F3): {share}, which is no integer"
    if K * (s_e + 1) * (s_w + 1) % M:
        share = f"a worker would hold K(s_e+1)(s_w+1)/M = {K}·{s_e + 1}·{s_w + 1}/{M} partitions"
        return f"partitions={K} cannot be shared out (F3): {share}, which is no integer"
    return ""


def _nearest(m: tuple[int, ...], s_e: int, s_w: int, K: int, capped: bool) -> str:
    """The feasible choices with the smallest changes: of K, unless F1 or F2 asks for others; and of s_e and s_w."""
    M, most = sum(m), len(m) - 1 if capped else sum(m) // max(m) - 1  # F2 implies F1's s_e < n
    fit_e, fit_w = min(s_e, most), min(s_w, min(m) - 1)
    step = smallest_partitions(m, fit_e, fit_w)
    if not _obstacle(m, fit_e, fit_w, K) or (capped and K >= M):
        fit_k = K
    else:
        fit_k = M if capped else max(step, (K + (step - 1) // 2) // step * step)
    changes = {"edge_stragglers": (s_e, fit_e), "worker_stragglers": (s_w, fit_w), "partitions": (K, fit_k)}
    choices = [", ".join(f"{name}={fit}" for name, (given, fit) in changes.items() if fit != given)]
    if (fit_e, fit_w) == (s_e, s_w):
        choices[0] += f" (or another multiple of {step})"
        pairs = [(e, w) for e in range(len(m)) for w in range(min(m)) if not _obstacle(m, e, w, K)]
        if pairs:
            e, w = min(pairs, key=lambda pair: abs(pair[0] - s_e) + abs(pair[1] - s_w))
            choices.append(f"for partitions={K} edge_stragglers={e}, worker_stragglers={w}")
    if not capped and s_e < len(m) and s_w < min(m) and K >= M:
        choices.append("with unequal loads capped=True")
    return f"the nearest feasible choice is {'; '.join(choices)}"


def smallest_partitions(m: Sequence[int], s_e: int, s_w: int) -> int:
    """K_min under F1 and F2: its multiples are the K that F3 allows."""
    M = sum(m)
    return lcm(*(M // gcd(M, (s_e + 1) * part) for part in (s_w + 1, *m)))


def nearest_repetition(m: tuple[int, ...], s_e: int, s_w: int, K: int) -> tuple[int, int] | None:
    """The nearest (s_e, s_w) whose layers are plain sums, of equally near ones the larger; None: there is none.

    Equal workers of an edge node make whole laps when s_w + 1 divides their number, the edge nodes when M/(s_e+1)
    workers, 2M/(s_e+1), … are those of the first few.
    """
    ends = set(np.cumsum(m).tolist())

    def whole(e: int, w: int) -> bool:
        laps = all(sum(m) * lap % (e + 1) == 0 and sum(m) * lap // (e + 1) in ends for lap in range(1, e + 1))
        return laps and all(size % (w + 1) == 0 for size in m) and not _obstacle(m, e, w, K)

    pairs = [(e, w) for e in range(len(m)) for w in range(min(m)) if whole(e, w)]
    return min(pairs, key=lambda pair: (abs(pair[0] - s_e) + abs(pair[1] - s_w), -sum(pair)), default=None)


def _capped(m: tuple[int, ...], s_e: int, s_w: int, K: int) -> Indices:
    """n_i for the smallest possible D: an edge node has room for m_i D / (s_w+1) partitions, and for K.

    Within that they are in proportion to the workers, as far as integers allow. With K ≥ M every worker has some.
    """
    wanted = (s_e + 1) * K

    def room(load: int) -> list[int]:
        return [min(K, load * size // (s_w + 1)) for size in m]

    caps = room(bisect_left(range(K), wanted, key=lambda load: sum(room(load))))
    # Rounds of the largest shares below the caps: what an edge node cannot take is left to the others.
    loads = [0] * len(m)
    while (rest := wanted - sum(loads)) > 0:
        open_ = [i for i in range(len(m)) if loads[i] < caps[i]]
        weight = sum(m[i] for i in open_)
        taken = 0
        for i in sorted(open_, key=lambda i: -m[i]):
            more = min(caps[i] - loads[i], max(1, rest * m[i] // weight), rest - taken)
            loads[i] += more
            taken += more
    return np.array(loads, dtype=np.int64)
