"""What a duration is: a source of durations, and the law of a single one.

Every law here is *a clock of its own, run by one standard exponential*: with Y ~ Exp(1), T = at(Y), where
``at`` is the inverse of the cumulative hazard −ln P(T > t). Sampling, quantiles and order statistics all
follow from ``at``, because the k-th smallest of n standard exponentials is known (Rényi 1953): Y_(k) =
Σ_{i=n−k+1}^{n} E_i / i with independent E_i ~ Exp(1).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from gradcode.delays.bounds import count, require

Floats = npt.NDArray[np.float64]
Size = int | tuple[int, ...]

# Rows drawn at once where a caller asks for many: keeps the intermediate arrays small.
ROWS = 4096


class Sampler(Protocol):
    """Goes through the iterations of one run, in order."""

    def next(self, iterations: int) -> Floats:
        """The next rows, (iterations, N) or (iterations, N, stages), in seconds per unit of load."""
        ...


class Source(ABC):
    """Where durations come from: a law, drawn anew each time, or a process with a memory."""

    @property
    def workers(self) -> int | None:
        """The number of workers it is made for; None: any."""
        return None

    @abstractmethod
    def start(self, rng: np.random.Generator, workers: int, stages: int | None = None) -> Sampler:
        """A sampler at iteration 0.

        Rows are (N,), or (N, stages): then what holds through an iteration (a worker's state) is the same in
        all its stages, and the rest is drawn anew for each. Asking for the rows in pieces or at once gives
        the same numbers.

        Raises:
            ValueError: the source is made for another number of workers.
        """

    def _check_workers(self, workers: int) -> int:
        count("workers", workers, 1)
        if self.workers is not None:
            require(workers == self.workers, "workers", workers, f"be {self.workers}, as in {self!r}")
        return workers


def split(rng: np.random.Generator, parts: int) -> list[np.random.Generator]:
    """Independent generators for the parts of a process, so that drawing in pieces changes nothing.

    Seeded by draws, not by ``rng.spawn``: a generator restored from its saved state then splits the same way
    again.
    """
    return [np.random.default_rng(seed) for seed in rng.integers(0, 2**63, size=(parts, 4))]


class Law(Source):
    """The law of one duration, in seconds per unit of load. As a source: drawn anew each time."""

    @property
    @abstractmethod
    def mean(self) -> float:
        """E[T] in seconds; inf where it diverges."""

    @abstractmethod
    def at(self, hazard: npt.ArrayLike) -> Floats:
        """The time at which the cumulative hazard −ln P(T > t) reaches ``hazard``, elementwise."""

    @abstractmethod
    def cdf(self, t: npt.ArrayLike) -> Floats:
        """P(T ≤ t), elementwise."""

    @abstractmethod
    def _mean_at(self, k: int, n: int) -> float: ...

    @abstractmethod
    def _mean_inverse_at(self, k: int, n: int) -> float: ...

    def ppf(self, q: npt.ArrayLike) -> Floats:
        """The q-quantile, elementwise; ValueError unless 0 ≤ q ≤ 1."""
        q = np.asarray(q, dtype=float)
        require(bool(np.all((q >= 0) & (q <= 1))), "q", q.tolist(), "lie in [0, 1]")
        with np.errstate(divide="ignore"):
            return self.at(-np.log1p(-q))

    def sample(self, rng: np.random.Generator, size: Size) -> Floats:
        """Independent durations of the given shape."""
        return self.at(rng.standard_exponential(size))

    def start(self, rng: np.random.Generator, workers: int, stages: int | None = None) -> Sampler:
        workers = self._check_workers(workers)
        return _Independent(self, rng, (workers,) if stages is None else (workers, stages))

    def mean_order_statistic(self, k: int, n: int) -> float:
        """E[T_(k)], the mean time of the k-th fastest of n, in seconds; inf where it diverges.

        Raises:
            ValueError: not 1 ≤ k ≤ n.
        """
        return self._mean_at(*_rank(k, n))

    def mean_inverse_order_statistic(self, k: int, n: int) -> float:
        """E[1 / T_(k)] for the k-th fastest of n, per second.

        Raises:
            ValueError: not 1 ≤ k ≤ n, or the mean diverges (a density too large at 0), so that nothing can be
                optimised with it.
        """
        mean = self._mean_inverse_at(*_rank(k, n))
        if math.isinf(mean):
            raise ValueError(f"k={k} of n={n} has no mean of 1/T under {self!r}: too much weight near T = 0")
        return mean


class _Independent:
    def __init__(self, law: Law, rng: np.random.Generator, shape: tuple[int, ...]) -> None:
        self._law, self._rng, self._shape = law, rng, shape

    def next(self, iterations: int) -> Floats:
        return self._law.sample(self._rng, (iterations, *self._shape))


def _rank(k: int, n: int) -> tuple[int, int]:
    n = count("n", n, 1)
    k = count("k", k, 1)
    require(k <= n, "k", k, f"be <= n={n}")
    return k, n


def spacings(k: int, n: int) -> Floats:
    """(k,) the means 1/i of the steps that lead to the k-th smallest of n standard exponentials."""
    return 1.0 / np.arange(n - k + 1, n + 1)


def quadrature(g: Callable[[Floats], Floats], k: int, n: int) -> float:
    """E[g(Y_(k))] for the k-th smallest of n standard exponentials and g ≥ 0.

    The substitution y = E[Y_(k)]·exp(x − e^{−x}) makes the integrand fall off double exponentially on both
    sides, whatever algebraic singularity g has at 0; the trapezoid rule then converges exponentially
    (Takahasi and Mori 1974). Dividing by the same rule's value of E[1] = 1 spares the binomial factor, which
    overflows or loses digits. Relative error below 1e-9; 1e-4 where the integral is all but divergent at 0.
    """
    steps = spacings(k, n)
    mean, deviation = steps.sum(), math.sqrt(np.square(steps).sum())
    h = min(1 / 32, deviation / mean / 6)
    last = math.log(1 + (40 * deviation + 750 / (n - k + 1)) / mean) + 0.7  # beyond, the weight is below 1e-300
    x = np.arange(-6.4, last, h)
    y = mean * np.exp(x - np.exp(-x))
    log_weight = (k - 1) * np.log(-np.expm1(-y)) - (n - k + 1) * y + np.log(y) + np.log1p(np.exp(-x))
    weight = np.exp(log_weight - log_weight.max())
    seen = weight > 1e-280  # below, g could overflow
    x, y, values = x[seen], y[seen], weight[seen] * g(y[seen])
    # Before the first node the integrand is a power of y. That head counts only where the integral nearly diverges.
    first, second = values[:2] / (1 + np.exp(-x[:2]))  # per d(ln y)
    head = 0.0
    if first > 0:
        power = math.log(second / first) / math.log(y[1] / y[0])
        head = first / power / h - values[0] / 2
    return float((values.sum() + head) / weight.sum())
