"""Approximate codes: partitions on random workers, decoded by least squares or by equal weights."""

from __future__ import annotations

from functools import cached_property
from typing import SupportsIndex

import numpy as np
from numpy.typing import NDArray

from gradcode.codes import checks
from gradcode.codes.code import Array, GradientCode, Indices
from gradcode.codes.registry import register
from gradcode.codes.repetition import fractional_repetition
from gradcode.codes.stability import Worst

Held = NDArray[np.bool_]


class SharedCode(GradientCode):
    """Each partition's gradient is shared out equally among its d_j holders: B_ij = 1/d_j.

    Equal weights 1 are then exact when all workers answer, and weights 1/(1 − p) are right on average when
    each is missing with probability p. With stragglers the least-squares weights come closest; they may be
    exact, but nothing guarantees it.

    Args:
        held: (N, K), at least one holder per partition.
        dtype: of the messages.
    """

    def __init__(self, held: Held, dtype: str) -> None:
        matrix = held / held.sum(axis=0)
        super().__init__(matrix, np.ones(held.shape[1], dtype=np.int64), 0, dtype)

    def _solve(self, alive: Indices) -> Array | None:
        return np.ones(self.workers) if len(alive) == self.workers else None

    @cached_property
    def fewest(self) -> int:
        return self.workers - self.tolerance

    def _beyond(self, alive: frozenset[int]) -> bool:
        return False

    def _worst(self) -> Worst:
        everyone = self._judge(np.ones(self.workers))
        return Worst(everyone.error, everyone.condition, (), 1, exhaustive=True)


@register(
    summary="every partition on d workers, pairs of partitions sharing equally many; right on average",
    exact=False,
    tolerance="0; the error falls with replication",
    load="about dK/N",
    needs="replication ≤ workers; pairwise balance only at Hadamard sizes",
    choose="with random stragglers at a low load, where an unbiased gradient is enough",
)
def stochastic(
    workers: SupportsIndex,
    partitions: SupportsIndex | None = None,
    replication: SupportsIndex = 2,
    *,
    allocation: str | None = None,
    rng: checks.Seed = 0,
    dtype: str = "float32",
) -> SharedCode:
    """The stochastic gradient code of Bitar et al. 2019 (one_bit.md section 3; gradient_codes.md 3.5).

    ``decode(survivors, "fixed", straggling=p)`` gives the paper's unbiased sum, whose mean squared error for
    independent stragglers is (p/(1−p)) Σ_i ‖Σ_j B_ij g_j‖²; the default decoder gives least squares.

    Args:
        workers: N.
        partitions: K; N by default.
        replication: d, holders of each partition, 1 ≤ d ≤ N.
        allocation: "pairwise": any two partitions share exactly d²/N holders, from a Hadamard matrix of order
            N (one must be known here: N a power of two, or N − 1 a prime of the form 4m + 3; d = N/2, K ≤ N −
            1; or d = N). "random": d distinct holders per partition, independently; that balance then holds
            on average. "cyclic": partition j on workers j, …, j + d − 1 (mod N). "repetition": as
            `fractional_repetition` places them. None: pairwise where it exists, else random.
        rng: generator or seed of the random allocation.
        dtype: of the messages, for the error bound.

    Raises:
        ValueError: an argument is out of range, or no pairwise balanced allocation is known.

    >>> code = stochastic(workers=8, partitions=7, replication=4)
    >>> held = code.encoding > 0
    >>> int((held[:, 0] & held[:, 1]).sum())
    2
    """
    n = checks.integer("workers", workers, 1)
    k = n if partitions is None else checks.integer("partitions", partitions, 1)
    d = checks.integer("replication", replication, 1, n, f"workers={n}")
    if allocation is not None:
        checks.choice("allocation", allocation, ("random", "pairwise", "cyclic", "repetition"))
    random = checks.generator(rng)
    if allocation == "cyclic":
        return SharedCode((np.arange(n)[:, None] - np.arange(k)) % n < d, dtype)
    if allocation == "repetition":
        return SharedCode(fractional_repetition(n, d - 1, k).encoding > 0, dtype)
    balanced = _pairwise(n, k, d) if allocation in (None, "pairwise") else None
    if balanced is not None:
        return SharedCode(balanced, dtype)
    if allocation == "pairwise":
        raise ValueError(
            f"allocation='pairwise' must come from a Hadamard matrix: replication = workers/2, partitions < workers, "
            f"and a known order; got workers={n}, partitions={k}, replication={d}. Use allocation='random'"
        )
    ranks = np.argsort(random.random((n, k)), axis=0)
    return SharedCode(ranks < d, dtype)


