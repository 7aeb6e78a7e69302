"""Communication-efficient codes: which load and which reduction are quickest for given times of computing and sending.

    best = optimal_parameters(workers=8, compute_rate=0.8, transmit_rate=0.1, compute_shift=1.6, transmit_shift=6.0)
    best.load, best.reduction, best.time                        # 4, 3, 21.37 seconds
    best.code()                                                 # codes.communication_efficient(8, 4, 1, 3)

Source: Ye and Abbe 2018; the model of section 6 of the project's communication_efficient.md, which knows it at second
hand. Its letters: n workers, load d, reduction m, s = d − m stragglers; λ1 and λ2 are the compute and the transmit
rate, t1 and t2 the shifts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from gradcode.codes import GradientCode, checks, communication_efficient
from gradcode.delays.bounds import nonnegative, positive
from gradcode.delays.law import Floats

__all__ = ["Choice", "expected_time", "optimal_parameters"]

_PANELS, _NODES = 64, 20
_LAST = 50.0  # in units of both means: beyond, even one of 1e6 workers has less than 1e-14 left


@dataclass(frozen=True, eq=False)
class Choice:
    """The quickest of all loads and reductions.

    Attributes:
        workers: N.
        load: d, groups of partitions on each worker.
        reduction: m.
        time: E T of an iteration, seconds.
        times: (N, N) E T of load d and reduction m at [d − 1, m − 1]; NaN where m > d.
    """

    workers: int
    load: int
    reduction: int
    time: float
    times: Floats

    @property
    def stragglers(self) -> int:
        """s = d − m."""
        return self.load - self.reduction

    def code(self, **options: Any) -> GradientCode:
        """:func:`gradcode.codes.communication_efficient` with these parameters and the ``options`` given.

        Raises:
            ValueError: as that.
        """
        return communication_efficient(self.workers, self.load, self.stragglers, self.reduction, **options)


def expected_time(
    workers: int,
    load: int,
    reduction: int,
    *,
    compute_rate: float,
    transmit_rate: float,
    compute_shift: float = 0.0,
    transmit_shift: float = 0.0,
) -> float:
    """E T, seconds of an iteration: the (N − s)-th smallest of N independent times, s = load − reduction.

    A worker computes for d·(t1 + Exp(λ1)), with one draw for all its partitions, and sends for (t2 + Exp(λ2))/m. So
    E T = d·t1 + t2/m + ∫_0^∞ P(fewer than N − s of N sums ≤ x) dx with a sum of two exponentials of the rates
    a = λ1/d and b = λ2·m; integrated by Gauss-Legendre quadrature, to about 1e-9 of the result.

    Args:
        workers: N.
        load: d, from 1 to N, in groups of 1/N of everything.
        reduction: m, from 1 to d.
        compute_rate, compute_shift: λ1 per second and t1 seconds, of computing one group.
        transmit_rate, transmit_shift: λ2 per second and t2 seconds, of sending a whole gradient.

    Raises:
        ValueError: an argument is out of range.
    """
    n = checks.integer("workers", workers, 1)
    d = checks.integer("load", load, 1, n)
    m = checks.integer("reduction", reduction, 1, d, "load >= stragglers + reduction")
    positive("compute_rate", compute_rate)
    positive("transmit_rate", transmit_rate)
    nonnegative("compute_shift", compute_shift)
    nonnegative("transmit_shift", transmit_shift)
    a, b, shift = compute_rate / d, transmit_rate * m, d * compute_shift + transmit_shift / m
    # Panels grow with x: what is fast near 0 may be much faster than the tail.
    cuts = _LAST * (1 / a + 1 / b) * np.linspace(0, 1, _PANELS + 1) ** 3
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    widths = np.diff(cuts)[:, None] / 2
    x = cuts[:-1, None] + widths * (nodes + 1)
    s = d - m
    # Fewer than N − s have ended while more than s have not: I_S(s + 1, N − s) for the tail S of one.
    late = special.betainc(s + 1, n - s, _tail(x, a, b))
    return shift + float((widths * weights * late).sum())


def optimal_parameters(
    workers: int,
    *,
    compute_rate: float,
    transmit_rate: float,
    compute_shift: float = 0.0,
    transmit_shift: float = 0.0,
) -> Choice:
    """The load and reduction with the smallest :func:`expected_time`, of all 1 ≤ m ≤ d ≤ N.

    It looks at times only: whether the code's rounding holds is for the code to say (:meth:`Choice.code`).

    Raises:
        ValueError: an argument is out of range.

    >>> best = optimal_parameters(8, compute_rate=0.8, transmit_rate=0.1, compute_shift=1.6, transmit_shift=6.0)
    >>> best.load, best.reduction, round(best.time, 3)
    (4, 3, 21.37)
    """
    n = checks.integer("workers", workers, 1)
    times = np.full((n, n), np.nan)
    for d in range(1, n + 1):
        for m in range(1, d + 1):
            times[d - 1, m - 1] = expected_time(
                n,
                d,
                m,
                compute_rate=compute_rate,
                transmit_rate=transmit_rate,
                compute_shift=compute_shift,
                transmit_shift=transmit_shift,
            )
    place = int(np.nanargmin(times))
    return Choice(n, place // n + 1, place % n + 1, float(times.flat[place]), times)


def _tail(x: Floats, a: float, b: float) -> Floats:
    """P(Exp(a) + Exp(b) > x)."""
    if abs(a - b) < 1e-8 * a:
        return np.asarray((1 + a * x) * np.exp(-a * x))
    low, high = min(a, b), max(a, b)
    # (high·e^(−low·x) − low·e^(−high·x))/(high − low), without cancellation where the two are close.
    return np.asarray(np.exp(-low * x) * (1 - low * np.expm1(-(high - low) * x) / (high - low)))
