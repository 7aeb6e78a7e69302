"""A few coordinates only: the largest, or random ones."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gradcode.compression import packing, random, vectors
from gradcode.compression.compressor import FLOAT_BITS, Compressor, register

if TYPE_CHECKING:
    from torch import Tensor

    from gradcode.compression.vectors import Array

SEED_BITS = 64


@dataclass(frozen=True)
class _Few(Compressor):
    """A compressor that sends K of L coordinates as float32: the values first, then what tells which they are."""

    k: int | None = None
    density: float | None = None

    def __post_init__(self) -> None:
        if (self.k is None) == (self.density is None):
            raise ValueError(f"{self!r} must have either k, how many coordinates are sent, or density, their share")
        if self.k is not None and self.k < 1:
            raise ValueError(f"k={self.k} must be at least 1: how many coordinates are sent")
        if self.density is not None and not 0 < self.density <= 1:
            raise ValueError(f"density={self.density} must be above 0 and at most 1: the share of coordinates sent")

    def count(self, length: int) -> int:
        """K of ``length`` coordinates: ``k``, or ⌈density · length⌉, and never more than there are."""
        return min(length, self.k if self.k is not None else math.ceil(self.density * length))  # type: ignore[operator]

    def size(self, length: int, itemsize: int) -> int:
        return -(-self.bits(length, itemsize) // 8)

    def bits(self, length: int, itemsize: int) -> int:
        return FLOAT_BITS * self.count(length) + self._which_bits(length)

    def add(self, payloads: Sequence[Tensor], weights: Sequence[float], out: Tensor) -> None:
        array, head = out.detach().numpy(), 4 * self.count(out.shape[0])
        for payload, weight in zip(payloads, weights, strict=True):
            values = vectors.floats(payload[:head]).astype(array.dtype)
            array[self._which(payload[head:], len(array))] += array.dtype.type(weight) * values

    @abstractmethod
    def _which_bits(self, length: int) -> int:
        """Bits that tell which coordinates a message holds."""

    @abstractmethod
    def _which(self, payload: Tensor, length: int) -> Array:
        """(K,) the coordinates, as those bits tell."""


@register("top_k")
@dataclass(frozen=True)
class TopK(_Few):
    """Sends the K coordinates of the largest magnitude, those of equal magnitude from the lowest index on.

    It is biased, and made for error feedback: δ = 1 − K/L (one_bit.md 10, RECONSTRUCTED). A message is K values as
    float32 and K indices of ⌈log₂ L⌉ bits (one_bit.md 8).

    Args:
        k: K; where there are fewer coordinates, all are sent.
        density: K/L, rounded up to whole coordinates; exactly one of the two is given.

    >>> TopK(density=0.1).bits(100, 4)
    390
    """

    unbiased = False

    def error_factor(self, length: int) -> float:
        return 1 - self.count(length) / max(1, length)

    def compress(self, vector: Tensor, out: Tensor, key: tuple[int, ...]) -> int:
        values = vectors.wide(vector)
        magnitudes = np.abs(values)
        vectors.finite(float(magnitudes.max(initial=0.0)))
        length, k = len(values), self.count(len(values))
        if not k:
            return 0
        least = np.partition(magnitudes, length - k)[length - k]
        above = np.flatnonzero(magnitudes > least)
        ties = np.flatnonzero(magnitudes == least)[: k - len(above)]
        chosen = np.sort(np.concatenate([above, ties]))
        vectors.write(values[chosen].astype(np.float32), out[: 4 * k])
        packing.pack(chosen, packing.width(length), out.numpy()[4 * k :])
        return self.size(length, vector.itemsize)

    def _which_bits(self, length: int) -> int:
        return self.count(length) * packing.width(length)

    def _which(self, payload: Tensor, length: int) -> Array:
        return packing.unpack(payload.numpy(), packing.width(length), self.count(length))


@register("random_k")
@dataclass(frozen=True)
class RandomK(_Few):
    """Sends K random coordinates, every set equally likely, multiplied by L/K.

    Then E C(x) = x and E‖C(x) − x‖² = (L/K − 1)‖x‖². A message is K values as float32 (one_bit.md 8) and 64 bits from
    which both ends draw the same indices, which are counted here.

    Args:
        k: K; where there are fewer coordinates, all are sent.
        density: K/L, rounded up to whole coordinates; exactly one of the two is given.

    >>> RandomK(k=10).bits(100, 4)
    384
    """

    unbiased = True

    def error_factor(self, length: int) -> float | None:
        factor = length / max(1, self.count(length)) - 1
        return factor if factor < 1 else None

    def compress(self, vector: Tensor, out: Tensor, key: tuple[int, ...]) -> int:
        values, start = vectors.wide(vector), random.stream(key)
        length, k = len(values), self.count(len(values))
        chosen = _drawn(start, length, k)
        sent = values[chosen].astype(np.float64) * (length / max(1, k))
        vectors.finite(float(np.abs(sent).max(initial=0.0)))
        vectors.write(sent.astype(np.float32), out[: 4 * k])
        vectors.write(np.array([start], dtype=np.uint64), out[4 * k :])
        return self.size(length, vector.itemsize)

    def _which_bits(self, length: int) -> int:
        return SEED_BITS

    def _which(self, payload: Tensor, length: int) -> Array:
        start = int(payload.numpy().copy().view(np.uint64)[0])
        return _drawn(start, length, self.count(length))


def _drawn(start: int, length: int, k: int) -> Array:
    return random.generator(start).choice(length, k, replace=False, shuffle=False) if k else np.empty(0, np.int64)