@register(
    summary="every worker holds every partition with the same probability; the cheapest random placement",
    exact=False,
    tolerance="0; the error falls with replication",
    load="about dK/N, at most twice that where trimmed",
    needs="replication ≤ workers",
    choose="to compare with the paper, or when workers choose their partitions themselves",
)
def bernoulli(
    workers: SupportsIndex,
    partitions: SupportsIndex | None = None,
    replication: float = 2.0,
    *,
    trim: bool = True,
    rng: checks.Seed = 0,
    dtype: str = "float32",
) -> SharedCode:
    """The (regularised) Bernoulli gradient code of Charles et al. 2017 (gradient_codes.md 3.1, RECONSTRUCTED
    there).

    Each worker holds each partition with probability d/N. Two deviations: a partition that nobody drew goes
    to the worker with the smallest load, for without a holder it is lost in every iteration; and coefficients
    are 1/d_j instead of 1, which makes the gradient exact when everybody answers.

    Args:
        workers: N.
        partitions: K; N by default.
        replication: d, mean number of holders per partition, 0 < d ≤ N.
        trim: a worker with more than 2dK/N partitions gives up random ones of the excess.
        rng: generator or seed of the draw.
        dtype: of the messages, for the error bound.

    Raises:
        ValueError: an argument is out of range.

    >>> code = bernoulli(workers=20, replication=3)
    >>> code.decode(range(20)).exact, code.decode(range(10)).exact
    (True, False)
    """
    n = checks.integer("workers", workers, 1)
    k = n if partitions is None else checks.integer("partitions", partitions, 1)
    if not 0 < replication <= n:
        raise ValueError(f"replication={replication!r} must be positive and at most workers={n}")
    random = checks.generator(rng)
    held = random.random((n, k)) < replication / n
    if trim:
        most = int(2 * replication * k / n)
        for row in held:
            excess = int(row.sum()) - most
            if excess > 0:
                row[random.choice(np.flatnonzero(row), size=excess, replace=False)] = False
    for partition in np.flatnonzero(~held.any(axis=0)):
        held[held.sum(axis=1).argmin(), partition] = True
    return SharedCode(held, dtype)


def _pairwise(workers: int, partitions: int, replication: int) -> Held | None:
    """Holders (N, K) with equally many shared by any two partitions, or None where none is known."""
    if replication == workers:
        return np.ones((workers, partitions), dtype=bool)
    if 2 * replication != workers or partitions >= workers:
        return None
    hadamard = _hadamard(workers)
    return None if hadamard is None else hadamard[1 : partitions + 1].T > 0


def _hadamard(order: int) -> NDArray[np.int64] | None:
    """A Hadamard matrix whose first row is all ones, by Sylvester's or Paley's construction, or None."""
    if order & (order - 1) == 0:
        matrix = np.ones((1, 1), dtype=np.int64)
        while len(matrix) < order:
            matrix = np.block([[matrix, matrix], [matrix, -matrix]])
        return matrix
    q = order - 1
    if q % 4 != 3 or any(q % divisor == 0 for divisor in range(3, int(q**0.5) + 1, 2)):
        return None
    character = np.full(q, -1, dtype=np.int64)
    character[np.arange(q) ** 2 % q] = 1
    character[0] = -1  # Q − I, with Q_ij = χ(j − i) and χ(0) = 0
    matrix = np.ones((order, order), dtype=np.int64)
    matrix[1:, 1:] = character[(np.arange(q) - np.arange(q)[:, None]) % q]
    return matrix
