"""The mean time of an iteration: exact by integration, and from draws (spec, 4.2 and 8.1; RECONSTRUCTED)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import betainc

from gradcode.delays.bounds import count
from gradcode.delays.law import Floats, Law
from gradcode.delays.laws import Deterministic, Empirical
from gradcode.planning.block_coordinate.model import check_sizes, loads, runtime, scale
from gradcode.planning.block_coordinate.race import first_failure, slopes, success
from gradcode.planning.hierarchical.sampling import Estimate

_ACCURACY = 1e-9  # relative, of integrals
_FIRST = 1 / 4  # the widest step of the trapezoid rule that is tried
_LAST = 1 / 1024
_STEP = 1e-3  # of the logarithm, for the density
_WORK = 1e9  # operations for a law with jumps, some ten seconds
_PIECE = 1 << 20  # numbers drawn at a time


def expected_runtime(
    sizes: npt.ArrayLike, law: Law, samples: float, cycles: float, costs: npt.ArrayLike | None = None
) -> float:
    """E[τ] in seconds, computed without sampling to about 1e-8 of its value; inf where it diverges.

    The limits b_k = t/(κ·S_{N−k}) that the ranked times must keep by t give P(τ ≤ t) exactly, and the tail beyond that
    of the order statistic with the heaviest one is integrated over t. For a law with jumps (``Empirical``) τ has N
    jumps per jump of T: where these are too many, some are passed over, to an error of the order of 1e-4.

    Args:
        sizes: (N,) the block sizes.
        law: of a worker's seconds per cycle, independent over the workers.
        samples: M.
        cycles: b.
        costs: see :func:`runtime`.

    Raises:
        ValueError: a bad argument, and which.
    """
    sizes = check_sizes(sizes)
    return scale(samples, cycles, len(sizes)) * expected_maximum(loads(sizes, costs), law)


def monte_carlo(
    sizes: npt.ArrayLike,
    law: Law,
    samples: float,
    cycles: float,
    costs: npt.ArrayLike | None = None,
    draws: int = 100_000,
    rng: np.random.Generator | int = 0,
) -> Estimate:
    """E[τ] from draws, with its standard error: what :func:`expected_runtime` is checked by.

    Args: as there, and

        draws: how many iterations, ≥ 2.
        rng: a generator, or the seed of one.
    """
    sizes = check_sizes(sizes)
    count("draws", draws, 2)
    rng = np.random.default_rng(rng)
    rows = max(_PIECE // len(sizes), 1)
    pieces = [min(rows, draws - begin) for begin in range(0, draws, rows)]
    times = np.concatenate(
        [runtime(sizes, law.sample(rng, (piece, len(sizes))), samples, cycles, costs) for piece in pieces]
    )
    return Estimate(float(times.mean()), float(times.std(ddof=1) / np.sqrt(draws)))


def expected_maximum(work: npt.ArrayLike, law: Law) -> float:
    """E[max_n T_(N−n)·S_n], in seconds, for any loads S (N,) that do not fall with n, the last one > 0.

    The model behind :func:`expected_runtime`, for other orders of work: S_n is what a worker has computed, in cycles,
    when it can deliver what N − n workers must deliver. Where nothing tolerates n stragglers, S_n is S_{n−1} (0 at
    first).

    Raises:
        ValueError: S falls, is negative or not finite, or is 0 to its end.
    """
    work = np.asarray(work, dtype=float)
    good = work.ndim == 1 and work.size > 0 and bool(np.all(np.isfinite(work)) and np.all(np.diff(work) >= 0))
    if not good or work[0] < 0 or work[-1] <= 0:
        raise ValueError(f"work={work.tolist()} must be (N,), finite, >= 0, not falling, and end above 0")
    points = jumps(law)
    if points is None:
        return Integral(work, law).value()
    return _stepwise(work, law, points)


def jumps(law: Law) -> Floats | None:
    """The values that a discrete law takes; None for a law with a density."""
    if isinstance(law, Deterministic):
        return np.array([law.seconds])
    return np.unique(law.times) if isinstance(law, Empirical) else None


def _stepwise(work: Floats, law: Law, points: Floats) -> float:
    """∫ P(τ > t) dt between the jumps of P, which lie at S_n·T for each value of T."""
    if np.isinf(points[-1]):
        return float("inf")
    ends = np.unique(np.multiply.outer(np.unique(work[work > 0]), points))
    most = int(max(_WORK / (20 * len(work) ** 2), 1000))
    if len(ends) > most:
        ends = ends[np.unique(np.linspace(0, len(ends) - 1, most).astype(np.intp))]
    middle = (ends[1:] + ends[:-1]) / 2
    late = 1 - success(ranks(work, law, middle))
    return float(ends[0] + late @ np.diff(ends))


def ranks(work: Floats, law: Law, times: Floats) -> Floats:
    """p (N, points): the probability of a worker's time to keep the limit of rank k = 1..N by each of the times."""
    from_last = work[::-1, None]
    p = np.ones((len(work), len(times)))
    used = work[::-1] > 0
    p[used] = law.cdf(times / from_last[used])
    return p


