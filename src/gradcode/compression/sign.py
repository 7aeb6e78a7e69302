"""One bit per coordinate: signs, with a magnitude for each group of coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gradcode.compression import vectors
from gradcode.compression.compressor import FLOAT_BITS, Compressor, register

if TYPE_CHECKING:
    from torch import Tensor

    from gradcode.compression.vectors import Array, Bytes

TOGETHER = 8  # messages


@register("grouped_sign")
@dataclass(frozen=True)
class GroupedSign(Compressor):
    """Sends the sign of each coordinate and the mean magnitude of each group of consecutive ones.

    C(x) on a group G is (‖x_G‖₁/|G|)·sign(x_G), with sign(0) = +1; the last group may be shorter (one_bit.md 10, where
    this is RECONSTRUCTED). It is biased, and made for error feedback: δ = 1 − 1/g.

    A message is the ⌈L/g⌉ magnitudes as float32, then the L signs, eight per byte.

    Args:
        group: g, coordinates in a group, ≥ 1.

    >>> GroupedSign(64).bits(640, 4)
    960
    """

    group: int = 64

    unbiased = False

    def __post_init__(self) -> None:
        if self.group < 1:
            raise ValueError(f"group={self.group} must be at least 1: the coordinates that share a magnitude")

    def size(self, length: int, itemsize: int) -> int:
        return 4 * self._groups(length) + -(-length // 8)

    def bits(self, length: int, itemsize: int) -> float:
        return length + FLOAT_BITS * self._groups(length)

    def error_factor(self, length: int) -> float:
        return 1 - 1 / max(1, min(self.group, length))

    def compress(self, vector: Tensor, out: Tensor, key: tuple[int, ...]) -> int:
        from gradcode.compression import kernels

        scales = np.empty(self._groups(vector.shape[0]), dtype=np.float32)
        bits = out.numpy()[4 * len(scales) :]
        for begin, array in vectors.arrays(vector, vectors.BITS * self.group):
            kernels.grouped_signs(array, self.group, scales[begin // self.group :], bits[begin // 8 :])
        vectors.finite(float(scales.max(initial=0.0)))
        vectors.write(scales, out[: 4 * len(scales)])
        return self.size(vector.shape[0], vector.itemsize)

    def add(self, payloads: Sequence[Tensor], weights: Sequence[float], out: Tensor) -> None:
        head = 4 * self._groups(out.shape[0])
        messages = [(vectors.floats(payload[:head]), payload.numpy()[head:]) for payload in payloads]
        add_signs(messages, weights, self.group, out)

    def _groups(self, length: int) -> int:
        return -(-length // self.group)


def add_signs(messages: Sequence[tuple[Array, Bytes]], weights: Sequence[float], group: int, out: Tensor) -> None:
    """``out`` += Σ ± weight · scale over messages of (one scale per group, one bit per coordinate).

    So many messages at a time that a copy of them, side by side, is small beside ``out``.
    """
    from gradcode.compression import kernels

    array = out.detach().numpy()
    for first in range(0, len(messages) if len(array) else 0, TOGETHER):
        some = messages[first : first + TOGETHER]
        scales, bits = (np.stack([message[part] for message in some]) for part in (0, 1))
        kernels.add_signs(bits, scales, np.array(weights[first : first + TOGETHER], dtype=np.float64), group, array)
