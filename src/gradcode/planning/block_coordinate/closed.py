"""Blocks in closed form, each worker's time replaced by a constant (spec, sections 4.3, 5 and 8.5)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gradcode.delays.bounds import positive
from gradcode.delays.law import Floats, Law
from gradcode.planning.block_coordinate.model import Indices, check_levels, scale


def by_time(law: Law, workers: int, coordinates: float, levels: Sequence[int] | None = None) -> Floats:
    """x^(t): the best blocks if the k-th fastest worker always took E[T_(k)] (paper, section V).

    Args:
        law: of a worker's seconds per cycle.
        workers: N.
        coordinates: L, or the sum of their costs.
        levels: the numbers of stragglers that a block may tolerate; None: 0 to N−1. ``range(m)`` caps what a worker
            must store at m shards of the data (RECONSTRUCTED; the paper has no such restriction).

    Returns:
        (N,) block sizes that add up to ``coordinates``, not rounded (see :func:`round_sizes`).

    Raises:
        ValueError: a bad argument; every order statistic that the levels allow has an infinite mean, or one is 0.
    """
    allowed = check_levels(levels, workers)
    return equalised(_mean_times(law, workers, allowed), allowed, workers, coordinates)


def by_frequency(law: Law, workers: int, coordinates: float, levels: Sequence[int] | None = None) -> Floats:
    """x^(f): the best blocks if the k-th fastest worker always took 1 / E[1/T_(k)] (paper, section V).

    Arguments and result as of :func:`by_time`.

    Raises:
        ValueError: a bad argument, or E[1/T_(k)] is infinite for an order statistic in use (T_(1) of every law with a
            positive density at 0, as the exponential without shift): x^(f) does not exist.
    """
    allowed = check_levels(levels, workers)
    try:
        inverse = [law.mean_inverse_order_statistic(int(workers - n), workers) for n in allowed]
    except ValueError as error:
        raise ValueError(f"x^(f) does not exist: {error}. Use by_time or optimal, or a law with a shift") from None
    return equalised(1 / np.array(inverse), allowed, workers, coordinates)


def by_large_threshold(workers: int, coordinates: float, levels: Sequence[int] | None = None) -> Floats:
    """x^(lg) = L / ((n+1)·H_N): all levels fail alike rarely for a large threshold, whatever the law (spec, 8.5).

    From the authors' code; for some of the levels OURS (S_n stays proportional to n + 1). Arguments and result as of
    :func:`by_time`.
    """
    allowed = check_levels(levels, workers)
    return equalised(1 / (allowed + 1.0), allowed, workers, coordinates)


def lower_bound(
    law: Law, workers: int, coordinates: float, samples: float, cycles: float, levels: Sequence[int] | None = None
) -> float:
    """κ·L / Σ c_n/t_{N−n} ≤ E[τ] of all blocks, in seconds, by Jensen's inequality (spec, 4.3; RECONSTRUCTED).

    Some 26 % below the optimum in the paper's setting at N = 20; the bound of :func:`optimal` is far closer.
    """
    allowed = check_levels(levels, workers)
    times = _mean_times(law, workers, allowed)
    shares = equalised(times, allowed, workers, coordinates)
    used = np.flatnonzero(np.isfinite(times))[0]
    first = allowed[used]
    return float(scale(samples, cycles, workers) * (first + 1) * shares[first] * times[used])


def equalised(times: Floats, levels: Indices, workers: int, coordinates: float) -> Floats:
    """The blocks on ``levels`` for which d_{N−n}·S_n is the same for all of them, given those d (spec, section 5)."""
    positive("coordinates", coordinates)
    if np.any(times <= 0) or not np.any(np.isfinite(times)):
        raise ValueError(f"the mean times {times.tolist()} of the order statistics must be > 0, and one of them finite")
    # A time falls as its level grows; where quadrature says otherwise by a rounding, the block is empty.
    shares = np.maximum(np.diff(1 / times, prepend=0.0), 0.0) / (levels + 1)
    sizes = np.zeros(workers)
    sizes[levels] = coordinates * shares / shares.sum()
    return sizes


def _mean_times(law: Law, workers: int, levels: Indices) -> Floats:
    """E[T_(N−n)] for each of the levels."""
    return np.array([law.mean_order_statistic(int(workers - n), workers) for n in levels])
