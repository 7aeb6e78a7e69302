"""Hierarchical gradient coding: a code among edge nodes, and one among the workers of each of them."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import SupportsIndex

import numpy as np

from gradcode.codes import checks, stability
from gradcode.codes.code import Array, Decoding, GradientCode, Indices
from gradcode.codes.feasibility import edge_loads, nearest_repetition
from gradcode.codes.layers import NODES, Laps, consecutive
from gradcode.codes.registry import register
from gradcode.codes.stability import Worst

VARIANTS = ("auto", "lagrange", "random", "column", "repetition")
AUTOMATIC = ("lagrange", "random", "column")
"""What variant="auto" tries where repetition is not possible."""


@dataclass(frozen=True)
class Tradeoff:
    """Loads as fractions of the K partitions (hierarchical.md 2.1 and 2.2).

    Attributes:
        bound: (s_e+1)(s_w+1) / M; no code for these patterns of stragglers has less.
        load: that of the code, D / K; equal to the bound under F1 to F3.
        flat: (s+1) / M, what a code without edge nodes needs at least to survive the same patterns.
        flat_stragglers: its s, the workers of the s_e largest edge nodes and s_w of every other.
    """

    bound: float
    load: float
    flat: float
    flat_stragglers: int


class HierarchicalCode(GradientCode):
    """A code in two layers. As a `GradientCode` it is the equivalent code over all workers, left to right.

    Worker j of edge node i sends z_ij = Σ_l W_i[j, l] B[i, P_i[l]] g_{P_i[l]}; the edge node adds up
    y_i = Σ_j v_ij z_ij = Σ_k B_ik g_k, which is row i of the outer code; the master adds up Σ_i a_i y_i
    (hierarchical.md 3.4). Decoded at once, worker (i, j) has the weight a_i v_ij.

    ``tolerance`` is (s_e+1)(s_w+1) − 1: an edge node is served while no more than s_w of its workers straggle, and s_e
    edge nodes may go unserved, so whoever wants to stop the master must take s_w + 1 workers from each of s_e + 1 edge
    nodes. Many larger sets are decodable too, among them all workers of s_e edge nodes and s_w of every other.

    ``error`` of a decoding is for one sum over all messages; `layered_error` is for sums of sums, which lose less.
    ``worst`` is over all patterns of at most s_e edge nodes and s_w workers of every other: its error and
    `layered_error` multiply the amplifications of the two layers' worst decodings, its ``stragglers`` and
    ``condition`` are of the pattern that is the worst in each layer by itself.

    Attributes:
        outer: the code of the n edge nodes, B (n, K).
        inner: for each edge node the code of its m_i workers, W_i (m_i, n_i); its partitions are positions in P_i.
        held: for each edge node P_i, (n_i,) the partitions in the order of those positions; not sorted.
        workers_per_edge: m_i.
        edge_stragglers: s_e.
        worker_stragglers: s_w.
    """

    def __init__(
        self, outer: GradientCode, inner: Sequence[GradientCode], held: Sequence[Indices], worker_stragglers: int
    ) -> None:
        self.outer = outer
        self.inner = tuple(inner)
        self.held = tuple(held)
        self.workers_per_edge = tuple(code.workers for code in inner)
        self.edge_stragglers, self.worker_stragglers = outer.tolerance, worker_stragglers
        self._starts = np.cumsum((0, *self.workers_per_edge))
        self._edge_of = np.repeat(np.arange(len(inner)), self.workers_per_edge).tolist()
        matrix, sizes = self._flattened()
        tolerance = (outer.tolerance + 1) * (worker_stragglers + 1) - 1
        super().__init__(matrix, sizes, tolerance, outer.dtype)
        for array in self.held:
            array.flags.writeable = False

    def flat(self) -> Array:
        """The equivalent encoding over all workers, (N, K): worker (i, j) has W_i[j, l] B[i, P_i[l]] at P_i[l]."""
        return self.encoding

    def tradeoff(self) -> Tradeoff:
        """The bound on the load, the load, and what a code without edge nodes would need."""
        n, s_e, s_w = len(self.inner), self.edge_stragglers, self.worker_stragglers
        s = sum(sorted(self.workers_per_edge)[n - s_e :]) + s_w * (n - s_e)
        bound = (s_e + 1) * (s_w + 1) / self.workers
        return Tradeoff(bound, self.load / self.partitions, (s + 1) / self.workers, s)

    @cached_property
    def layered_error(self) -> float:
        """Bound of the relative error within the tolerated patterns when edge nodes add up, and then the master.

        A message has at most D terms, an edge node adds up m_i and the master n of them, and each of the two rounds its
        weights: D + max m_i + n + 4 roundings where the bound of `stability` has w + r + 2.
        """
        return self._bounded(self.load + max(self.workers_per_edge) + len(self.inner) + 2)

    def _flattened(self) -> tuple[Array, Indices]:
        """One column per run of partitions that no worker tells apart, and the lengths of the runs."""
        partitions = self.outer.partitions
        starts = [int(held[0]) for held in self.held]
        changes = [np.array([0, partitions])]
        for start, code in zip(starts, self.inner, strict=True):
            changes.append((start + np.append(0, np.cumsum(code._sizes))) % partitions)
        cuts = np.unique(np.concatenate(changes))
        first = cuts[:-1]
        rows = []
        for i, (start, code) in enumerate(zip(starts, self.inner, strict=True)):
            position = (first - start) % partitions
            holds = position < code.partitions
            row = np.zeros((code.workers, len(first)), dtype=np.result_type(self.outer.encoding, code.encoding))
            row[:, holds] = code.encoding[:, position[holds]] * self.outer.encoding[i, first[holds]]
            rows.append(row)
        return np.concatenate(rows), np.diff(cuts)

    def _members(self, alive: Sequence[int] | frozenset[int]) -> list[list[int]]:
        """The survivors under each edge node, by their numbers there."""
        members: list[list[int]] = [[] for _ in self.inner]
        for worker in alive:
            edge = self._edge_of[worker]
            members[edge].append(worker - int(self._starts[edge]))
        return members

    def _served(self, members: list[list[int]]) -> list[int]:
        return [i for i, own in enumerate(members) if self.inner[i].decodable(own)]

    def _solve(self, alive: Indices) -> Array | None:
        members = self._members(alive.tolist())
        served = self._served(members)
        if not self.outer.decodable(served):
            return None
        weights = np.zeros(self.workers, dtype=self._matrix.dtype)
        outer = self.outer.decode(served).weights
        for edge in np.flatnonzero(outer):
            inner = self.inner[edge].decode(members[edge]).weights
            weights[self._starts[edge] : self._starts[edge + 1]] = outer[edge] * inner
        return weights

    def _beyond(self, alive: frozenset[int]) -> bool:
        return self.outer.decodable(self._served(self._members(alive)))

    def _worst(self) -> Worst:
        distinct = {id(code): code for code in (self.outer, *self.inner)}.values()
        return Worst(
            error=self._bounded(self.load + self.workers),
            condition=self._harshest.condition,
            stragglers=self._lost,
            patterns=sum(code.worst.patterns for code in distinct),
            exhaustive=all(code.worst.exhaustive for code in distinct),
        )

    @cached_property
    def _lost(self) -> tuple[int, ...]:
        """All workers of the worst edge nodes, and the worst of every other."""
        edges = set(self.outer.worst.stragglers)
        lost: list[int] = []
        for i, code in enumerate(self.inner):
            own = range(code.workers) if i in edges else code.worst.stragglers
            lost += [int(self._starts[i]) + j for j in own]
        return tuple(lost)

    @cached_property
    def _harshest(self) -> Decoding:
        """Decoded by layers alone: where that is not exact, the bound shall say so."""
        weights = self._solve(np.setdiff1d(np.arange(self.workers), self._lost))
        assert weights is not None
        return self._judge(weights)

    def _bounded(self, terms: int) -> float:
        """The bound of `stability` for so many terms, with the two layers' worst amplifications multiplied."""
        gain = _peak(self.outer) * max(_peak(code) for code in {id(code): code for code in self.inner}.values())
        extra = 12 if np.iscomplexobj(self._matrix) else 2
        units = (self._roundoff, stability.ROUNDOFF["float64"])
        rounding, evaluation = (m / (1 - m) if (m := (terms + extra) * unit) < 1 else float("inf") for unit in units)
        return float(rounding * gain + evaluation * (gain + 1) + self._harshest.residual)


