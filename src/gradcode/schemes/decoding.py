"""Weighted sums of rows at memory speed.

Replies land in rows of one array; the gradient is a sum of some of them. Straggler rows may hold anything, NaN
included, so they are never read, not even with weight zero, and the rows that are needed are never gathered into a
copy.

A long sum of a few rows is the product of a sparse matrix, the weights, with the rows. That is the one kernel of
PyTorch that reads scattered rows side by side, keeps the sum in registers and writes it once. A matrix of one row would
be left to one thread, so every row is seen as shares of equal length, each with a row of its own in the sparse matrix:

    row i, share p  ->  table row i·shares + p          output row p = Σ_i weights[i] · table row (i·shares + p)

Short sums are left to the calling thread, since the others may have to wait for a core that a worker is busy on, which
takes longer than the sum; and many rows are too many to be read side by side. Both are added up run by run of adjacent
rows, in pieces of the coordinates that stay in a core's cache, so that memory is read once per row and written once.
"""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

SHARE = 1 << 20  # coordinates at least; a sum is long if there are two shares
MOST_SHARES = 64
MOST_ROWS = 16  # that a processor fetches ahead of their use, side by side
PIECE = 1 << 18  # coordinates; 1 MiB of float32, a usual second-level cache


def weighted_sum(rows: Tensor, weights: npt.NDArray[np.float64], out: Tensor, add: bool = False) -> None:
    """Writes ``Σ_i weights[i]·rows[i]`` over the rows of nonzero weight into ``out``.

    Args:
        rows: (R, width), width at least the length of ``out``. All threads take part where the distance of two rows
            in memory can be cut into equal shares for them, as every multiple of 16 can.
        weights: (R,), zero for every row that must not be read.
        out: (length,), contiguous.
        add: adds the sum to what ``out`` holds.
    """
    chosen = np.flatnonzero(weights)
    if not len(chosen):
        if not add:
            out.zero_()
    elif rows.dtype != out.dtype:
        _mixed_sum(rows, weights, out, add)
    elif out.shape[0] >= 2 * SHARE and len(chosen) <= MOST_ROWS and rows.itemsize >= 4 and _sparse_products():
        _sparse_sum(rows, chosen, weights[chosen], out, add)
    else:
        _piecewise_sum(rows, weights, out, add)


def packed_sum(rows: Tensor, weights: npt.NDArray[np.complex128], out: Tensor, half: int | None = None) -> None:
    """The same for packed rows (see ``Layout.packed``): ``out`` is the unpacked sum of complex rows.

    With a row (x, y) standing for x + iy, weight a + ib gives (ax − by, bx + ay).

    Args:
        half: the length of x; None: that of half of ``out``, rounded up.
    """
    half = (out.shape[0] + 1) // 2 if half is None else half
    first, second = out[:half], out[half:]
    weighted_sum(rows[:, : first.shape[0]], weights.real, first)
    weighted_sum(rows[:, half : half + first.shape[0]], -weights.imag, first, add=True)
    if second.shape[0]:
        weighted_sum(rows[:, half : half + second.shape[0]], weights.real, second)
        weighted_sum(rows[:, : second.shape[0]], weights.imag, second, add=True)


