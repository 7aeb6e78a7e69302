"""The paper's way to the blocks: the stochastic projected subgradient method (spec, 4.1)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from gradcode.delays.bounds import count, positive
from gradcode.delays.law import Floats, Law
from gradcode.planning.block_coordinate.closed import by_time
from gradcode.planning.block_coordinate.model import Indices, check_levels
from gradcode.planning.block_coordinate.rounding import round_sizes
from gradcode.planning.block_coordinate.simplex import project


@dataclass(frozen=True, eq=False)
class Descent:
    """Blocks, and the way there.

    ``sizes`` (N,) are whole; ``iterates`` (steps + 1, N) the sizes after each step, the start first; ``seconds``
    (steps + 1,) when they were known.
    """

    sizes: Indices
    iterates: Floats = field(repr=False)
    seconds: Floats = field(repr=False)


def subgradient(
    law: Law,
    workers: int,
    coordinates: int,
    levels: Sequence[int] | None = None,
    steps: int = 500,
    batch: int = 10_000,
    step: float = 1.0,
    power: float = 1.0,
    start: Floats | None = None,
    average: bool = False,
    rng: np.random.Generator | int = 0,
) -> Descent:
    """Blocks by stochastic projected subgradients, as in the authors' code; it has no stopping rule.

    Slow: after 500 steps at N = 20 it stays some 0.7 % above the optimum, which :func:`optimal` finds in a fraction
    of a second, with a bound. Samples and cycles only scale the objective and are left out, as in that code.

    Args:
        law: of a worker's seconds per cycle.
        workers: N.
        coordinates: L.
        levels: the numbers of stragglers that a block may tolerate; None: 0 to N−1.
        steps: K ≥ 1; 150, 300 or 500 in the authors' scripts.
        batch: B ≥ 1 fresh draws per step.
        step: the k-th step is step/k^power times the subgradient; 1 in the authors' code.
        power: see there.
        start: (N,) block sizes; None: x^(t).
        average: whether to return the mean of the last half of the iterates (OURS), not the last one.
        rng: a generator, or the seed of one.

    Raises:
        ValueError: a bad argument, and which.
    """
    allowed = check_levels(levels, workers)
    for name, value in (("coordinates", coordinates), ("steps", steps), ("batch", batch)):
        count(name, value, 1)
    positive("step", step)
    positive("power", power)
    rng = np.random.default_rng(rng)
    began = time.perf_counter()
    x = by_time(law, workers, coordinates, levels) if start is None else np.array(start, dtype=float)
    if x.shape != (workers,) or abs(x.sum() - coordinates) > 1e-6 * coordinates or np.any(np.delete(x, allowed) != 0):
        raise ValueError(f"start={start!r} must be (N,), add up to coordinates={coordinates} and be 0 off the levels")
    iterates, seconds = np.empty((steps + 1, workers)), np.empty(steps + 1)
    iterates[0], seconds[0] = x, time.perf_counter() - began
    factors = np.arange(1, workers + 1)
    for k in range(1, steps + 1):
        slowest_first = np.sort(law.sample(rng, (batch, workers)), axis=1)[:, ::-1]
        last = (slowest_first * np.cumsum(factors * x)).argmax(axis=1)
        by_load = np.bincount(last, slowest_first[np.arange(batch), last], minlength=workers) / batch
        gradient = factors * np.cumsum(by_load[::-1])[::-1]
        x = np.zeros(workers)
        x[allowed] = project((iterates[k - 1] - step / k**power * gradient)[allowed], coordinates)
        iterates[k], seconds[k] = x, time.perf_counter() - began
    final = iterates[(steps + 1) // 2 :].mean(axis=0) if average else x
    return Descent(round_sizes(final), iterates, seconds)