def _peak(code: GradientCode) -> float:
    """The largest amplification of a partition in the worst decoding of a layer."""
    weights = code.decode(set(range(code.workers)).difference(code.worst.stragglers)).weights
    return float((np.abs(weights) @ code._magnitude).max())


@register(
    summary="for workers under edge nodes: a code among the edge nodes, and one among the workers of each",
    exact=True,
    tolerance="s_e edge nodes with all their workers and s_w workers of every other; any (s_e+1)(s_w+1) − 1 workers",
    load="K(s_e+1)(s_w+1)/N",
    needs="edge nodes of similar size, none with more than N/(s_e+1) workers; whole loads, as K = N has",
    choose="when workers answer through edge nodes, which then send one vector each",
)
def hierarchical(
    workers_per_edge: Sequence[SupportsIndex],
    edge_stragglers: SupportsIndex,
    worker_stragglers: SupportsIndex,
    partitions: SupportsIndex | None = None,
    *,
    variant: str = "auto",
    nodes: str = "cosine",
    capped: bool = False,
    draws: SupportsIndex = 8,
    rng: checks.Seed = 0,
    dtype: str = "float32",
    max_error: float | None = None,
) -> HierarchicalCode:
    """The two-layer code of Tang, Li, Chen and Chen 2024 (hierarchical.md 3, RECONSTRUCTED there).

    The edge nodes take K(s_e+1) partitions, in proportion to their workers, one after another around the circle; in
    each of them the workers take s_w + 1 times what it has in the same way, all D = K(s_e+1)(s_w+1)/M partitions. No
    code for these stragglers has a smaller D. ``variant`` says how the coefficients of a layer are found:

    - "repetition": 1, where the layer's nodes make whole laps around its partitions, as they do where s + 1 divides the
      number of equal nodes, and with s = 0.
    - "lagrange": the closed form, `layers.LagrangeCode`.
    - "random": Gaussian, the best of ``draws`` (in the spirit of random gradient codes, RECONSTRUCTED).
    - "column": small integers, `columns.StaircaseCode` (ours); more stable than both.
    - "auto": repetition where possible, in the other layers the first of "lagrange", "random", "column" whose bound
      holds.

    Args:
        workers_per_edge: (n,) m_i; N = M is their sum.
        edge_stragglers: s_e < n (F1), and (s_e+1) max m_i ≤ M (F2): no edge node needs more than all partitions.
        worker_stragglers: s_w < min m_i (F1).
        partitions: K, such that K(s_e+1)m_i/M and D are integers (F3); M by default, for which they are.
        variant: see above.
        nodes: of the closed form: "cosine", "integers" (for checks by hand) or "unity" (complex; with
            variant="lagrange" only), see `layers.points`.
        capped: where F2 or F3 fails, take the smallest integer D that is possible (hierarchical.md 2.1, RECONSTRUCTED):
            edge nodes hold no more than all partitions, loads may differ, and K ≥ M is all that is asked of K.
        draws: how many random codes are compared, for each layer.
        rng: generator or seed of the draws.
        dtype: of the messages.
        max_error: the largest accepted `HierarchicalCode.layered_error`: 1e-5 for float32 and 1e-10 for float64 by
            default; ``float("inf")`` accepts every size.

    Raises:
        ValueError: an argument is out of range; F1, F2 or F3 fails: names the nearest choice that is feasible; a layer
            makes no whole laps (variant="repetition"); or the error bound passes ``max_error``.

    >>> code = hierarchical([2, 2, 2], edge_stragglers=1, worker_stragglers=1, partitions=3)
    >>> code.load, code.tolerance, code.decode([0, 3]).exact
    (2, 3, True)
    """
    m, loads = edge_loads(workers_per_edge, edge_stragglers, worker_stragglers, partitions, capped)
    s_e, s_w = operator.index(edge_stragglers), operator.index(worker_stragglers)
    checks.choice("variant", variant, VARIANTS)
    checks.choice("nodes", nodes, NODES)
    checks.choice("dtype", dtype, tuple(stability.ROUNDOFF))
    if nodes == "unity" and variant != "lagrange":
        raise ValueError("nodes='unity' must go with variant='lagrange': all layers are complex, or none")
    count = checks.integer("draws", draws, 1)
    total = int(loads.sum()) // (s_e + 1)
    shares = [np.diff(checks.even_cuts(own * (s_w + 1), size)) for own, size in zip(loads, m, strict=True)]
    plan = _Plan(
        outer=Laps(loads, total),
        inner=[Laps(share, own) for share, own in zip(shares, loads.tolist(), strict=True)],
        nodes=nodes,
        seeds=checks.generator(rng).integers(2**63, size=count),
        max_error=max_error,
    )
    if variant == "repetition":
        plan.require_whole_laps()
    code, holds = plan.code(variant, dtype)
    if not holds:
        raise ValueError(
            f"edge_stragglers={s_e} and worker_stragglers={s_w} must be others with variant={variant!r} and "
            f"dtype={dtype!r}: the error bound reaches {code.layered_error:.1e} of Σ‖g_j‖ (amplification "
            f"{code.worst.condition:.1e}) and must be at most max_error={plan.limit(dtype):.1e}. "
            f"{plan.alternatives(variant, dtype, m, s_w)}"
        )
    return code


