"""Weighted sums of rows at memory speed.

Replies land in rows of one array; the gradient is a sum of some of them. Straggler rows may hold anything, NaN
included, so they are never read, not even with weight zero, and the rows that are needed are never gathered into a
copy. The sum is done in pieces of the coordinates that fit into a core's cache: there the result is added to without
going back to memory, so that memory is read once per needed row and written once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

PIECE = 1 << 17  # coordinates; 512 KiB of float32, half of a usual second-level cache


def weighted_sum(rows: Tensor, weights: npt.NDArray[np.float64], out: Tensor) -> None:
    """Writes ``Σ_i weights[i]·rows[i]`` over the rows of nonzero weight into ``out``.

    Args:
        rows: (R, width), width at least the length of ``out``.
        weights: (R,), zero for every row that must not be read.
        out: (length,).
    """
    length = out.shape[0]
    runs = _runs(weights)
    if not runs:
        out.zero_()
        return
    if rows.dtype != out.dtype:
        _mixed_sum(rows, weights, out)
        return
    parts = [(rows[start:stop, :length].t(), out.new_tensor(weights[start:stop])) for start, stop in runs]
    for begin in range(0, length, PIECE):
        piece = out[begin : begin + PIECE]
        for number, (matrix, vector) in enumerate(parts):
            piece.addmv_(matrix[begin : begin + PIECE], vector, beta=1 if number else 0)


def packed_sum(rows: Tensor, weights: npt.NDArray[np.complex128], out: Tensor) -> None:
    """The same for packed rows (see ``Layout.packed``): ``out`` is the unpacked sum of complex rows.

    With a row (x, y) standing for x + iy, weight a + ib gives (ax − by, bx + ay).
    """
    length = out.shape[0]
    half = (length + 1) // 2
    first, second = out[:half], out[half:]
    rest = length - half
    real, imaginary = np.ascontiguousarray(weights.real), np.ascontiguousarray(weights.imag)
    product = out.new_empty(half)
    weighted_sum(rows[:, :half], real, first)
    weighted_sum(rows[:, half : 2 * half], imaginary, product)
    first.sub_(product)
    weighted_sum(rows[:, half : half + rest], real, second)
    weighted_sum(rows[:, :rest], imaginary, product[:rest])
    second.add_(product[:rest])


def _mixed_sum(rows: Tensor, weights: npt.NDArray[np.float64], out: Tensor) -> None:
    """Rows of fewer bits than the result (bfloat16 replies): added up in the result's precision."""
    length = out.shape[0]
    for begin in range(0, length, PIECE):
        piece = out[begin : begin + PIECE].zero_()
        for index in np.flatnonzero(weights):
            piece.add_(rows[index, begin : min(begin + PIECE, length)], alpha=float(weights[index]))


def _runs(weights: npt.NDArray[np.float64]) -> list[tuple[int, int]]:
    """Maximal ranges of adjacent rows with nonzero weight."""
    nonzero = np.concatenate(([False], weights != 0, [False]))
    edges = np.flatnonzero(nonzero[1:] != nonzero[:-1])
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
