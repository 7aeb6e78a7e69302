"""Vectors of PyTorch as arrays that a kernel reads, and whether they are finite."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gradcode.errors import NonFiniteLoss

if TYPE_CHECKING:
    from torch import Tensor

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]

PIECE = 1 << 15  # coordinates; with what is made of them they stay in a core's cache
BITS = 32  # kernels take so many signs at a time: what begins at a multiple begins on a byte


def arrays(vector: Tensor, multiple: int = BITS) -> Iterator[tuple[int, Array]]:
    """(begin, array) of the pieces of ``vector``, each beginning at a multiple of ``multiple``.

    float32 and float64 are one piece, without a copy; float16 and bfloat16 are converted to float32 piece by piece.
    """
    vector = vector.detach().contiguous()
    if vector.itemsize >= 4:
        yield 0, vector.numpy()
        return
    step = multiple * max(1, PIECE // multiple)
    for begin in range(0, vector.shape[0], step):
        yield begin, vector[begin : begin + step].float().numpy()


def wide(vector: Tensor) -> Array:
    """All of ``vector`` at once: the array itself, or a copy in float32 of a half."""
    vector = vector.detach()
    return (vector if vector.itemsize >= 4 else vector.float()).numpy()


def largest(vector: Tensor) -> float:
    """max |x|, 0 of no coordinates.

    Raises:
        NonFiniteLoss: it is infinite, NaN or beyond the range of float32.
    """
    from gradcode.compression import kernels

    # Patterns of bits without the sign are in the order of the magnitudes, with NaN above all.
    found = 0.0
    for _, array in arrays(vector):
        integers = array.view(np.int32 if array.itemsize == 4 else np.int64)
        own = np.array([kernels.largest(integers)], dtype=integers.dtype).view(array.dtype)
        found = max(found, finite(float(own[0])))
    return found


def norm(vector: Tensor) -> float:
    """‖x‖₂, added up in float64."""
    from gradcode.compression import kernels

    return math.sqrt(sum(kernels.sum_of_squares(array) for _, array in arrays(vector)))


def finite(value: float) -> float:
    """``value``, a magnitude of a vector; NonFiniteLoss if it is NaN, or no number that float32 has."""
    if not abs(value) <= np.finfo(np.float32).max:
        raise NonFiniteLoss(
            f"the gradient is not finite, or beyond the range of float32 (its magnitude is {value}), and cannot be "
            f"compressed. Look at the learning rate, the loss and the data"
        )
    return value


def floats(payload: Tensor) -> npt.NDArray[np.float32]:
    """The float32 numbers that ``payload`` is the bytes of; copied, since they may begin anywhere in memory."""
    return payload.numpy().copy().view(np.float32)


def write(array: Array, out: Tensor) -> None:
    """``array`` as bytes into ``out``, uint8 and as long."""
    out.numpy()[:] = array.view(np.uint8)
