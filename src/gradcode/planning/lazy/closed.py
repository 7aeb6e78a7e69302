"""Expected seconds of an iteration in closed form, for workers that are alike (lagc.md 6, DERIVED there).

T_(k:n) is the k-th smallest of n independent unit times, one per worker, drawn anew in every iteration; a worker takes
ℓ·T for ℓ partitions. Where there is no closed form, the expectation is integrated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gradcode.delays import Deterministic, Exponential, Pareto, ShiftedExponential, Weibull
from gradcode.delays.law import Floats, Law, quadrature


def slowest(law: Law, workers: int) -> float:
    """E T_(n:n): until all have answered with one partition each; gradient descent, LAG of those selected.

    >>> round(slowest(Exponential(1.0), 12), 5)
    3.10321
    """
    return law.mean_order_statistic(workers, workers) if workers else 0.0


def coded(law: Law, workers: int, redundancy: int) -> float:
    """r·E T_(M−r+1:M): a gradient code that is decoded from so many messages and no fewer.

    >>> round(coded(Exponential(1.0), 12, 3), 5)
    4.80963
    """
    return redundancy * law.mean_order_statistic(workers - redundancy + 1, workers)


def grouped(law: Law, groups: int, redundancy: int, load: float | None = None) -> float:
    """ℓ·E max over groups of the quickest of r: grouping, and G-LAG with so many groups selected.

    Args:
        law: of a unit time.
        groups: that must answer; 0: nobody is asked.
        redundancy: r, workers in each.
        load: ℓ, partitions of each; None: r.

    >>> round(grouped(Exponential(1.0), 4, 3), 5)
    2.08333
    """
    size = redundancy if load is None else load
    return size * quickest(law, redundancy).mean_order_statistic(groups, groups) if groups else 0.0


def wait_f(law: Law, selected: int, workers: int, redundancy: int) -> float:
    """r·E T_(min(n, F):n), F = M − r + 1: LAGC's timing wait_F with n workers selected.

    >>> round(wait_f(Exponential(1.0), 2, 12, 3), 5)
    4.5
    """
    if not selected:
        return 0.0
    return redundancy * law.mean_order_statistic(min(selected, workers - redundancy + 1), selected)


def unequal(law: Law, loads: Sequence[float], answers: int) -> float:
    """E of the ``answers``-th smallest of ℓ_i·T_i: LAGC, coded, where holders have unlike numbers of partitions.

    ∫ P(fewer than so many have answered by t) dt, by the trapezoid rule in the logarithm of t; how many of those with
    one load have answered is binomial. Relative error below 1e-5 for laws with a density.

    Args:
        law: of a unit time.
        loads: ℓ_i > 0 of each worker that is asked.
        answers: from 1 to their number.

    Raises:
        ValueError: ``answers`` is out of its range.

    >>> round(unequal(Exponential(1.0), [1.0, 1.0, 1.0], 1), 5)
    0.33333
    """
    from scipy.stats import binom

    if not 1 <= answers <= len(loads):
        raise ValueError(f"answers={answers} must be from 1 to the {len(loads)} loads")
    # Before, nobody has answered; beyond, what is left is a power of t, or nothing.
    first, last = float(law.at(1e-12)) * min(loads), float(law.at(23.0)) * max(loads)
    x = np.linspace(np.log(max(first, 1e-12 * last)), np.log(last), 6001)
    t = np.exp(x)
    counts: Floats = np.ones((1, len(t)))  # P(number answered = row)
    for load, number in sorted(Counter(loads).items()):
        own = binom.pmf(np.arange(number + 1)[:, None], number, law.cdf(t / load)[None])
        both = np.zeros((len(counts) + number, len(t)))
        for m, probability in enumerate(own):
            both[m : m + len(counts)] += probability * counts
        counts = both
    left: Floats = counts[:answers].sum(axis=0)
    tail = 0.0
    if left[-1] > 0:
        power = float(np.log(left[-2] / left[-1]) / (x[-1] - x[-2]))
        tail = float(t[-1] * left[-1]) / (power - 1) if power > 1 else float("inf")
    return float(t[0] + np.trapezoid(left * t, x)) + tail


def quickest(law: Law, workers: int) -> Law:
    """The law of the smallest of so many independent times.

    >>> quickest(Pareto(2.5, 1.0), 3)
    Pareto(shape=7.5, scale=1.0)
    """
    match law:
        case _ if workers == 1:
            return law
        case Exponential(rate):
            return Exponential(workers * rate)
        case ShiftedExponential(shift, rate):
            return ShiftedExponential(shift, workers * rate)
        case Pareto(shape, scale):
            return Pareto(workers * shape, scale)
        case Weibull(shape, scale, shift):
            return Weibull(shape, scale * workers ** (-1 / shape), shift)
        case Deterministic():
            return law
    return _Quickest(law, workers)


@dataclass(frozen=True)
class _Quickest(Law):
    """Of any law: its hazard is multiplied."""

    law: Law
    of: int

    @property
    def mean(self) -> float:
        return self._mean_at(1, 1)

    def at(self, hazard: npt.ArrayLike) -> Floats:
        return self.law.at(np.asarray(hazard, dtype=float) / self.of)

    def cdf(self, t: npt.ArrayLike) -> Floats:
        result: Floats = 1 - (1 - self.law.cdf(t)) ** self.of
        return result

    def _mean_at(self, k: int, n: int) -> float:
        return quadrature(self.at, k, n)

    def _mean_inverse_at(self, k: int, n: int) -> float:
        return quadrature(lambda y: 1 / self.at(y), k, n)
