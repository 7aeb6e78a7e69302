"""The probability that an iteration is done by a given time, and the blocks that make it largest (spec, section 8)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from gradcode.delays.bounds import count, positive
from gradcode.delays.law import Floats, Law
from gradcode.planning.block_coordinate.closed import by_frequency, by_large_threshold, by_time
from gradcode.planning.block_coordinate.expected import density, jumps, ranks
from gradcode.planning.block_coordinate.model import Indices, check_levels, check_sizes, loads, scale
from gradcode.planning.block_coordinate.race import first_failure, slopes, success
from gradcode.planning.block_coordinate.rounding import round_sizes
from gradcode.planning.block_coordinate.simplex import descend

_LEAST = 1e-300  # Poisson terms below are left out: small probabilities have gradients too
_STEPS = 300
_HOPELESS = 1e4  # in place of −ln P where P is 0
_ROUNDS, _TRIALS = 30, 300
_WIDTHS = (0.3, 0.1, 0.03, 0.01)  # relative: how far the jumps of a law are smeared, one after the other


@dataclass(frozen=True, eq=False)
class Likely:
    """Blocks, and how likely they are to be done in time.

    ``sizes`` (N,) are whole, ``value`` is their exact P(τ ≤ t); ``shares`` (N,) add up to 1: the blocks before
    rounding. ``starts`` has the value reached from each start. No bound is known: the maximum could be a local one.
    """

    sizes: Indices
    value: float
    shares: Floats = field(repr=False)
    starts: dict[str, float] = field(repr=False)


def completion_probability(
    sizes: npt.ArrayLike,
    law: Law,
    threshold: float,
    samples: float,
    cycles: float,
    costs: npt.ArrayLike | None = None,
) -> float:
    """P(τ ≤ t), exact for any law (spec, 8.1; RECONSTRUCTED).

    Args:
        sizes: (N,) the block sizes.
        law: of a worker's seconds per cycle, independent over the workers.
        threshold: t > 0 in seconds.
        samples: M.
        cycles: b.
        costs: see :func:`runtime`.

    Raises:
        ValueError: a bad argument, and which.
    """
    sizes = check_sizes(sizes)
    positive("threshold", threshold)
    p = ranks(scale(samples, cycles, len(sizes)) * loads(sizes, costs), law, np.array([threshold], dtype=float))
    good = float(success(p, _LEAST)[0])
    return good if good < 0.5 else float(1 - first_failure(p).sum())


def most_likely(
    law: Law,
    workers: int,
    coordinates: int,
    threshold: float,
    samples: float,
    cycles: float,
    levels: Sequence[int] | None = None,
    method: Literal["exact", "paper"] = "exact",
    rng: np.random.Generator | int = 0,
) -> Likely:
    """The block sizes with the largest P(τ ≤ t) (problem P of the spec).

    ``"exact"`` (spec, 8.4; RECONSTRUCTED) climbs the exact probability by its gradient from x^(t), x^(f), x^(lg) and
    almost uncoded blocks, as far as these have a positive one, and keeps the best end. ``"paper"`` is the authors'
    stochastic successive convex approximation (8.3), for the shifted exponential law; it ends well below.

    Args:
        law: of a worker's seconds per cycle. One with jumps (``Empirical``) has no gradient: it is smeared for the
            climb, which random steps follow (OURS); a few dozen values can then cost a hundredth of the probability.
        workers: N.
        coordinates: L.
        threshold: t > 0 in seconds.
        samples: M.
        cycles: b.
        levels: the numbers of stragglers that a block may tolerate; None: 0 to N−1. Not with ``"paper"``.
        method: ``"exact"`` or ``"paper"``.
        rng: for ``"paper"``, and a law with jumps: a generator, or the seed of one.

    Raises:
        ValueError: a bad argument; or no start can be done in time, and what would be.
    """
    allowed = check_levels(levels, workers)
    count("coordinates", coordinates, 1)
    positive("threshold", threshold)
    limit = threshold / (scale(samples, cycles, workers) * coordinates)  # what the shares' τ must keep
    if method == "paper":
        from gradcode.planning.block_coordinate.convex import paper_shares

        if levels is not None:
            raise ValueError(f"levels={levels!r} must be None with method='paper', which uses all of them")
        ends = {"paper": paper_shares(law, workers, limit, np.random.default_rng(rng))}
    elif method == "exact":
        ends = _ends(law, workers, allowed, limit)
        if jumps(law) is not None:
            generator = np.random.default_rng(rng)
            ends = {name: _scattered(law, shares, limit, generator) for name, shares in ends.items()}
    else:
        raise ValueError(f"method={method!r} must be 'exact' or 'paper'")
    values = {name: completion_probability(shares, law, limit, workers, 1.0) for name, shares in ends.items()}
    best = ends[max(values, key=lambda name: values[name])]
    if max(values.values()) == 0:
        raise ValueError(f"threshold={threshold} is too small: no blocks that were tried can be done by then")
    sizes = round_sizes(best * coordinates)
    value = completion_probability(sizes, law, threshold, samples, cycles)
    return Likely(sizes, value, best, values)


def _ends(law: Law, workers: int, allowed: Indices, limit: float) -> dict[str, Floats]:
    """Where the climbs end, by the name of their start."""
    least = float(law.at(0.0)) * (allowed[0] + 1)
    if limit < least:
        raise ValueError(
            f"threshold must be at least {least / limit:.6g} times what it is: before, nothing can be done that "
            f"tolerates {allowed[0]} stragglers or more under {law!r}"
        )
    starts = {"x^(lg)": by_large_threshold(workers, 1.0, allowed.tolist())}
    for name, closed in (("x^(t)", by_time), ("x^(f)", by_frequency)):
        try:
            starts[name] = closed(law, workers, 1.0, allowed.tolist())
        except ValueError:  # it does not exist
            continue
    # Its limits leave the fastest the least that any blocks can, so it can be in time if any blocks can.
    rest = min((limit / least - 1) / (2 * workers), 0.01) if least > 0 else 0.01
    nearly = np.zeros(workers)
    nearly[allowed] = rest / len(allowed)
    nearly[allowed[0]] += 1 - rest
    starts["first level"] = nearly
    ends: dict[str, Floats] = {}
    for name, start in starts.items():
        best = start
        for width in _WIDTHS if jumps(law) is not None else (0.0,):
            climb = _Climb(law, workers, allowed, limit, width)
            if climb(best[allowed])[0] < _HOPELESS:
                descend(climb, best[allowed], _STEPS)
                best = climb.shares()
        ends[name] = best
    return ends


def _scattered(law: Law, shares: Floats, limit: float, rng: np.random.Generator) -> Floats:
    """The likeliest of many shares around those given, by rounds with shorter and shorter steps."""
    used = shares > 0
    best, most = shares[used], -1.0
    for width in np.geomspace(0.3, 0.001, _ROUNDS):
        steps = rng.normal(scale=width, size=(_TRIALS, len(best))) * (rng.random((_TRIALS, len(best))) < 0.5)
        steps[0] = 0.0
        trials = best * np.exp(steps)
        trials /= trials.sum(axis=1, keepdims=True)
        sizes = np.zeros((_TRIALS, len(shares)))
        sizes[:, used] = trials
        work = np.cumsum(np.arange(1, len(shares) + 1) * sizes, axis=1)[:, ::-1].T
        with np.errstate(divide="ignore"):
            values = success(law.cdf(limit / work), _LEAST)
        if values.max() > most:
            best, most = trials[values.argmax()], float(values.max())
    result = np.zeros(len(shares))
    result[used] = best
    return result


class _Climb:
    """ln((1−P)/P) and its gradient with respect to the shares on the allowed levels; keeps the best shares."""

    def __init__(self, law: Law, workers: int, levels: Indices, limit: float, width: float) -> None:
        self._law, self._workers, self._levels, self._limit = law, workers, levels, limit
        self._cdf = law.cdf if width == 0 else _smeared(law, width)
        self._least = float(law.at(0.0)) if width == 0 else 0.0
        self._value, self._best = np.inf, np.zeros(len(levels))

    def shares(self) -> Floats:
        """(N,) the best."""
        result = np.zeros(self._workers)
        result[self._levels] = self._best
        return result

    def __call__(self, shares: Floats) -> tuple[float, Floats]:
        workers = self._workers
        sizes = np.zeros(workers)
        sizes[self._levels] = shares
        work = np.cumsum(np.arange(1, workers + 1) * sizes)[::-1]  # of rank 1 to N
        used = work > 0
        limits = np.full(workers, np.inf)
        limits[used] = self._limit / work[used]
        p = np.where(used, self._cdf(limits), 1.0)
        good, failures, slope = (part[..., 0] for part in slopes(p[:, None], _LEAST))
        late = float(failures.sum())
        if good <= 0 or p[0] == 0:
            return _HOPELESS, np.zeros(len(shares))
        value = np.log(max(late, 1e-300)) - np.log(float(good))
        if value < self._value:
            self._value, self._best = value, shares
        can = used & (limits > self._least)
        by_load = np.zeros(workers)
        past = limits[can] - self._least
        by_load[can] = -slope[can] * density(self._cdf, self._least, past) * limits[can] / work[can]
        gradient = (np.arange(1, workers + 1) * np.cumsum(by_load)[::-1])[self._levels]
        return float(value), -gradient * (1 / max(late, 1e-300) + 1 / float(good))


def _smeared(law: Law, width: float) -> Callable[[Floats], Floats]:
    """The distribution function after every value is multiplied by a lognormal variable of that width."""
    points = jumps(law)
    assert points is not None
    heights = np.diff(law.cdf(points), prepend=0.0)
    with np.errstate(divide="ignore"):
        logs = np.log(points)

    def cdf(times: Floats) -> Floats:
        with np.errstate(divide="ignore"):
            return np.asarray(ndtr((np.log(times)[..., None] - logs) / width) @ heights)

    return cdf
