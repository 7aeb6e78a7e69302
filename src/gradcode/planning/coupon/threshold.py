"""How many workers the batched coupon's collector waits for (bcc.md section 3; DERIVED there)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from math import comb, prod

import numpy as np

from gradcode.codes.coupon import cover_probability
from gradcode.delays.bounds import count, require
from gradcode.delays.law import Floats


def threshold_probabilities(batches: int, workers: int) -> Floats:
    """(N,) P(K = k | covered) for k = 1, …, N: that the k-th answer is the first with which every batch is there.

    Given that the N workers hold all B batches at all, which has the probability ``cover_probability(N, B)`` of
    :mod:`gradcode.codes.coupon`; P(K ≤ k) is ``cover_probability(k, B)``.

    Raises:
        ValueError: more batches than workers.

    >>> threshold_probabilities(batches=2, workers=4) * 0.875
    array([0.   , 0.5  , 0.25 , 0.125])
    """
    n, b = _workers_of(batches, workers)
    return _increments([cover_probability(k, b) for k in range(n + 1)])


def mean_threshold_if_covered(batches: int, workers: int) -> float:
    """E[K | covered by N workers]; without a limit to the workers it is ``codes.coupon.mean_threshold``.

    Raises:
        ValueError: more batches than workers.
    """
    probabilities = threshold_probabilities(batches, workers)
    return float(probabilities @ np.arange(1, len(probabilities) + 1))


def threshold_variance(batches: int) -> float:
    """Var K with unlimited workers: Σ_i (1 − i/B)/(i/B)² over i = 1, …, B."""
    b = count("batches", batches, 1)
    return sum((1 - i / b) / (i / b) ** 2 for i in range(1, b + 1))


def lower_bound(partitions: int, load: int) -> float:
    """m/r: no scheme waits for fewer workers, for k of them have seen at most k·r partitions."""
    m, r = _load_of(partitions, load)
    return m / r


def grouped_probabilities(groups: int, copies: int) -> Floats:
    """(N,) P(K = k) where each of ``groups`` batches lies on exactly ``copies`` workers, N = groups·copies.

    That is fractional repetition, whose batches are dealt out instead of drawn: P(K ≤ k) =
    Σ_j (−1)^j C(g,j) C(N − j·c, k) / C(N, k), in integers (OURS).
    """
    g, c = count("groups", groups, 1), count("copies", copies, 1)
    n = g * c
    below = [
        float(Fraction(sum((-1) ** j * comb(g, j) * comb(n - j * c, k) for j in range(g + 1)), comb(n, k)))
        for k in range(n + 1)
    ]
    return _increments(below)


# Random subsets: every worker holds r partitions drawn by themselves


def subsets_mean_threshold(partitions: int, load: int) -> float:
    """E K of random r-subsets, unlimited workers: Σ_j (−1)^{j+1} C(m,j) / (1 − C(m−j,r)/C(m,r)), about (m/r)·ln m.

    Exact rational arithmetic, for the terms alternate and cancel. Their results cannot be added up, so the master
    receives r times as many vectors.
    """
    m, r = _load_of(partitions, load)
    whole = comb(m, r)
    terms = ((-1) ** (j + 1) * Fraction(comb(m, j) * whole, whole - comb(m - j, r)) for j in range(1, m + 1))
    return float(sum(terms))


def subsets_cover_probability(loads: Sequence[int], partitions: int) -> float:
    """P(somebody holds each of m partitions) where worker i draws r_i of them at random, in integers.

    By inclusion and exclusion Σ_j (−1)^j C(m,j) Π_i C(m−j,r_i)/C(m,r_i).

    Raises:
        ValueError: a load is not from 0 to m.
    """
    m = count("partitions", partitions, 1)
    numbers = Counter(count("loads", load) for load in loads)
    require(max(numbers, default=0) <= m, "loads", list(loads), f"be at most partitions={m}")
    ways = prod(comb(m, load) ** workers for load, workers in numbers.items())
    hits = sum(
        (-1) ** j * comb(m, j) * prod(comb(m - j, load) ** workers for load, workers in numbers.items())
        for j in range(m + 1)
    )
    return float(Fraction(hits, ways))


def subsets_threshold_probabilities(partitions: int, load: int, workers: int) -> Floats:
    """(N,) P(K = k | covered) of random r-subsets.

    Raises:
        ValueError: the workers' partitions are fewer than m.
    """
    m, r = _load_of(partitions, load)
    n = count("workers", workers, 1)
    require(n * r >= m, "workers", n, f"be at least {-(-m // r)}: load={r}, partitions={m}")
    return _increments([subsets_cover_probability([r] * k, m) for k in range(n + 1)])


def _increments(below: Sequence[float]) -> Floats:
    """P(K = k | K ≤ N) from P(K ≤ k), k = 0, …, N."""
    return np.array([after - before for before, after in pairwise(below)]) / below[-1]


def _workers_of(batches: int, workers: int) -> tuple[int, int]:
    n, b = count("workers", workers, 1), count("batches", batches, 1)
    require(b <= n, "batches", b, f"be at most workers={n}: each batch needs a worker")
    return n, b


def _load_of(partitions: int, load: int) -> tuple[int, int]:
    m, r = count("partitions", partitions, 1), count("load", load, 1)
    require(r <= m, "load", r, f"be at most partitions={m}")
    return m, r
