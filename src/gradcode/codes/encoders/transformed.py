"""Encoders that are columns of a fast orthonormal transform: Hadamard and Haar."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import SupportsIndex

import numpy as np

from gradcode.codes import checks
from gradcode.codes.encoders.encoder import Encoder, Floats, Indices, encoded_rows
from gradcode.codes.encoders.registry import register
from gradcode.codes.encoders.transforms import haar as haar_signal
from gradcode.codes.encoders.transforms import haar_adjoint, walsh_hadamard

Transform = Callable[[Floats], Floats]


class Transformed(Encoder):
    """S = √β·T[order, columns] of an orthonormal transform T, (N, N): SᵀS = βI.

    Args:
        size: N, the number of rows.
        columns: (n,) distinct, of the transform.
        order: (N,) of the rows; None: as they are.
        transform: (N, c) -> (N, c), T times it; may write to its argument.
        adjoint: likewise Tᵀ, which may not.
    """

    def __init__(
        self, size: int, columns: Indices, order: Indices | None, transform: Transform, adjoint: Transform
    ) -> None:
        super().__init__(len(columns), size, order)
        columns.flags.writeable = False
        self.columns = columns
        self._transform, self._backwards = transform, adjoint

    def _encode(self, values: Floats) -> Floats:
        spread = np.zeros((self.rows, values.shape[1]))
        spread[self.columns] = values
        spread = self._transform(spread)
        spread *= math.sqrt(self.redundancy)
        return spread

    def _adjoint(self, values: Floats) -> Floats:
        return self._backwards(values)[self.columns] * math.sqrt(self.redundancy)


@register(
    summary="random columns of a Hadamard matrix, rows in random order",
    redundancy="N/n, N a power of two",
    cost="N log N additions",
    choose="by default: the best spectrum of those that are fast, at any size",
)
def hadamard(
    samples: SupportsIndex, redundancy: float = 2.0, *, shuffle: bool = True, rng: checks.Seed = 0
) -> Transformed:
    """n columns of Sylvester's H_N divided by √n: entries ±1/√n (encoded_optimization.md 2).

    Args:
        samples: n.
        redundancy: β ≥ 1; N is the next power of two above βn, so that what there is may be up to twice as much.
        shuffle: draw the columns and the order of the rows. Without it they are the first columns in natural order,
            which with N = 2n is replication and does not survive two stragglers: for checks by hand.
        rng: generator or seed of both.

    Raises:
        ValueError: ``samples`` or ``redundancy`` is below 1.

    >>> hadamard(samples=2, shuffle=False).matrix.round(3).tolist()
    [[0.707, 0.707], [0.707, -0.707], [0.707, 0.707], [0.707, -0.707]]
    """
    size, columns, order = _drawn(samples, redundancy, shuffle, rng)
    return Transformed(size, columns, order, _hadamard, _hadamard_adjoint)


@register(
    summary="random Haar wavelets, rows in random order",
    redundancy="N/n, N a power of two",
    cost="2N additions",
    choose="when encoding must be quick and stragglers are random: some sets of them lose a sample",
)
def haar(samples: SupportsIndex, redundancy: float = 2.0, *, shuffle: bool = True, rng: checks.Seed = 0) -> Transformed:
    """n columns of the orthonormal Haar matrix of N wavelets, times √β (encoded_optimization.md 2).

    About half of the columns have two non-zeros. Stragglers that hold both lose the sample: good on average, not in
    the worst case.

    Args:
        samples: n.
        redundancy: β ≥ 1; N is the next power of two above βn.
        shuffle: draw the columns and the order of the rows; else the coarsest wavelets in natural order.
        rng: generator or seed of both.

    Raises:
        ValueError: ``samples`` or ``redundancy`` is below 1.

    >>> haar(samples=2, redundancy=2, shuffle=False).matrix.round(3).tolist()
    [[0.707, 0.707], [0.707, 0.707], [0.707, -0.707], [0.707, -0.707]]
    """
    size, columns, order = _drawn(samples, redundancy, shuffle, rng)
    return Transformed(size, columns, order, haar_signal, haar_adjoint)


def _drawn(
    samples: SupportsIndex, redundancy: float, shuffle: bool, rng: checks.Seed
) -> tuple[int, Indices, Indices | None]:
    """The size N, the columns and the order of the rows."""
    n = checks.integer("samples", samples, 1)
    size = 1 << (encoded_rows(n, redundancy) - 1).bit_length()
    if not shuffle:
        return size, np.arange(n), None
    random = checks.generator(rng)
    return size, random.permutation(size)[:n], random.permutation(size)


def _hadamard(values: Floats) -> Floats:
    walsh_hadamard(values, len(values))
    values /= math.sqrt(len(values))
    return values


def _hadamard_adjoint(values: Floats) -> Floats:
    return _hadamard(values.copy())
