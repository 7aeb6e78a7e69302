"""Blocks of a network, whose gradients come one after the other from the output.

A worker goes partition by partition; of its (k+1)-th partition only the parameters from level k on are needed, the ones
near the output, and the backward pass ends there (block_coordinate.md 16.10). With share_k the cost of that pass, a
worker has its part of level n after T_j·C_n with C_n = Σ_{k≤n} share_k, and the iteration takes max_n T_(N−n)·C_n over
the levels that are not empty. This takes the place of section 3's formula, for coordinates that come one by one.

In this model no mixture of levels beats the best single one (ours). Let the parameter that is reached last have level
m. Its gradient on a partition takes a whole pass, so N − m workers must have ended m + 1 of them: the iteration takes
at least (m+1)·T_(N−m), which is what level m takes for all parameters, and the best level takes no more on average.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import SupportsIndex

import numpy as np

from gradcode.delays.law import Floats, Law


@dataclass(frozen=True)
class NetworkPlan:
    """The best level for all parameters of a network.

    Attributes:
        level: how many stragglers every parameter tolerates.
        sizes: (N,) coordinates of each level, for :func:`gradcode.codes.block`.
        value: mean seconds of an iteration.
        uncoded: mean seconds at level 0.
    """

    level: int
    sizes: tuple[int, ...]
    value: float
    uncoded: float


def for_network(law: Law, workers: int, coordinates: int, *, highest: int | None = None) -> NetworkPlan:
    """The best plan for gradients that come by backward passes: one level for all (see above).

    Args:
        law: of a worker's seconds per partition, one draw per worker and iteration.
        workers: N.
        coordinates: L.
        highest: the highest level allowed, for workers that cannot hold more than ``highest + 1`` partitions.

    Raises:
        ValueError: an argument is out of range.
    """
    top = workers - 1 if highest is None else highest
    if workers < 1 or not 0 <= top < workers or coordinates < 1:
        raise ValueError(
            f"workers={workers} and coordinates={coordinates} must be at least 1, and highest={highest} from 0 to "
            f"workers - 1"
        )
    times = [(level + 1) * law.mean_order_statistic(workers - level, workers) for level in range(top + 1)]
    best = int(np.argmin(times))
    return NetworkPlan(best, tuple(coordinates * (n == best) for n in range(workers)), times[best], times[0])


def network_runtime(levels: Sequence[SupportsIndex], costs: Sequence[float] | Floats, times: Floats) -> Floats:
    """Seconds of an iteration with these levels, (samples, N) seconds per partition -> (samples,).

    Args:
        levels: (P,) of each parameter in the order of ``model.parameters()``, not falling.
        costs: (P,) of a backward pass from the output down to each parameter, as a share of the whole one
            (:func:`gradcode.training.profile`).
        times: (samples, N).

    Raises:
        ValueError: the levels fall, or are not from 0 to N − 1.
    """
    own, workers = np.asarray(levels, dtype=np.int64), times.shape[1]
    if np.any(np.diff(own) < 0) or own.min() < 0 or own.max() >= workers:
        raise ValueError(f"levels={own.tolist()} must be from 0 to {workers - 1} and not fall")
    shares = [float(np.max(np.asarray(costs)[own >= k], initial=0.0)) for k in range(workers)]
    slowest = np.sort(times, axis=1)[:, ::-1]
    used = np.unique(own)
    result: Floats = (slowest[:, used] * np.cumsum(shares)[used]).max(axis=1)
    return result
