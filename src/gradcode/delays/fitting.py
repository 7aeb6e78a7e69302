"""Which law do measured times follow? Maximum likelihood over the families, ranked by Akaike's criterion."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gradcode.delays.bounds import require
from gradcode.delays.law import Floats, Law
from gradcode.delays.laws import Deterministic, Exponential, Pareto, ShiftedExponential, Weibull

# Two parameters and one time more, so that a fit says anything at all.
FEWEST = 3


@dataclass(frozen=True)
class Fit:
    """A law fitted to measured times.

    Args:
        law: with the parameters of maximum likelihood.
        log_likelihood: natural logarithm of the density of the times; inf for a ``Deterministic`` law.
        aic: 2·(number of parameters) − 2·log_likelihood; the smaller, the better.
        ks: Kolmogorov-Smirnov distance, the largest |law.cdf − measured cdf|.

    >>> times = ShiftedExponential(1.0, 2.0).sample(np.random.default_rng(0), 500)
    >>> type(fit(times)[0].law).__name__
    'ShiftedExponential'
    """

    law: Law
    log_likelihood: float
    aic: float
    ks: float


def fit(times: npt.ArrayLike) -> list[Fit]:
    """The families fitted to the times, best first.

    Closed forms for the exponential, shifted exponential and Pareto laws; one root for the Weibull law, whose
    shift stays 0, because its likelihood is unbounded in (shape, shift). Families that cannot have given the
    times (Pareto and Weibull if one is 0) are left out. If all times are equal up to rounding, the one fit is
    ``Deterministic``.

    Args:
        times: at least 3 durations, any shape, seconds per unit of load.

    Raises:
        ValueError: too few, negative or not finite times.
    """
    x: Floats = np.sort(np.asarray(times, dtype=float), axis=None)
    require(x.size >= FEWEST, "times.size", x.size, f"be >= {FEWEST}")
    bad = x[~(np.isfinite(x) & (x >= 0))]
    require(bad.size == 0, "times", bad[:3].tolist(), "be >= 0 and finite; drop what was never answered")
    if x[-1] - x[0] <= 1e-12 * x[-1]:
        return [Fit(Deterministic(float(x.mean())), math.inf, -math.inf, 0.0)]
    families = [_exponential(x), _shifted_exponential(x)]
    if x[0] > 0:
        families += [_pareto(x), _weibull(x)]
    fits = [
        Fit(law, log_likelihood, 2 * parameters - 2 * log_likelihood, _distance(law, x))
        for law, log_likelihood, parameters in families
    ]
    return sorted(fits, key=lambda found: found.aic)


def fit_workers(times: npt.ArrayLike) -> list[list[Fit]]:
    """``fit`` for each worker of measured times (iterations, N): N lists, best first.

    Raises:
        ValueError: a wrong shape; else as ``fit``, with the worker's index.
    """
    table: Floats = np.asarray(times, dtype=float)
    require(table.ndim == 2, "times.shape", table.shape, "be (iterations, N)")
    fits = []
    for worker, column in enumerate(table.T):
        try:
            fits.append(fit(column))
        except ValueError as error:
            raise ValueError(f"worker={worker}: {error}") from None
    return fits


_Family = tuple[Law, float, int]


def _exponential(x: Floats) -> _Family:
    rate = 1 / float(x.mean())
    return Exponential(rate), x.size * (math.log(rate) - 1), 1


def _shifted_exponential(x: Floats) -> _Family:
    rate = 1 / float(np.mean(x - x[0]))
    return ShiftedExponential(float(x[0]), rate), x.size * (math.log(rate) - 1), 2


def _pareto(x: Floats) -> _Family:
    logs = np.log(x / x[0])
    shape = 1 / float(logs.mean())
    density = math.log(shape) - math.log(x[0]) - (shape + 1) * float(logs.mean())
    return Pareto(shape, float(x[0])), x.size * density, 2


def _weibull(x: Floats) -> _Family:
    from scipy.optimize import brentq

    z = np.log(x / x[-1])  # ≤ 0, so that no power overflows

    def slope(shape: float) -> float:
        """−d(log-likelihood)/d(shape) per time and at the best scale: increasing, with one root."""
        power = np.exp(shape * z)
        return float(power @ z / power.sum() - 1 / shape - z.mean())

    low = high = math.pi / math.sqrt(6) / float(z.std())  # by the variance of log T
    while slope(low) > 0:
        low /= 2
    while slope(high) < 0:
        high *= 2
    shape = float(brentq(slope, low, high, xtol=1e-12 * high, rtol=1e-12)) if low < high else low
    log_scale = math.log(x[-1]) + math.log(float(np.exp(shape * z).mean())) / shape
    density = math.log(shape) - shape * log_scale + (shape - 1) * float(np.log(x).mean()) - 1
    return Weibull(shape, math.exp(log_scale)), x.size * density, 2


def _distance(law: Law, x: Floats) -> float:
    cdf = law.cdf(x)
    steps = np.arange(x.size + 1) / x.size
    return float(max(np.max(steps[1:] - cdf), np.max(cdf - steps[:-1])))
