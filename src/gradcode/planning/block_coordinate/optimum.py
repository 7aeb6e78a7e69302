"""The blocks with the least expected runtime, and a bound that says how near they are (spec, 4.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from gradcode.delays.bounds import count, positive
from gradcode.delays.law import Floats, Law
from gradcode.planning.block_coordinate.closed import by_time
from gradcode.planning.block_coordinate.expected import expected_runtime, jumps
from gradcode.planning.block_coordinate.model import Indices, check_costs, check_levels, scale, sizes_of, tolerances
from gradcode.planning.block_coordinate.rounding import round_sizes
from gradcode.planning.block_coordinate.search import search

_FEW = 64  # coordinates so few that rounding matters are moved one by one


@dataclass(frozen=True, eq=False)
class Optimum:
    """Blocks, and how good they are.

    ``sizes`` (N,) are whole; ``value`` is their exact E[τ] in seconds. No blocks at all, whole or not, have an E[τ]
    below ``bound``, and ``gap`` = 1 − bound/value. With ``exact`` false (a law with many jumps) the bound is that of an
    average over draws, and as accurate as such an average; the gap may then be a little below 0.

    ``shares`` (N,) add up to 1: the blocks before rounding. ``slopes`` (N,) is the test of optimality: by how much
    E[τ] grows with x_n, in units of E[τ]/L. It is 1 for all blocks in use, and not less for the others, at the optimum;
    NaN for levels that were not allowed (at a kink, one gradient alone may fail it). In the spec's letters it is
    (n+1)·Σ_{m≥n} g_m, which is constant if g_n/c_n is.
    ``evaluations`` counts the pairs of E[τ] and its gradient.
    """

    sizes: Indices
    value: float
    bound: float
    exact: bool
    shares: Floats = field(repr=False)
    slopes: Floats = field(repr=False)
    evaluations: int

    @property
    def gap(self) -> float:
        """How far ``value`` can be above the least, relative to ``value``."""
        return 1 - self.bound / self.value


def optimal(
    law: Law,
    workers: int,
    coordinates: int,
    samples: float,
    cycles: float,
    levels: Sequence[int] | None = None,
    costs: npt.ArrayLike | None = None,
    tolerance: float = 1e-6,
    rng: np.random.Generator | int = 0,
) -> Optimum:
    """The block sizes with the least E[τ] (problem E of the spec; its solution here is OURS).

    E[τ] is convex, and for a law with a density its value and gradient are integrals (8.1), so no sampling is needed:
    L-BFGS in the logarithms of the shares, from x^(t). Each gradient is also a cutting plane: E[τ] is homogeneous of
    degree 1, so ∇E(x)·y ≤ E(y) for all x, y, and so for every mean of gradients; the best such mean, a linear program,
    gives the bound. At kinks, cutting planes go on where the descent stops. A law with so many jumps that their exact
    sum takes too long (``Empirical``) is replaced by an average over draws, 2·10⁴ of them for N ≤ 200, fewer beyond.

    Up to 64 coordinates, where rounding matters, single ones are moved between levels as long as that helps.

    Args:
        law: of a worker's seconds per cycle.
        workers: N.
        coordinates: L.
        samples: M.
        cycles: b.
        levels: the numbers of stragglers that a block may tolerate; None: 0 to N−1. ``range(m)`` caps what a worker
            must store at m shards of the data.
        costs: (L,) the coordinates' costs relative to ``cycles``, in the order of work; see :func:`runtime`.
        tolerance: of the gap before rounding, > 0; the descent ends there.
        rng: for a law with many jumps: a generator, or the seed of one.

    Raises:
        ValueError: a bad argument; or E[τ] is infinite for all blocks that the levels allow.
    """
    allowed = check_levels(levels, workers)
    count("coordinates", coordinates, 1)
    positive("tolerance", tolerance)
    each = np.ones(coordinates) if costs is None else check_costs(costs)
    if len(each) != coordinates:
        raise ValueError(f"coordinates={coordinates} must be the number of costs, {len(each)}")
    # A level whose order statistic has an infinite mean must stay empty, and so must all below it.
    finite = [np.isfinite(law.mean_order_statistic(int(workers - n), workers)) for n in allowed]
    if not any(finite):
        raise ValueError(f"levels={levels!r} all have an infinite mean time under {law!r}; allow higher ones")
    allowed = allowed[np.array(finite)]
    start = by_time(law, workers, 1.0, allowed.tolist())[allowed]
    found = search(law, workers, allowed, start, tolerance, np.random.default_rng(rng))
    shares, slopes = np.zeros(workers), np.full(workers, np.nan)
    shares[allowed], slopes[allowed] = found.best, found.slopes / found.value
    total = float(each.sum())
    sizes = round_sizes(shares * total, costs)
    value = expected_runtime(sizes, law, samples, cycles, costs)
    if coordinates <= _FEW and jumps(law) is None:
        sizes, value = _moved(sizes, value, allowed, law, samples, cycles, each)
    bound = float(scale(samples, cycles, workers) * total * found.bound)
    return Optimum(sizes, float(value), bound, found.exact, shares, slopes, len(found.gradients))


def _moved(
    sizes: Indices, value: float, allowed: Indices, law: Law, samples: float, cycles: float, costs: Floats
) -> tuple[Indices, float]:
    """Better sizes, one coordinate at a time moved to another level, as long as that helps."""
    workers, levels = len(sizes), tolerances(sizes)
    improved = True
    while improved:
        improved = False
        for coordinate, level in enumerate(levels):
            place = int(np.searchsorted(allowed, level))
            near = allowed[max(place - 1, 0) : place + 2]
            around = [*levels[max(coordinate - 1, 0) : coordinate], *levels[coordinate + 1 : coordinate + 2]]
            for other in sorted({*near.tolist(), *map(int, around)} - {int(level)}):
                trial = levels.copy()
                trial[coordinate] = other
                if np.any(np.diff(trial) < 0):
                    continue
                time = expected_runtime(sizes_of(trial, workers), law, samples, cycles, costs)
                if time < value * (1 - 1e-9):
                    levels, value, improved = trial, time, True
    return sizes_of(levels, workers), value
