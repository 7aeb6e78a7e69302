"""Clustered gradient coding: one code, once for each cluster of workers and its own part of the partitions."""

from __future__ import annotations

from functools import cached_property
from typing import SupportsIndex

import numpy as np

from gradcode.codes import checks, stability
from gradcode.codes.code import Array, GradientCode, Indices
from gradcode.codes.cyclic import cyclic_repetition
from gradcode.codes.registry import register
from gradcode.codes.repetition import fractional_repetition
from gradcode.codes.stability import Worst, growth, norm_bound

VARIANTS = ("auto", "repetition", "cyclic", "random")


class ClusteredCode(GradientCode):
    """P clusters, each with the code ``within``: cluster c has worker jP + c as the code's worker j.

    The cluster's partitions are c·K/P, …, (c+1)·K/P − 1. Every cluster is decoded by itself, and the master adds up.
    ``tolerance`` is that of one cluster, for all stragglers may be in one; any set with no more than so many in each
    cluster is decodable, up to P times as many. ``worst`` is over all those.

    Args:
        within: the code of a cluster, for N/P workers and K/P partitions.
        clusters: P.
    """

    def __init__(self, within: GradientCode, clusters: int) -> None:
        self.within, self.clusters = within, clusters
        spread = np.eye(clusters)
        # Row jP + c, column (c, m): row j of the code within, in the columns of cluster c.
        matrix = np.einsum("jm...,cd->jcdm...", within._matrix, spread)
        matrix = matrix.reshape(within.workers * clusters, -1, *within._matrix.shape[2:])
        super().__init__(matrix, np.tile(within._sizes, clusters), within.tolerance, within.dtype)

    @cached_property
    def cluster_of(self) -> Indices:
        """(N,) each worker's cluster."""
        return np.arange(self.workers) % self.clusters

    @cached_property
    def fewest(self) -> int:
        return self.clusters * self.within.fewest

    def _members(self, alive: frozenset[int]) -> list[list[int]]:
        """The survivors of each cluster, as the code within numbers them."""
        members: list[list[int]] = [[] for _ in range(self.clusters)]
        for worker in sorted(alive):
            members[worker % self.clusters].append(worker // self.clusters)
        return members

    def _solve(self, alive: Indices) -> Array | None:
        members = self._members(frozenset(alive.tolist()))
        if not all(map(self.within.decodable, members)):
            return None
        return self._joined([self.within.decode(own).weights for own in members])

    def _joined(self, each: list[Array]) -> Array:
        """Weights of all workers from those of each cluster."""
        return np.stack(each, axis=1).reshape(self.workers, *self._matrix.shape[2:])

    def _beyond(self, alive: frozenset[int]) -> bool:
        return all(map(self.within.decodable, self._members(alive)))

    def _worst(self) -> Worst:
        """Every cluster without the stragglers that are the worst for it.

        A cluster's own amplification is that of the code within; what all have in common is the master's sum, of N
        messages at most.
        """
        inner = self.within.worst
        left = set(range(self.within.workers)).difference(inner.stragglers)
        weights = self.within.decode(left).weights
        found = self._judge(self._joined([weights] * self.clusters))
        parts = self.reduction
        gains = np.einsum(
            "jv,jmu->mvu",
            np.abs(weights).reshape(-1, parts),
            self.within._magnitude.reshape(self.within.workers, -1, parts),
        )
        gain = float(norm_bound(gains).max())
        extra = 6 if np.iscomplexobj(self._matrix) else 2
        terms = self.workers + extra
        bound = growth(terms + self.load * parts, self._roundoff) * gain
        bound += growth(terms, stability.ROUNDOFF["float64"]) * (gain + 1) + found.residual
        lost = sorted(j * self.clusters + c for j in inner.stragglers for c in range(self.clusters))
        return Worst(max(bound, found.error), found.condition, tuple(lost), inner.patterns, inner.exhaustive)


@register(
    summary="a code in each cluster of workers, for the cluster's own part of the data",
    exact=True,
    tolerance="s in each cluster, whichever they are",
    load="(s+1)K/N",
    needs="clusters that divide the workers, with more than s of them each, and the partitions",
    choose="when stragglers are many and spread evenly; with the scheme clustered, which spreads them",
)
def clustered(
    workers: SupportsIndex,
    clusters: SupportsIndex,
    stragglers: SupportsIndex,
    partitions: SupportsIndex | None = None,
    *,
    variant: str = "auto",
    rng: checks.Seed = 0,
    dtype: str = "float32",
    max_error: float | None = None,
) -> ClusteredCode:
    """A gradient code in each of P clusters of l = N/P workers (dynamic_clustering.md 2, RECONSTRUCTED there).

    With P = 1 it is plain gradient coding, with l = s + 1 fractional repetition, with s = 0 uncoded. Mapping of
    letters: the paper's K workers and mini-batches are N and K here, its load r is s + 1.

    ``variant`` is the code of a cluster:

    - "repetition": :func:`fractional_repetition`, often decodable from fewer than l − s answers. Where s + 1 does not
      divide l its load is ⌈K_c/⌊l/(s+1)⌋⌉ of the K_c = K/P partitions of a cluster.
    - "cyclic": :func:`cyclic_repetition` with integer coefficients.
    - "random": the same with random ones, which needs l − s answers, as the paper's model of time says.
    - "auto": "repetition" where s + 1 divides l, else "cyclic".

    Args:
        workers: N.
        clusters: P, a divisor of N and K.
        stragglers: s < N/P, in each cluster.
        partitions: K ≥ N; N by default.
        variant: see above.
        rng: generator or seed of random coefficients.
        dtype: of the messages.
        max_error: the largest accepted error bound, as in :func:`cyclic_mds`.

    Raises:
        ValueError: an argument is out of range, or the error bound passes ``max_error``.

    >>> code = clustered(workers=6, clusters=2, stragglers=1)
    >>> code.cluster_of, code.decodable([0, 1, 2, 3]), code.decodable([0, 2, 4, 1])
    (array([0, 1, 0, 1, 0, 1]), True, False)
    """
    n = checks.integer("workers", workers, 1)
    p = checks.integer("clusters", clusters, 1, n)
    if n % p:
        divisors = [d for d in range(1, n + 1) if n % d == 0]
        raise ValueError(f"clusters={p} must divide workers={n}: one of {divisors}")
    size = n // p
    checks.integer("stragglers", stragglers, 0, size - 1, f"one of {size} workers in a cluster must answer")
    total = n if partitions is None else checks.integer("partitions", partitions, n, because="one per worker")
    if total % p:
        raise ValueError(f"partitions={total} must be a multiple of clusters={p}, for clusters with equal parts")
    checks.choice("variant", variant, VARIANTS)
    seed = int(checks.generator(rng).integers(2**63))
    inf = float("inf")

    def build(s: int, dtype: str) -> ClusteredCode:
        kind = ("cyclic" if size % (s + 1) else "repetition") if variant == "auto" else variant
        within: GradientCode
        if kind == "repetition":
            within = fractional_repetition(size, s, total // p, dtype=dtype)
        else:
            how = "column" if kind == "cyclic" else "random"
            within = cyclic_repetition(size, s, total // p, variant=how, rng=seed, dtype=dtype, max_error=inf)
        return ClusteredCode(within, p)

    return stability.accept(build, int(stragglers), dtype, max_error)
