"""Sixteen bits per coordinate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gradcode.compression import vectors
from gradcode.compression.compressor import FLOAT_BITS, Compressor, register

if TYPE_CHECKING:
    import torch
    from torch import Tensor

UNITS = {"float16": 2.0**-11, "bfloat16": 2.0**-8}  # unit roundoffs
TOP = 15  # coordinates are scaled to below 2^15: the range of float16 ends at nearly 2^16
LOWEST = TOP - 127  # exponent of the smallest vectors that float32 can scale to that


@register("half")
@dataclass(frozen=True)
class Half(Compressor):
    """Rounds to float16 or bfloat16, after scaling by a power of two to the middle of their range.

    So float16 neither overflows nor loses small gradients: ‖C(x) − x‖ ≤ u‖x‖ with the dtype's unit roundoff u for every
    x whose largest coordinate is 0 or above 2⁻¹¹³ ≈ 1e-34. A message is 4 bytes for the scale and 2 per coordinate.

    Args:
        dtype: "float16", "bfloat16", or torch's dtype of that name.

    >>> Half("bfloat16").size(10, 4)
    24
    """

    dtype: str = "bfloat16"

    unbiased = False

    def __post_init__(self) -> None:
        name = str(self.dtype).removeprefix("torch.")
        if name not in UNITS:
            raise ValueError(f"dtype={self.dtype!r} must be one of {', '.join(map(repr, UNITS))}")
        object.__setattr__(self, "dtype", name)

    def size(self, length: int, itemsize: int) -> int:
        return 4 + 2 * length

    def bits(self, length: int, itemsize: int) -> float:
        return FLOAT_BITS + 16 * length

    def error_factor(self, length: int) -> float:
        return UNITS[self.dtype] ** 2

    def rounding(self, unit: float) -> float:
        return UNITS[self.dtype]

    def compress(self, vector: Tensor, out: Tensor, key: tuple[int, ...]) -> int:
        import torch

        exponent = TOP - max(math.frexp(vectors.largest(vector))[1], LOWEST)
        vectors.write(np.array([2.0**-exponent], dtype=np.float32), out[:4])
        for begin in range(0, vector.shape[0], vectors.PIECE):
            piece = vector.detach()[begin : begin + vectors.PIECE]
            wide = piece if piece.itemsize >= 4 else piece.float()  # a half might leave its range
            rounded = (wide * 2.0**exponent).to(self._torch_dtype)
            out[4 + 2 * begin :][: 2 * rounded.shape[0]] = rounded.view(torch.uint8)
        return self.size(vector.shape[0], vector.itemsize)

    def add(self, payloads: Sequence[Tensor], weights: Sequence[float], out: Tensor) -> None:
        scales = [
            weight * float(vectors.floats(payload[:4])[0]) for payload, weight in zip(payloads, weights, strict=True)
        ]
        for begin in range(0, out.shape[0], vectors.PIECE):
            piece = out[begin : begin + vectors.PIECE]
            for payload, scale in zip(payloads, scales, strict=True):
                own = payload[4 + 2 * begin :][: 2 * piece.shape[0]].clone()  # it may begin at any byte
                piece.add_(own.view(self._torch_dtype).to(out.dtype), alpha=scale)

    @property
    def _torch_dtype(self) -> torch.dtype:
        import torch

        return torch.float16 if self.dtype == "float16" else torch.bfloat16
