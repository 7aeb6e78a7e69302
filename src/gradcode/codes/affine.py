"""Codes whose decoding vectors form an affine space of dimension s: one small system per straggler set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradcode.codes.code import Array, GradientCode, Indices
from gradcode.codes.stability import Worst, find_worst

_AT_ONCE = 4_000_000  # numbers in the products of a search


class AffineCode(GradientCode):
    """A code with decoding vectors a = offset + yᵀ null, so that s stragglers cost one s × s system.

    Every code with the tolerance s and rank N − s is one: the vectors with aᵀB = 1ᵀ are one of them plus the
    left null space of B, and y makes a vanish on the stragglers (gradient_codes.md 2.3 and 2.4, RECONSTRUCTED
    there). With orthonormal rows of ``null`` orthogonal to ``offset``, the smallest y is the a of minimum
    norm, which is taken when fewer than s workers straggle.

    Where messages are folded (``matrix`` (N, M, m)), each of the m parts of the gradient has an offset of its own, and
    the null space is common to all.

    Args:
        matrix, sizes, tolerance, dtype: as in `GradientCode`.
        offset: (N,), the decoding vector of minimum norm; (N, m), one for each part.
        null: (s, N), orthonormal rows, orthogonal to ``offset``.
        generic: any s columns of ``null`` are independent; otherwise they may coincide, and the system is
            solved by singular values.
        circulant: every row of B is the one above, moved on by one; then the worst straggler set contains
            worker 0.
        order: row order[i] of the matrices above goes to worker i; None for as they are.
        closed: weights (N,) for s stragglers, where a formula is at hand.
        thorough: search long for the worst straggler set; False where many codes are drawn and compared.
    """

    def __init__(
        self,
        matrix: Array,
        sizes: Array,
        tolerance: int,
        dtype: str,
        *,
        offset: Array,
        null: Array,
        generic: bool,
        circulant: bool = False,
        order: Indices | None = None,
        closed: Callable[[Indices], Array] | None = None,
        thorough: bool = True,
    ) -> None:
        if order is not None:
            matrix, offset, null = matrix[order], offset[order], null[:, order]
        super().__init__(matrix, sizes, tolerance, dtype)
        self._offset, self._null = offset, null
        self._generic, self._circulant, self._closed, self._thorough = generic, circulant, closed, thorough
        self._workers_of_rows = np.arange(self.workers) if order is None else np.argsort(order)

    def _solve(self, alive: Indices) -> Array | None:
        stragglers = np.setdiff1d(np.arange(self.workers), alive)
        if len(stragglers) > self.tolerance:
            return None
        if self._closed is not None and len(stragglers) == self.tolerance:
            return self._closed(stragglers)
        weights: Array = self._weights(stragglers[None])[0]
        return weights

    @cached_property
    def fewest(self) -> int:
        return self.workers - self.tolerance

    def _beyond(self, alive: frozenset[int]) -> bool:
        return False  # B has rank N − s: below that many survivors only chance would help

    def _worst(self) -> Worst:
        # Searched among the rows as constructed: there the bad sets are contiguous, and the code may be circulant.
        worst = find_worst(
            lambda rows: self._weights(self._workers_of_rows[rows]),
            self._assess,
            self.workers,
            self.tolerance,
            circulant=self._circulant,
            thorough=self._thorough,
            batch=max(1, min(1000, _AT_ONCE // (self._matrix[0].size * self.reduction))),
        )
        stragglers = sorted(self._workers_of_rows[list(worst.stragglers)].tolist())
        return replace(worst, stragglers=tuple(stragglers))

    def _weights(self, stragglers: NDArray[np.int64]) -> NDArray[Any]:
        """(P, N) or (P, N, m) decoding vectors that vanish on each row of ``stragglers``, (P, t) with t ≤ s."""
        count = stragglers.shape[1]
        if count == 0:
            return np.repeat(self._offset[None], len(stragglers), axis=0)
        system = self._null.T[stragglers]  # (P, t, s)
        offset = self._offset.reshape(self.workers, -1)  # a column for each part
        wanted = -offset[stragglers]
        if self._generic and count == self.tolerance:
            try:
                y = np.linalg.solve(system, wanted)
            except np.linalg.LinAlgError:  # independent on paper, singular to working precision
                y = np.linalg.pinv(system) @ wanted
        else:
            y = np.linalg.pinv(system, rcond=1e-14 if self._generic else 1e-10) @ wanted
        added = y.transpose(0, 2, 1).reshape(-1, self.tolerance) @ self._null
        weights: Array = offset + added.reshape(len(stragglers), -1, self.workers).transpose(0, 2, 1)
        np.put_along_axis(weights, stragglers[..., None], 0, axis=1)
        return weights.reshape(len(stragglers), *self._offset.shape)


def from_matrix(matrix: Array, tolerance: int) -> tuple[Array, Array]:
    """Offset (N,) and null space (s, N) of an encoding (N, M) of rank N − s, by its singular vectors."""
    left, values, right = np.linalg.svd(matrix)
    rank = matrix.shape[0] - tolerance
    offset = left[:, :rank] @ ((right[:rank] @ np.ones(matrix.shape[1])) / values[:rank])
    return offset, left[:, rank:].T
