"""The laws of a duration, in seconds per unit of load."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gradcode.delays.bounds import nonnegative, positive, require
from gradcode.delays.law import Floats, Law, quadrature, spacings


@dataclass(frozen=True)
class ShiftedExponential(Law):
    """P(T ≤ t) = 1 − exp(−rate·(t − shift)) for t ≥ shift: the usual model of a worker (Lee et al. 2018).

    Args:
        shift: the least time, ≥ 0, seconds per unit of load.
        rate: of the exponential part, > 0, per second.

    >>> law = ShiftedExponential(shift=1.0, rate=2.0)
    >>> law.mean, law.mean_order_statistic(2, 2)
    (1.5, 1.75)
    """

    shift: float
    rate: float

    def __post_init__(self) -> None:
        nonnegative("shift", self.shift)
        positive("rate", self.rate)

    @property
    def mean(self) -> float:
        return self.shift + 1 / self.rate

    def at(self, hazard: npt.ArrayLike) -> Floats:
        return np.asarray(self.shift + np.asarray(hazard, dtype=float) / self.rate)

    def cdf(self, t: npt.ArrayLike) -> Floats:
        return np.asarray(-np.expm1(-self.rate * np.maximum(np.asarray(t, dtype=float) - self.shift, 0)))

    def _mean_at(self, k: int, n: int) -> float:
        return float(self.shift + spacings(k, n).sum() / self.rate)

    def _mean_inverse_at(self, k: int, n: int) -> float:
        if self.shift == 0 and k == 1:
            return math.inf
        return quadrature(lambda y: 1 / self.at(y), k, n)


@dataclass(frozen=True)
class Exponential(Law):
    """P(T ≤ t) = 1 − exp(−rate·t): a worker without a least time.

    Args:
        rate: > 0, per second.

    >>> Exponential(rate=1.0).mean_order_statistic(2, 3)
    0.8333333333333333
    """

    rate: float

    def __post_init__(self) -> None:
        positive("rate", self.rate)

    @property
    def mean(self) -> float:
        return 1 / self.rate

    def at(self, hazard: npt.ArrayLike) -> Floats:
        return np.asarray(np.asarray(hazard, dtype=float) / self.rate)

    def cdf(self, t: npt.ArrayLike) -> Floats:
        return np.asarray(-np.expm1(-self.rate * np.maximum(np.asarray(t, dtype=float), 0)))

    def _mean_at(self, k: int, n: int) -> float:
        return float(spacings(k, n).sum() / self.rate)

    def _mean_inverse_at(self, k: int, n: int) -> float:
        if k == 1:
            return math.inf
        return quadrature(lambda y: self.rate / y, k, n)


@dataclass(frozen=True)
class Pareto(Law):
    """P(T > t) = (scale / t)^shape for t ≥ scale: few, but very slow workers. The mean is infinite for shape
    ≤ 1.

    Args:
        shape: > 0; the smaller, the heavier the tail.
        scale: the least time, > 0, seconds per unit of load.

    >>> Pareto(shape=1.0, scale=0.1).mean, Pareto(shape=1.0, scale=0.1).mean_order_statistic(1, 2)
    (inf, 0.2)
    """

    shape: float
    scale: float

    def __post_init__(self) -> None:
        positive("shape", self.shape)
        positive("scale", self.scale)

    @property
    def mean(self) -> float:
        return self._mean_at(1, 1)

    def at(self, hazard: npt.ArrayLike) -> Floats:
        return np.asarray(self.scale * np.exp(np.asarray(hazard, dtype=float) / self.shape))

    def cdf(self, t: npt.ArrayLike) -> Floats:
        ratio = np.maximum(np.asarray(t, dtype=float) / self.scale, 1)
        return np.asarray(-np.expm1(-self.shape * np.log(ratio)))

    def _mean_at(self, k: int, n: int) -> float:
        # ln(T_(k) / scale) = Y_(k) / shape is a sum of independent exponentials: the mean is a product.
        growth = spacings(k, n) / self.shape
        if growth[0] >= 1:  # finite if and only if shape·(n − k + 1) > 1
            return math.inf
        return float(self.scale / np.prod(1 - growth))

    def _mean_inverse_at(self, k: int, n: int) -> float:
        return float(1 / (self.scale * np.prod(1 + spacings(k, n) / self.shape)))


@dataclass(frozen=True)
class Weibull(Law):
    """P(T ≤ t) = 1 − exp(−((t − shift) / scale)^shape) for t ≥ shift; shape < 1 has a heavier tail than
    exponential.

    Args:
        shape: > 0.
        scale: > 0, seconds per unit of load.
        shift: the least time, ≥ 0, seconds per unit of load.

    >>> Weibull(shape=2.0, scale=1.0).cdf(1.0).round(4)
    np.float64(0.6321)
    """

    shape: float
    scale: float
    shift: float = 0.0

    def __post_init__(self) -> None:
        positive("shape", self.shape)
        positive("scale", self.scale)
        nonnegative("shift", self.shift)

    @property
    def mean(self) -> float:
        return self._mean_at(1, 1)

    def at(self, hazard: npt.ArrayLike) -> Floats:
        return np.asarray(self.shift + self.scale * np.asarray(hazard, dtype=float) ** (1 / self.shape))

    def cdf(self, t: npt.ArrayLike) -> Floats:
        past = np.maximum(np.asarray(t, dtype=float) - self.shift, 0)
        return np.asarray(-np.expm1(-((past / self.scale) ** self.shape)))

    def _mean_at(self, k: int, n: int) -> float:
        if k == 1:
            return float(self.shift + self.scale * math.gamma(1 + 1 / self.shape) * n ** (-1 / self.shape))
        return quadrature(self.at, k, n)

    def _mean_inverse_at(self, k: int, n: int) -> float:
        if self.shift == 0:
            if k * self.shape <= 1:  # the density of T_(k) at 0 is of order t^(k·shape − 1)
                return math.inf
            if k == 1:
                return float(math.gamma(1 - 1 / self.shape) * n ** (1 / self.shape) / self.scale)
        return quadrature(lambda y: 1 / self.at(y), k, n)


@dataclass(frozen=True)
class Deterministic(Law):
    """Always the same time.

    Args:
        seconds: ≥ 0 per unit of load; inf: never answers.

    >>> Deterministic(0.5).mean_order_statistic(3, 4)
    0.5
    """

    seconds: float

    def __post_init__(self) -> None:
        nonnegative("seconds", self.seconds, finite=False)

    @property
    def mean(self) -> float:
        return float(self.seconds)

    def at(self, hazard: npt.ArrayLike) -> Floats:
        return np.full(np.shape(hazard), float(self.seconds))

    def cdf(self, t: npt.ArrayLike) -> Floats:
        return np.asarray(np.asarray(t, dtype=float) >= self.seconds, dtype=float)

    def _mean_at(self, k: int, n: int) -> float:
        return float(self.seconds)

    def _mean_inverse_at(self, k: int, n: int) -> float:
        return 1 / self.seconds if self.seconds else math.inf


class Empirical(Law):
    """Any of the measured times, each as likely as the others: what a fitted law is compared with.

    Args:
        times: at least one measured duration, ≥ 0 and finite, any shape, seconds per unit of load.

    >>> Empirical([3.0, 1.0, 2.0]).ppf([0.0, 0.5, 1.0]).tolist()
    [1.0, 2.0, 3.0]
    """

    def __init__(self, times: npt.ArrayLike) -> None:
        self.times: Floats = np.sort(np.array(times, dtype=float), axis=None)
        require(self.times.size > 0, "times", times, "hold at least one duration")
        bad = self.times[~np.isfinite(self.times) | (self.times < 0)]
        require(bad.size == 0, "times", bad[:3].tolist(), "be >= 0 and finite")
        self.times.flags.writeable = False

    def __repr__(self) -> str:
        return f"Empirical({self.times.size} times, mean={self.mean:.6g})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Empirical) and np.array_equal(self.times, other.times)

    def __hash__(self) -> int:
        return hash(self.times.tobytes())

    @property
    def mean(self) -> float:
        return float(self.times.mean())

    def at(self, hazard: npt.ArrayLike) -> Floats:
        below = -np.expm1(-np.asarray(hazard, dtype=float)) * self.times.size
        # A quantile i/n comes back from the logarithm a rounding above i: it is still the i-th time.
        index = np.ceil(below - 1e-9).astype(np.intp) - 1
        return np.asarray(self.times[np.clip(index, 0, self.times.size - 1)])

    def cdf(self, t: npt.ArrayLike) -> Floats:
        return np.asarray(np.searchsorted(self.times, np.asarray(t, dtype=float), side="right") / self.times.size)

    def _weights(self, k: int, n: int) -> Floats:
        """(times,) the probability of each time to be the k-th of n, by the Beta(k, n − k + 1) cdf."""
        from scipy.special import betainc

        return np.diff(betainc(k, n - k + 1, np.linspace(0, 1, self.times.size + 1)))

    def _mean_at(self, k: int, n: int) -> float:
        return float(self._weights(k, n) @ self.times)

    def _mean_inverse_at(self, k: int, n: int) -> float:
        return math.inf if self.times[0] == 0 else float(self._weights(k, n) @ (1 / self.times))
