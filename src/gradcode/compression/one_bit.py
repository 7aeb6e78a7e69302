"""One bit per coordinate, drawn so that it is right on average."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from gradcode.compression import random, vectors
from gradcode.compression.compressor import FLOAT_BITS, Compressor, register
from gradcode.compression.sign import add_signs

if TYPE_CHECKING:
    from torch import Tensor

LOWEST = 1e-33  # a smaller range is sent as 0: 2^15 divided by it leaves float32


@register("one_bit")
@dataclass(frozen=True)
class OneBit(Compressor):
    """Sends a coin per coordinate, C(x)_j = ±r, +r with probability 1/2 + x_j/(2r), and the range r ≥ max_j |x_j|.

    Then E C(x) = x and E‖C(x) − x‖² = L·r² − ‖x‖² (one_bit.md 5, equations (2) and (3), RECONSTRUCTED). The ranges:

    - "linf": r = max_j |x_j|, the least variance.
    - "l2": r = ‖x‖₂, so that the variance is (L − 1)‖x‖².
    - "fixed": r = ``bound`` on both ends, and is not sent. Coordinates beyond it are clipped, which is a bias:
      :meth:`clipped` counts them, as do reports.

    A coordinate has 16 random bits of its own, and 8 that all of a message share: its mean is right to 2⁻²² r. x = 0 is
    sent as r = 0 and decoded to 0, as is what has r < 1e-33.

    A message is r as float32 unless it is fixed, then L bits, eight per byte.

    Args:
        range: "linf", "l2" or "fixed".
        bound: > 0, of a fixed range; None for the others.

    >>> OneBit().bits(1000, 4), OneBit("fixed", bound=0.1).bits(1000, 4)
    (1032, 1000)
    """

    range: Literal["linf", "l2", "fixed"] = "linf"
    bound: float | None = None

    def __post_init__(self) -> None:
        if self.range not in ("linf", "l2", "fixed"):
            raise ValueError(f"range={self.range!r} must be one of 'linf', 'l2', 'fixed'")
        if self.range != "fixed" and self.bound is not None:
            raise ValueError(f'bound={self.bound} is for range="fixed", where both ends know it; leave it out')
        if self.range == "fixed" and not (self.bound is not None and LOWEST <= self.bound < float("inf")):
            raise ValueError(f'bound={self.bound} must be above 0 for range="fixed": coordinates are clipped to it')

    @property
    def unbiased(self) -> bool:
        return not self.clips

    @property
    def clips(self) -> bool:
        return self.range == "fixed"

    def size(self, length: int, itemsize: int) -> int:
        return self._head + -(-length // 8)

    def bits(self, length: int, itemsize: int) -> float:
        return length + (FLOAT_BITS if self._head else 0)

    def error_factor(self, length: int) -> float | None:
        return 0.0 if length == 1 and self.unbiased else None

    def clipped(self, vector: Tensor) -> int:
        """How many coordinates of ``vector`` are beyond a fixed bound, and so clipped; 0 for the other ranges."""
        return 0 if self.bound is None else int((vector.abs() > self.bound).sum())

    def compress(self, vector: Tensor, out: Tensor, key: tuple[int, ...]) -> int:
        from gradcode.compression import kernels

        scale = self._range(vector)
        if self._head:
            vectors.write(np.array([scale]), out[: self._head])
        bits, start = out.numpy()[self._head :], random.stream(key)
        shared = ((random.mix(start) >> 56) + 0.5) / 256
        for begin, array in vectors.arrays(vector):
            per_unit = array.dtype.type(32768 / scale if scale else 0.0)
            # Coordinates have the same random numbers wherever the pieces are cut.
            number = np.uint32((start + begin // 2) % 2**32)
            kernels.coins(array, per_unit, array.dtype.type(shared), number, np.uint32(start >> 32), bits[begin // 8 :])
        return self.size(vector.shape[0], vector.itemsize)

    def add(self, payloads: Sequence[Tensor], weights: Sequence[float], out: Tensor) -> None:
        head = self._head
        if self.bound is None:
            scales = [vectors.floats(payload[:head]) for payload in payloads]
        else:
            scales = [np.array([_above(self.bound)])] * len(payloads)
        messages = [(own, payload.numpy()[head:]) for own, payload in zip(scales, payloads, strict=True)]
        add_signs(messages, weights, max(1, out.shape[0]), out)

    @property
    def _head(self) -> int:
        return 0 if self.range == "fixed" else 4

    def _range(self, vector: Tensor) -> np.float32:
        """r as it is sent: rounded up, so that no probability is above 1."""
        largest = vectors.largest(vector)  # also says whether the vector is finite
        value = largest
        if self.bound is not None:
            value = self.bound
        elif self.range == "l2":
            value = vectors.finite(vectors.norm(vector))
        return _above(value) if value >= LOWEST else np.float32(0)


def _above(value: float) -> np.float32:
    """The least float32 that is not below ``value``."""
    nearest = np.float32(value)
    return nearest if nearest >= value else np.nextafter(nearest, np.float32(np.inf))