def folded_sum(rows: Tensor, weights: npt.NDArray[Any], out: Tensor, width: int, packed: bool = False) -> None:
    """The same for folded rows (see ``Layout.fold``): part v of ``out`` is the sum with the weights of column v.

    Args:
        rows: (R, width).
        weights: (R, m), rows of zeros for what must not be read.
        out: (length,), of parts of ``width`` coordinates each, the last ones shorter or empty.
        width: coordinates of a part.
        packed: whether rows and parts are complex.
    """
    for part, own in enumerate(weights.T):
        target = out[part * width : (part + 1) * width]
        if not target.shape[0]:
            break
        if packed:
            packed_sum(rows, own.astype(np.complex128), target, width // 2)
        else:
            weighted_sum(rows[:, : target.shape[0]], own, target)


def squared_norm(first: Tensor, second: Tensor | None = None) -> float:
    """‖first − second‖², or ‖first‖², added up in float64, without a copy of their length."""
    import torch

    total = 0.0
    for begin in range(0, first.shape[0], PIECE):
        piece = _single(first[begin : begin + PIECE])
        piece = piece if second is None else piece - _single(second[begin : begin + PIECE])
        total += float(piece.square().sum(dtype=torch.float64))
    return total


def unit_of(*tensors: Tensor) -> float:
    """The unit roundoff of the coarsest of them."""
    import torch

    return float(max(torch.finfo(own.dtype).eps for own in tensors)) / 2


def _single(values: Tensor) -> Tensor:
    """In float32 at least: squares of float16 leave its range."""
    return values if values.itemsize >= 4 else values.float()


def _sparse_sum(
    rows: Tensor, chosen: npt.NDArray[np.intp], weights: npt.NDArray[np.float64], out: Tensor, add: bool
) -> None:
    import torch

    length, stride = out.shape[0], max(rows.stride(0), rows.shape[1])
    shares, terms = _shares(stride), len(chosen)
    share = stride // shares
    whole = length // share
    # Rows may be longer than the sum, which then ends within a share: the rest is a product of its own.
    for begin, count, width in ((0, whole, share), (whole * share, 1, length - whole * share)):
        if not count or not width:
            continue
        columns = chosen * shares + np.arange(count)[:, None]
        matrix = torch.sparse_csr_tensor(
            torch.arange(0, count * terms + 1, terms),
            torch.from_numpy(columns.ravel()),
            torch.from_numpy(np.tile(weights, count)).to(out.dtype),
            size=(count, (len(rows) - 1) * shares + count),
        )
        table = rows[:, begin:].as_strided((matrix.shape[1], width), (share, 1))
        target = out[begin : begin + count * width].view(count, width)
        torch.addmm(target, matrix, table, beta=int(add), out=target)


def _piecewise_sum(rows: Tensor, weights: npt.NDArray[np.float64], out: Tensor, add: bool) -> None:
    """A matrix-vector product per run of adjacent rows and piece."""
    length = out.shape[0]
    parts = [(rows[start:stop, :length].t(), out.new_tensor(weights[start:stop])) for start, stop in _runs(weights)]
    for begin in range(0, length, PIECE):
        piece = out[begin : begin + PIECE]
        for number, (matrix, vector) in enumerate(parts):
            piece.addmv_(matrix[begin : begin + PIECE], vector, beta=1 if number or add else 0)


def _mixed_sum(rows: Tensor, weights: npt.NDArray[np.float64], out: Tensor, add: bool) -> None:
    """Rows of fewer bits than the result (bfloat16 replies): added up in the result's precision."""
    length = out.shape[0]
    for begin in range(0, length, PIECE):
        piece = out[begin : begin + PIECE]
        if not add:
            piece.zero_()
        for index in np.flatnonzero(weights):
            piece.add_(rows[index, begin : min(begin + PIECE, length)], alpha=float(weights[index]))


def _runs(weights: npt.NDArray[np.float64]) -> list[tuple[int, int]]:
    """Maximal ranges of adjacent rows with nonzero weight."""
    nonzero = np.concatenate(([False], weights != 0, [False]))
    edges = np.flatnonzero(nonzero[1:] != nonzero[:-1])
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


@lru_cache(maxsize=64)
def _shares(stride: int) -> int:
    """Into how many shares of equal length a row is cut: the largest divisor within the bounds above."""
    most = min(MOST_SHARES, stride // SHARE)
    return next((number for number in range(most, 1, -1) if stride % number == 0), 1)


@lru_cache(maxsize=1)
def _sparse_products() -> bool:
    """Whether this PyTorch multiplies sparse with dense matrices at speed: it leaves that to MKL."""
    import torch

    if not torch.backends.mkl.is_available():  # type: ignore[no-untyped-call]
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the first such matrix in a process warns that its interface may change
        torch.sparse_csr_tensor(torch.tensor([0, 1]), torch.tensor([0]), torch.ones(1), size=(1, 1))
    return True
