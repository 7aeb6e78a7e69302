"""How long an iteration takes whose master waits for a random number of workers (bcc.md section 3; DERIVED there)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gradcode.delays.bounds import count, nonnegative, require
from gradcode.delays.law import Floats, Law
from gradcode.planning.coupon.threshold import (
    grouped_probabilities,
    subsets_threshold_probabilities,
    threshold_probabilities,
)


@dataclass(frozen=True, eq=False)
class Method:
    """What the master waits for, where who holds what has nothing to do with who is quick.

    Args:
        name: of the method.
        load: partitions on each worker.
        probabilities: (N,) P(K = k) for k = 1, …, N, that k workers are enough and fewer are not.
        messages: vectors that each worker sends.
    """

    name: str
    load: float
    probabilities: Floats
    messages: int = 1

    @property
    def workers(self) -> int:
        """N."""
        return len(self.probabilities)

    @property
    def mean_threshold(self) -> float:
        """E K."""
        return float(self.probabilities @ np.arange(1, self.workers + 1))

    @property
    def communication(self) -> float:
        """E C: vectors that the master receives until it can stop, those that it did not need included."""
        return self.messages * self.mean_threshold

    def expected_time(self, law: Law, receive: float = 0.0) -> float:
        """Seconds of an iteration: r·Σ_k P(K = k)·E[T_(k)] and ``receive`` for each vector received until then.

        For the shifted exponential law E[T_(k)] is a + (H_N − H_{N−k})/μ. With a queue at the master, as clusters have
        it (:class:`gradcode.delays.Delays`), receiving costs no more than that, for it goes on while others still
        compute: see :func:`received` and :func:`monte_carlo`.

        Args:
            law: of the seconds per partition, drawn once for each worker and iteration.
            receive: c, seconds that the master takes for a vector.
        """
        nonnegative("receive", receive)
        possible = np.flatnonzero(self.probabilities)
        times = [law.mean_order_statistic(int(k) + 1, self.workers) for k in possible]
        return float(self.load * (self.probabilities[possible] @ times) + receive * self.communication)


def uncoded(workers: int, partitions: int) -> Method:
    """m/n partitions on each worker, all of whom are needed."""
    n, m = _sizes(workers, partitions)
    return Method("uncoded", m / n, _always(n, n))


def cyclic_repetition(workers: int, partitions: int, load: int) -> Method:
    """Any worst-case code of load r: whoever the s = r·n/m − 1 stragglers are, and never fewer than n − s.

    Raises:
        ValueError: r·n is no multiple of m.
    """
    n, m = _sizes(workers, partitions)
    return Method("cyclic repetition", load, _always(n - _copies(n, m, load) + 1, n))


def fractional_repetition(workers: int, partitions: int, load: int) -> Method:
    """m/r batches, dealt out to equally many workers; done when there is one of each (OURS to compare with).

    Raises:
        ValueError: r·n is no multiple of m, or m none of r.
    """
    n, m = _sizes(workers, partitions)
    require(m % load == 0, "load", load, f"divide partitions={m}")
    copies = _copies(n, m, load)
    return Method("fractional repetition", load, grouped_probabilities(m // load, copies))


def batched_coupon(workers: int, partitions: int, load: int) -> Method:
    """⌈m/r⌉ batches, each worker with a random one, given that nobody's is missing.

    Raises:
        ValueError: there are more batches than workers.
    """
    n, m = _sizes(workers, partitions)
    require(1 <= load <= m, "load", load, f"lie between 1 and partitions={m}")
    return Method("batched coupon", load, threshold_probabilities(-(-m // load), n))


def random_subsets(workers: int, partitions: int, load: int) -> Method:
    """r random partitions on each worker, which sends r vectors when it has computed all, given that none is missing.

    Raises:
        ValueError: the workers together have room for fewer than m.
    """
    n, m = _sizes(workers, partitions)
    return Method("random subsets", load, subsets_threshold_probabilities(m, load, n), load)


def received(came: npt.ArrayLike, seconds: float) -> Floats:
    """When a master has received the first, second, ... of what came, one after the other (OURS).

    The serial queue of the clusters: max over j ≤ k of t_(j) + (k − j + 1)·c.

    Args:
        came: (..., n) times in any order; inf: never.
        seconds: c, for each.

    Returns:
        (..., n) ascending.

    >>> received([5.0, 1.0, 1.2], 0.5)
    array([1.5, 2. , 5.5])
    """
    nonnegative("seconds", seconds)
    times = np.sort(np.asarray(came, dtype=float), axis=-1)
    before = seconds * np.arange(times.shape[-1])
    return np.asarray(np.maximum.accumulate(times - before, axis=-1) + before + seconds)


def _sizes(workers: int, partitions: int) -> tuple[int, int]:
    return count("workers", workers, 1), count("partitions", partitions, 1)


def _copies(workers: int, partitions: int, load: int) -> int:
    require(1 <= load <= partitions, "load", load, f"lie between 1 and partitions={partitions}")
    fits = load * workers % partitions == 0
    require(fits, "load", load, f"put each of partitions={partitions} on equally many of workers={workers}")
    copies = load * workers // partitions
    require(copies >= 1, "load", load, f"be at least {-(-partitions // workers)}: partitions={partitions}")
    return copies


def _always(threshold: int, workers: int) -> Floats:
    probabilities = np.zeros(workers)
    probabilities[threshold - 1] = 1.0
    return probabilities
