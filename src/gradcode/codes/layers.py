"""The primitive of the codes with unequal loads: nodes laid along laps around the partitions, coefficients on top."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gradcode.codes import checks
from gradcode.codes.affine import AffineCode
from gradcode.codes.code import Array, GradientCode, Indices
from gradcode.codes.columns import Floats, StaircaseCode, decoding_space, solve_columns
from gradcode.codes.repetition import IntervalCode
from gradcode.codes.stability import Worst, find_worst

NODES = ("cosine", "integers", "unity")


def consecutive(sizes: Sequence[int] | Indices, partitions: int) -> tuple[Indices, ...]:
    """The partitions of each node, in order along the circle (hierarchical.md 3.2).

    Node q takes the next sizes[q] partitions modulo K, from where node q − 1 stopped. With sizes of at most K that add
    up to (s+1)K, every partition is held by exactly s + 1 different nodes.

    >>> [held.tolist() for held in consecutive([2, 2, 2], 3)]
    [[0, 1], [2, 0], [1, 2]]
    """
    stops = np.cumsum(sizes)
    return tuple(
        np.arange(stop - size, stop, dtype=np.int64) % partitions for size, stop in zip(sizes, stops, strict=True)
    )


class Laps:
    """Workers laid one after another along s + 1 laps; partitions between two starts have the same holders.

    Its methods put coefficients on this allocation: each gives a code that decodes exactly whichever s of the N
    workers straggle.

    Args:
        loads: (N,) partitions per worker, each at most K; they add up to (s+1)K.
        partitions: K.
    """

    def __init__(self, loads: Indices, partitions: int) -> None:
        self.stops = np.cumsum(loads)
        self.starts = self.stops - loads
        self.partitions = partitions
        self.stragglers = int(self.stops[-1]) // partitions - 1
        cuts = np.unique(np.append(self.starts % partitions, [0, partitions]))
        self.sizes = np.diff(cuts)
        held: NDArray[np.bool_] = (cuts[:-1] - self.starts[:, None]) % partitions < loads[:, None]
        self.held = held

        self.laps = [
            (int(start // partitions), int((stop - 1) // partitions)) if stop > start else None
            for start, stop in zip(self.starts, self.stops, strict=True)
        ]

    @property
    def whole(self) -> bool:
        """Every lap begins with a worker, so that its workers cover the partitions once and coefficients may be 1."""
        return all(lap is None or lap[0] == lap[1] for lap in self.laps)

    def repetition(self, dtype: str) -> IntervalCode:
        """Plain sums; only where the laps are `whole`. s stragglers leave one of the s + 1 laps complete."""
        assert self.whole
        starts = self.starts % self.partitions
        return IntervalCode(np.column_stack([starts, starts + self.stops - self.starts]), self.stragglers, dtype)

    def lagrange(self, dtype: str, nodes: str) -> LagrangeCode:
        """Lagrange polynomials, in closed form."""
        return LagrangeCode(self.held, self.sizes, self.stragglers, dtype, points(nodes, len(self.held)))

    def column(self, dtype: str) -> StaircaseCode:
        """Small integers; ours."""
        return StaircaseCode(self.held, self.sizes, dtype, laps=self.laps, stragglers=self.stragglers)

    def random(self, dtype: str, seeds: Indices) -> AffineCode:
        """C B = 1 for a Gaussian C: of one draw per seed the one that amplifies least."""
        shape = (self.stragglers + 1, len(self.held))
        drafts = [self.balanced(np.random.default_rng(seed).standard_normal(shape)) for seed in seeds]
        best = min(drafts, key=lambda mixing: self.mixed(mixing, dtype, thorough=False).worst.error)
        return self.mixed(best, dtype, thorough=True)

    def mixed(self, mixing: Floats, dtype: str, *, thorough: bool) -> AffineCode:
        """The code with C B = 1 for the C given, (s+1, N)."""
        matrix = self._solved(mixing)
        offset, null = decoding_space(mixing)
        return AffineCode(
            matrix, self.sizes, self.stragglers, dtype, offset=offset, null=null, generic=False, thorough=thorough
        )

    def balanced(self, mixing: Floats) -> Floats:
        """C scaled so that the rows of B have norm 1 and C B is unchanged: messages become comparable."""
        norms = np.linalg.norm(self._solved(mixing) * np.sqrt(self.sizes), axis=1)
        scaled: Floats = mixing * np.where(norms > 0, norms, 1.0)
        return scaled

    def _solved(self, mixing: Floats) -> Floats:
        try:
            return solve_columns(mixing, self.held)
        except np.linalg.LinAlgError:
            raise ValueError("mixing must have independent columns for the holders of every partition") from None


def points(nodes: str, count: int) -> Array:
    """The x_q of a `LagrangeCode`, (count,): distinct and not 0 (hierarchical.md 3.1).

    "cosine": 2 + cos((2q − 1)π/(2r)). "integers": 1, …, r, for checks by hand. "unity": the complex roots of unity,
    which amplify less.
    """
    checks.choice("nodes", nodes, NODES)
    place = np.arange(1, count + 1)
    if nodes == "integers":
        return place.astype(np.float64)
    if nodes == "unity":
        roots: Array = np.exp(2j * np.pi * (place - 1) / count)
        return roots
    cosines: Array = 2 + np.cos((2 * place - 1) * np.pi / (2 * count))
    return cosines


class LagrangeCode(GradientCode):
    """A code in closed form: coefficients are Lagrange polynomials at 0 (hierarchical.md 3.1, RECONSTRUCTED there).

    Worker q has a point x_q. Partition k, held by the workers H_k, gets from q ∈ H_k the coefficient
    Π_{h∈H_k, h≠q} x_h / (x_h − x_q), the value at 0 of the polynomial of degree s that is 1 at x_q and 0 at the other
    points of H_k. With the stragglers R, worker q weighs f(x_q), f(x) = Π_{h∈R} (1 − x/x_h). As f has degree at most s,
    interpolation at H_k is exact, and the decoded coefficient of every partition is f(0) = 1.

    Args:
        held: (N, M), s + 1 workers per column; any allocation will do.
        sizes, dtype: as in `GradientCode`.
        stragglers: s.
        points: (N,) distinct and not 0.
    """

    def __init__(self, held: NDArray[np.bool_], sizes: Indices, stragglers: int, dtype: str, points: Array) -> None:
        workers, columns = held.shape
        holders = np.nonzero(held.T)[1].reshape(columns, stragglers + 1)
        x = points[holders]
        itself = np.eye(stragglers + 1, dtype=bool)
        distance = np.where(itself, 1, x[:, None, :] - x[:, :, None])  # x_h − x_q at (column, q, h)
        matrix = np.zeros((workers, columns), dtype=points.dtype)
        matrix[holders, np.arange(columns)[:, None]] = np.where(itself, 1, x[:, None, :] / distance).prod(axis=2)
        super().__init__(matrix, sizes, stragglers, dtype)
        self._points = points

    def _solve(self, alive: Indices) -> Array | None:
        stragglers = np.setdiff1d(np.arange(self.workers), alive)
        if len(stragglers) > self.tolerance:
            return None
        weights: Array = self._weights(stragglers[None])[0]
        return weights

    @cached_property
    def fewest(self) -> int:
        return self.workers - self.tolerance

    def _beyond(self, alive: frozenset[int]) -> bool:
        return False  # below N − s survivors only chance would help

    def _worst(self) -> Worst:
        return find_worst(self._weights, self._assess, self.workers, self.tolerance)

    def _weights(self, stragglers: NDArray[np.int64]) -> Array:
        """(P, N) decoding vectors that vanish on each row of ``stragglers``, (P, t) with t ≤ s."""
        lost = self._points[stragglers]
        weights: Array = (1 - self._points[None, :, None] / lost[:, None, :]).prod(axis=2)
        np.put_along_axis(weights, stragglers, 0, axis=1)
        return weights
