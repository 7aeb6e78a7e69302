"""Equiangular tight frames: any two rows have the same inner product but for its sign, as small as can be.

N vectors in n dimensions cannot all have inner products below the Welch bound sqrt((N − n)/(n(N − 1))); these attain
it, at the sizes for which they exist. With fewer samples than a frame has columns only tightness is left of that.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import SupportsIndex

import numpy as np

from gradcode.codes import checks
from gradcode.codes.encoders.encoder import Encoder, Floats, Indices
from gradcode.codes.encoders.registry import register
from gradcode.codes.encoders.transforms import walsh_hadamard

PALEY_ROWS = 4096  # whose eigenvectors take some ten seconds and half a gigabyte


class Paley(Encoder):
    """√β times an orthonormal basis of the eigenspace of I + C/√q for its eigenvalue 2, C the conference matrix of q.

    Args:
        samples: n ≤ (q + 1)/2.
        prime: q ≡ 1 modulo 4.
        order: (q + 1,) of the rows; None: as they are.
    """

    def __init__(self, samples: int, prime: int, order: Indices | None) -> None:
        super().__init__(samples, prime + 1, order)
        self.prime = prime

    def _encode(self, values: Floats) -> Floats:
        encoded: Floats = self._basis @ values
        return encoded

    def _adjoint(self, values: Floats) -> Floats:
        decoded: Floats = self._basis.T @ values
        return decoded

    @cached_property
    def _basis(self) -> Floats:
        """(q + 1, n), orthogonal columns of norm √β."""
        _, vectors = np.linalg.eigh(conference_matrix(self.prime))  # eigenvalues −√q and √q, half of them each
        basis: Floats = vectors[:, len(vectors) // 2 :][:, : self.samples] * math.sqrt(self.redundancy)
        return basis


class Steiner(Encoder):
    """Columns are pairs {i, j} of v points; block i of the rows has H_v's columns 1, …, v − 1 for the pairs with i.

    Which of them stands for which pair is immaterial. With n below v(v − 1)/2 the last pairs are left out and the rest
    is scaled to SᵀS = βI.

    Args:
        samples: n ≤ v(v − 1)/2.
        points: v, a power of two.
        order: (v²,) of the rows; None: as they are.
    """

    def __init__(self, samples: int, points: int, order: Indices | None) -> None:
        super().__init__(samples, points**2, order)
        self.points = points
        first, second = (own[:samples] for own in np.triu_indices(points, 1))
        # In block i the pair {i, j} has column j + 1 or j, whichever side of i it lies on.
        self._places = first * points + second, second * points + first + 1
        self._scale = math.sqrt(self.redundancy / (2 * points))

    def _encode(self, values: Floats) -> Floats:
        spread = np.zeros((self.rows, values.shape[1]))
        for places in self._places:
            spread[places] = values
        walsh_hadamard(spread, self.points)
        spread *= self._scale
        return spread

    def _adjoint(self, values: Floats) -> Floats:
        spread = values.copy()
        walsh_hadamard(spread, self.points)
        first, second = self._places
        decoded: Floats = (spread[first] + spread[second]) * self._scale
        return decoded


@register(
    summary="equiangular: an eigenspace of the Paley conference matrix",
    redundancy="2 at n = (q + 1)/2, q a prime ≡ 1 modulo 4; (q + 1)/n",
    cost="2n² multiplications, once eigenvectors are found",
    choose="for at most some thousand samples, to compare with",
)
def paley(samples: SupportsIndex, *, shuffle: bool = True, rng: checks.Seed = 0) -> Paley:
    """The equiangular tight frame of the smallest prime q ≡ 1 modulo 4 with (q + 1)/2 ≥ n (encoded_optimization.md 2).

    Rows have norm 1 and inner products ±1/√q at n = (q + 1)/2.

    Args:
        samples: n, at most 2048: eigenvectors of a dense matrix of twice the size are computed.
        shuffle: draw the order of the rows.
        rng: generator or seed of it.

    Raises:
        ValueError: ``samples`` is out of range.

    >>> paley(samples=7).matrix.shape
    (14, 7)
    """
    n = checks.integer("samples", samples, 1, PALEY_ROWS // 2, "more need too many eigenvectors; use hadamard")
    prime = max(5, 2 * n - 1)
    while prime % 4 != 1 or any(prime % factor == 0 for factor in range(2, math.isqrt(prime) + 1)):
        prime += 1
    return Paley(n, prime, checks.generator(rng).permutation(prime + 1) if shuffle else None)


@register(
    summary="equiangular and sparse: Hadamard blocks over all pairs of v points",
    redundancy="2v/(v − 1) at n = v(v − 1)/2, v a power of two; v²/n",
    cost="v² log v additions",
    choose="when n is a little below v(v − 1)/2: rows then are few, and encoding is quick",
)
def steiner(samples: SupportsIndex, *, shuffle: bool = True, rng: checks.Seed = 0) -> Steiner:
    """The Steiner equiangular tight frame of the smallest v with v(v − 1)/2 ≥ n (encoded_optimization.md 2).

    Rows have norm 1 and inner products ±1/(v − 1) at n = v(v − 1)/2.

    Args:
        samples: n.
        shuffle: draw the order of the rows. Without it a worker that has one whole block shares a sample with each
            other one, and two stragglers lose it.
        rng: generator or seed of the order.

    Raises:
        ValueError: ``samples`` is below 1.

    >>> steiner(samples=6).matrix.shape
    (16, 6)
    """
    n = checks.integer("samples", samples, 1)
    points = 2
    while points * (points - 1) // 2 < n:
        points *= 2
    return Steiner(n, points, checks.generator(rng).permutation(points**2) if shuffle else None)


def conference_matrix(prime: int) -> Floats:
    """C, (q + 1, q + 1), symmetric with CCᵀ = qI: a border of ones, and inside whether i − j is a square modulo q."""
    character = np.full(prime, -1.0)
    character[np.arange(1, prime) ** 2 % prime] = 1.0
    character[0] = 0.0
    index = np.arange(prime)
    matrix = np.ones((prime + 1, prime + 1))
    matrix[0, 0] = 0.0
    matrix[1:, 1:] = character[(index[:, None] - index) % prime]
    return matrix