@dataclass
class Integral:
    """E[max_n T_(N−n)·S_n] for a law with a density, and its gradient.

    With a the lowest level in use and e the earliest time at which all can be ready,

        E = E[max(e, S_a·T_(N−a))] + ∫_e^∞ P(S_a·T_(N−a) ≤ t < the maximum) dt.

    The integrand's tail has at least twice the exponent of a heavy-tailed law, where P(the maximum > t) has the law's
    own. With t = e + c·exp(z − e^{−z}) the trapezoid rule converges exponentially (Takahasi and Mori 1974); its step is
    halved until nothing changes.
    """

    work: Floats
    law: Law

    def __post_init__(self) -> None:
        work, workers = self.work, len(self.work)
        self._level = int(np.argmax(work > 0))
        self._rank = workers - self._level
        self._least = float(self.law.at(0.0))
        self._start = work[-1] * self._least
        hazards = np.cumsum(1 / np.arange(workers, 0, -1.0))[::-1]  # of the (N − n)-th fastest, in the mean
        usual = work * np.where(work > 0, self.law.at(hazards), 0.0)
        self._width = float(usual.max()) - self._start

    def value(self) -> float:
        """E."""
        head = self._head()
        if np.isinf(head):
            return head
        _, _, integral = self._grid()
        return head + integral

    def gradient(self) -> tuple[float, Floats]:
        """E and ∂E/∂S_n = E[T_(N−n); n is the maximum], (N,); finite E only.

        E is homogeneous in S, so that the lowest level's part is what the others leave of E; their tails are light.
        """
        head = self._head()
        nodes, step, _ = self._grid()
        beyond, weights = self._times(nodes)
        p = ranks(self.work, self.law, self._start + beyond)
        _, failures, slope = slopes(p)
        value = head + step * float(self._gap(p, failures) @ weights)
        used = self.work[::-1][: self._rank, None]
        past = (beyond + self._least * (self.work[-1] - used)) / used  # of each rank's limit, past the least time
        by_limit = density(self.law.cdf, self._least, past) * (self._least + past) / used
        gradient = np.zeros(len(self.work))
        gradient[self._level :] = step * ((slope[: self._rank] * by_limit) @ weights)[::-1]
        others = gradient[self._level + 1 :] @ self.work[self._level + 1 :]
        gradient[self._level] = (value - others) / self.work[self._level]
        return value, gradient

    def _head(self) -> float:
        """E[max(e, S_a·T_(N−a))]."""
        workers, first = len(self.work), self.work[self._level]
        mean = float(first * self.law.mean_order_statistic(self._rank, workers))
        length = self._start - first * self._least
        if length <= 0 or np.isinf(mean):
            return mean
        # Tanh-sinh rule: P(T_(N−a) ≤ ·) may rise from 0 with any power.
        nodes = np.linspace(-3.2, 3.2, 129)
        part = 1 / (1 + np.exp(-np.pi * np.sinh(nodes)))
        weights = part * (1 - part) * np.pi * np.cosh(nodes) * (nodes[1] - nodes[0])
        early = self.law.cdf(self._least + length * part / first)
        return mean + float(length * (weights @ betainc(self._rank, self._level + 1.0, early)))

    def _times(self, nodes: Floats) -> tuple[Floats, Floats]:
        beyond = self._width * np.exp(nodes - np.exp(-nodes))
        return beyond, beyond * (1 + np.exp(-nodes))

    def _late(self, nodes: Floats) -> Floats:
        beyond, weights = self._times(nodes)
        p = ranks(self.work, self.law, self._start + beyond)
        return self._gap(p, first_failure(p)) * weights

    def _gap(self, p: Floats, failures: Floats) -> Floats:
        """P(the lowest level in use is ready, another not), (points,).

        That is, rank k fails first, and of the N−k+1 later times as many as rank N−a needs keep its limit.
        """
        last = self._rank - 1
        before = np.arange(1, self._rank)[:, None]
        within = (p[last] - p[:last]) / np.maximum(1 - p[:last], np.finfo(float).tiny)
        enough = betainc(self._rank - before + 1.0, self._level + 1.0, np.clip(within, 0.0, 1.0))
        return np.asarray((failures[:last] * enough).sum(axis=0))

    def _grid(self) -> tuple[Floats, float, float]:
        """Nodes, their distance, and the integral."""
        step = _FIRST
        nodes = np.arange(-3.75, 6.0, step)
        values = self._late(nodes)
        while values[-1] > _ACCURACY / 1e4 * values.sum():
            more = nodes[-1] + step * np.arange(1, 25)
            nodes, values = np.concatenate([nodes, more]), np.concatenate([values, self._late(more)])
        seen = np.flatnonzero(values >= _ACCURACY / 1e5 * values.max())
        inside = slice(max(seen[0] - 1, 0), seen[-1] + 2)
        nodes = nodes[inside]
        integral = step * float(values[inside].sum())
        while step > _LAST:
            between = nodes[:-1] + step / 2
            finer = integral / 2 + step / 2 * float(self._late(between).sum())
            nodes = np.sort(np.concatenate([nodes, between]))
            step /= 2
            change = abs(finer - integral)
            integral = finer
            # Halving a step squares the error. Not of head + integral: a narrow peak could pass unseen.
            if change <= np.sqrt(_ACCURACY) * integral:
                break
        return nodes, step, integral


def density(cdf: Callable[[Floats], npt.ArrayLike], least: float, past: Floats) -> Floats:
    """The density at ``least`` + ``past``, from differences of the distribution function in ln(past)."""
    with np.errstate(over="ignore"):
        ends = [np.asarray(cdf(least + past * np.exp(m * _STEP))) for m in (-2, -1, 1, 2)]
    return np.asarray((8 * (ends[2] - ends[1]) - (ends[3] - ends[0])) / (12 * _STEP * past))
