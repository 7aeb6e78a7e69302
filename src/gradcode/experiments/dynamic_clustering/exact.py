"""Shares of good iterations in closed form, and mean times by integration (dynamic_clustering.md 6 and 11)."""

from __future__ import annotations

from itertools import product

import numpy as np
from scipy import stats

from gradcode.experiments.dynamic_clustering.setting import CLUSTERS, RATE, SHARE, SHIFT, SLOWDOWN, N
from gradcode.protocol import Floats

SIZE = N // CLUSTERS


def share_plain(load: int) -> float:
    """Of iterations with at most r − 1 stragglers in all."""
    return float(stats.binom.cdf(load - 1, N, SHARE))


def share_fixed(load: int) -> float:
    """With at most r − 1 in each of the fixed clusters."""
    return float(stats.binom.cdf(load - 1, SIZE, SHARE) ** CLUSTERS)


def share_genie(load: int) -> float:
    """With no more than could be spread, P(r − 1)."""
    return float(stats.binom.cdf(CLUSTERS * (load - 1), N, SHARE))


def share_dynamic(load: int, memory: float) -> float:
    """With at most r − 1 in each cluster, formed so that last iteration's stragglers were spread evenly; n = P."""
    fail, recover = SHARE * (1 - memory), (1 - SHARE) * (1 - memory)
    good = [_stays_good(before, load, fail, recover) for before in range(SIZE + 1)]
    total = 0.0
    for before in range(N + 1):
        few, more = divmod(before, CLUSTERS)
        spread = good[few] ** (CLUSTERS - more) * (good[few + 1] ** more if more else 1.0)
        total += float(stats.binom.pmf(before, N, SHARE)) * spread
    return total


def _stays_good(before: int, load: int, fail: float, recover: float) -> float:
    """That a cluster with so many of last iteration's stragglers has at most r − 1 now."""
    staying, new = stats.binom(before, 1 - recover), stats.binom(SIZE - before, fail)
    return float(sum(staying.pmf(a) * new.pmf(b) for a, b in product(range(load), repeat=2) if a + b < load))


def mean_plain(load: int) -> float:
    """Seconds until K − r + 1 of all workers have answered; with r = 1 that of uncoded training."""
    grid, each = _finished(load)
    return float(np.trapezoid(1 - stats.binom.sf(N - load, N, each), grid))


def mean_fixed(load: int) -> float:
    """Seconds until l − r + 1 workers of each fixed cluster have."""
    grid, each = _finished(load)
    return float(np.trapezoid(1 - stats.binom.sf(SIZE - load, SIZE, each) ** CLUSTERS, grid))


def _finished(load: int) -> tuple[Floats, Floats]:
    """Times, and the share of workers that has ended by then."""
    grid = np.linspace(0.0, SLOWDOWN * load * (SHIFT + 30 / RATE), 100_001)
    quick, slow = (stats.expon.cdf(grid / (load * factor), SHIFT, 1 / RATE) for factor in (1.0, SLOWDOWN))
    return grid, (1 - SHARE) * quick + SHARE * slow