@dataclass(frozen=True)
class _Plan:
    """Who holds what; the coefficients are put on it by variant."""

    outer: Laps
    inner: list[Laps]
    nodes: str
    seeds: Indices
    max_error: float | None

    def limit(self, dtype: str) -> float:
        return stability.limit(self.max_error, dtype, self.outer.partitions)

    def code(self, variant: str, dtype: str) -> tuple[HierarchicalCode, bool]:
        """The code of that variant, and whether its bound holds; of "auto" the first for which it does, or the last."""
        bound = self.limit(dtype)
        for kind in AUTOMATIC if variant == "auto" else (variant,):
            code = self._built(kind, dtype, repeat=variant in ("auto", "repetition"))
            if code.layered_error <= bound:
                return code, True
        return code, False

    def _built(self, kind: str, dtype: str, repeat: bool) -> HierarchicalCode:
        def layer(laps: Laps) -> GradientCode:
            code = coefficients(laps)
            code.parameters = {"workers": code.workers, "stragglers": code.tolerance, "partitions": code.partitions}
            return code

        def coefficients(laps: Laps) -> GradientCode:
            if repeat and laps.whole:
                return laps.repetition(dtype)
            if kind == "lagrange":
                return laps.lagrange(dtype, self.nodes)
            return laps.random(dtype, self.seeds) if kind == "random" else laps.column(dtype)

        # Edge nodes alike share a code.
        shapes = [(laps.partitions, len(laps.held)) for laps in self.inner]
        codes = {shape: layer(laps) for shape, laps in dict(zip(shapes, self.inner, strict=True)).items()}
        held = consecutive([laps.partitions for laps in self.inner], self.outer.partitions)
        return HierarchicalCode(layer(self.outer), [codes[shape] for shape in shapes], held, self.inner[0].stragglers)

    def require_whole_laps(self) -> None:
        """ValueError that names a layer in which coefficients of 1 are not enough."""
        layers = [("edge nodes", self.outer)]
        layers += [(f"workers of edge node {i}", laps) for i, laps in enumerate(self.inner)]
        for nodes, laps in layers:
            if not laps.whole:
                raise ValueError(
                    f"variant='repetition' is not possible: the {len(laps.held)} {nodes} must fall into "
                    f"{laps.stragglers + 1} groups of neighbours, each of which holds every partition once; "
                    f"variant='auto' finds other coefficients for this layer"
                )

    def alternatives(self, variant: str, dtype: str, m: tuple[int, ...], s_w: int) -> str:
        """What holds instead."""
        others = [("auto", dtype, "variant='auto'"), (variant, "float64", "dtype='float64'")]
        ways = [f"{words} holds" for other, kind, words in others if self.code(other, kind)[1]]
        if pair := nearest_repetition(m, self.outer.stragglers, s_w, self.outer.partitions):
            ways.append(f"edge_stragglers={pair[0]}, worker_stragglers={pair[1]} holds with plain sums")
        return "; ".join(ways) or "max_error=float('inf') accepts it"
