"""Blocks, loads, and the time of one iteration (spec, sections 2 and 3)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gradcode.delays.bounds import count, positive, require
from gradcode.delays.law import Floats

Indices = npt.NDArray[np.intp]


def runtime(
    sizes: npt.ArrayLike, times: npt.ArrayLike, samples: float, cycles: float, costs: npt.ArrayLike | None = None
) -> Floats:
    """The time of an iteration, (M·b/N)·max_n T_(N−n)·S_n with S_n = Σ_{i≤n} (i+1)·x_i (paper, section III).

    Args:
        sizes: (N,) the block sizes x: block n is the x_n coordinates that tolerate n stragglers; blocks are worked off
            in this order. Fractions are allowed.
        times: (..., N) seconds per cycle, one per worker, in any order; inf: never answers.
        samples: M, samples per gradient, over all workers.
        cycles: b, cycles for the partial derivative of one sample with respect to one coordinate.
        costs: what the coordinates cost, in the order in which they are worked off, relative to ``cycles``; then
            ``sizes`` must be whole and add up to their number, and block n counts with the sum of its coordinates'
            costs (the spec's 16.10: a coordinate may stand for a group of parameters). None: each costs 1.

    Returns:
        (...,) seconds; inf where more workers never answer than a block tolerates.

    Raises:
        ValueError: a wrong shape or sign, and which.
    """
    sizes = check_sizes(sizes)
    times = np.asarray(times, dtype=float)
    if times.ndim == 0 or times.shape[-1] != len(sizes):
        raise ValueError(f"times.shape={times.shape} must end in N={len(sizes)}, as sizes has")
    require(bool(np.all(times >= 0)), "times", "with negative or NaN entries", "be >= 0")
    work = loads(sizes, costs)
    used = work > 0
    slowest_first = np.sort(times, axis=-1)[..., ::-1]
    return np.asarray(scale(samples, cycles, len(sizes)) * (slowest_first[..., used] * work[used]).max(-1, initial=0.0))


def loads(sizes: npt.ArrayLike, costs: npt.ArrayLike | None = None) -> Floats:
    """S, (N,): what a worker has computed when block n is ready, in coordinates of one shard: Σ_{i≤n} (i+1)·x_i."""
    sizes = check_sizes(sizes)
    return np.cumsum(np.arange(1, len(sizes) + 1) * block_costs(sizes, costs))


def block_costs(sizes: Floats, costs: npt.ArrayLike | None) -> Floats:
    """(N,) the sum of the costs of each block's coordinates."""
    if costs is None:
        return sizes
    each = check_costs(costs)
    whole = np.rint(sizes).astype(np.intp)
    if np.any(whole != sizes) or whole.sum() != len(each):
        raise ValueError(f"sizes={sizes.tolist()} must be whole and add up to the {len(each)} coordinates of costs")
    ends = np.concatenate([[0], np.cumsum(whole)])
    return np.diff(np.concatenate([[0.0], np.cumsum(each)])[ends])


def tolerances(sizes: npt.ArrayLike) -> Indices:
    """(L,) the stragglers s_l that each coordinate tolerates, in the order of work; sizes must be whole."""
    sizes = check_sizes(sizes)
    whole = np.rint(sizes).astype(np.intp)
    require(bool(np.all(whole == sizes)), "sizes", sizes.tolist(), "be whole numbers")
    return np.repeat(np.arange(len(whole)), whole)


def sizes_of(tolerances: npt.ArrayLike, workers: int) -> Indices:
    """(N,) how many coordinates tolerate n stragglers, from s_l (L,): the other way round."""
    s = np.asarray(tolerances)
    require(s.size == 0 or (s.min() >= 0 and s.max() < workers), "tolerances", s.tolist(), f"lie in 0..{workers - 1}")
    return np.bincount(s, minlength=workers).astype(np.intp)


def scale(samples: float, cycles: float, workers: int) -> float:
    """κ = M·b/N: a coordinate's cycles on one shard."""
    positive("samples", samples)
    positive("cycles", cycles)
    return float(samples * cycles / workers)


def check_sizes(sizes: npt.ArrayLike) -> Floats:
    """As (N,) floats; ValueError unless nonnegative and finite, with something in them."""
    array = np.asarray(sizes, dtype=float)
    require(array.ndim == 1 and array.size > 0, "sizes.shape", array.shape, "be (N,), one block per level")
    good = bool(np.all(np.isfinite(array)) and np.all(array >= 0) and array.sum() > 0)
    require(good, "sizes", array.tolist(), "be >= 0 and finite, and not all 0")
    return array


def check_costs(costs: npt.ArrayLike) -> Floats:
    """As (L,) floats; ValueError unless positive and finite."""
    array = np.asarray(costs, dtype=float)
    require(array.ndim == 1 and array.size > 0, "costs.shape", array.shape, "be (L,), one cost per coordinate")
    require(bool(np.all(np.isfinite(array)) and np.all(array > 0)), "costs", array.tolist(), "be > 0 and finite")
    return array


def check_levels(levels: Sequence[int] | None, workers: int) -> Indices:
    """The levels that blocks may have, ascending; all for None.

    ``range(m)`` caps what a worker must store at m shards (spec, 16.11).
    """
    count("workers", workers, 1)
    if levels is None:
        return np.arange(workers)
    chosen = np.unique([count("levels", level) for level in levels]).astype(np.intp)
    good = chosen.size > 0 and chosen[-1] < workers
    require(good, "levels", list(levels), f"name at least one level and lie in 0..{workers - 1}")
    return chosen
