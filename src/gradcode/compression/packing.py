"""Whole numbers in as few bits as they need."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gradcode.compression.vectors import Bytes

Indices = npt.NDArray[np.int64]


def width(count: int) -> int:
    """⌈log₂ count⌉: the bits that tell ``count`` ≥ 1 things apart."""
    return max(0, count - 1).bit_length()


def size(count: int, width: int) -> int:
    """Bytes of so many numbers of ``width`` bits."""
    return -(-count * width // 8)


def pack(numbers: Indices, width: int, out: Bytes) -> None:
    """Writes ``numbers``, each below 2^width, into the first bytes of ``out``, lowest bits first."""
    from gradcode.compression import kernels

    kernels.pack(numbers, width, out)


def unpack(packed: Bytes, width: int, count: int) -> Indices:
    """(count,) what :func:`pack` wrote."""
    from gradcode.compression import kernels

    numbers = np.empty(count, dtype=np.int64)
    kernels.unpack(packed, width, numbers)
    return numbers
