"""The set K of ways in which an iteration can be in time, counted and drawn from (spec, 8.2).

A pattern k (N,) says how many workers' times lie between the limits of two neighbouring levels, k_{N−1} below the
smallest; the iteration is in time if k_0 + … + k_n ≤ n + 1 for n ≤ N − 2, with sum N. There are Catalan-many.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln

from gradcode.delays.bounds import count
from gradcode.delays.law import Floats
from gradcode.planning.block_coordinate.model import Indices


def pattern_count(workers: int) -> int:
    """|K| = Card(0, N), exact.

    >>> [pattern_count(n) for n in range(1, 6)]
    [1, 2, 5, 14, 42]
    """
    return cardinality(0, count("workers", workers, 1))


def cardinality(spare: int, entries: int) -> int:
    """Card(m, r) = (m+2)/(m+r+1)·C(m+2r−1, r−1): the ways to fill r entries with m spare places (spec, 8.2)."""
    from math import comb

    m, r = count("spare", spare), count("entries", entries, 1)
    return (m + 2) * comb(m + 2 * r - 1, r - 1) // (m + r + 1)


def draw_patterns(workers: int, draws: int, rng: np.random.Generator | int = 0) -> Indices:
    """(draws, N) patterns, each of K equally likely, entry after entry by the numbers of ways to go on."""
    count("workers", workers, 1)
    count("draws", draws, 1)
    rng = np.random.default_rng(rng)
    patterns = np.zeros((draws, workers), dtype=np.intp)
    used = np.zeros(draws, dtype=np.intp)
    for n in range(workers - 1):
        spare = np.arange(n + 1)[:, None]
        entry = np.arange(n + 2)[None]
        logs = _log_cardinality(np.maximum(spare + 1 - entry, 0), workers - n - 1)
        chances = np.where(entry <= spare + 1, np.exp(logs - _log_cardinality(spare, workers - n)), 0.0)
        steps = np.cumsum(chances, axis=1)
        steps /= steps[:, -1:]
        patterns[:, n] = (rng.random((draws, 1)) >= steps[n - used]).sum(axis=1)
        used += patterns[:, n]
    patterns[:, -1] = workers - used
    return patterns


def _log_cardinality(spare: npt.NDArray[np.intp], entries: int) -> Floats:
    m, r = spare, entries
    ways = gammaln(m + 2 * r) - gammaln(r) - gammaln(m + r + 1)
    return np.asarray(np.log(m + 2) - np.log(m + r + 1) + ways)
