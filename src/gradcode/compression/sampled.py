"""Coordinates kept at random with the best probabilities: the larger, the likelier, and amplified if they are kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gradcode.compression import packing, random, vectors
from gradcode.compression.compressor import FLOAT_BITS, Compressor, register

if TYPE_CHECKING:
    from torch import Tensor

    from gradcode.compression.vectors import Array, Bytes

Floats = npt.NDArray[np.float64]

HEAD = 16  # bytes: how the rest is written, two counts, 1/λ
LISTED, MAPPED, DENSE = range(3)


def closed_form(magnitudes: Floats, variance_budget: float) -> float:
    """λ of the smallest Σp with E‖Q(g)‖² ≤ (1 + ε)‖g‖², where p_i = min(λ|g_i|, 1); sorts, O(d log d).

    With the magnitudes a in descending order, A_k = Σ_{i>k} a_i and Q_k = Σ_{i>k} a_i², the k largest have p = 1 for
    the smallest k with a_{k+1}·A_k ≤ ε·Q_0 + Q_k, and λ = A_k / (ε·Q_0 + Q_k) (sparsification.md 3.1, (1) and (2)).

    Args:
        magnitudes: (d,) |g|.
        variance_budget: ε ≥ 0.

    Returns:
        λ; infinite where every nonzero coordinate is kept for certain: ε = 0, or g = 0.
    """
    descending = np.sort(magnitudes)[::-1]
    sums = np.cumsum(descending[::-1])[::-1]  # A_k, k = 0 … d − 1
    squares = np.cumsum(np.square(descending[::-1]))[::-1]
    if not variance_budget or not len(sums) or not squares[0]:
        return math.inf
    allowed = variance_budget * squares[0] + squares
    k = int(np.argmax(descending * sums <= allowed))
    return float(sums[k] / allowed[k])


def greedy(magnitudes: Floats, density: float, rounds: int = 2) -> float:
    """λ with Σ min(λ|g_i|, 1) near κd, by rescaling what is not clipped yet; no sorting (sparsification.md 3.2).

    Args:
        magnitudes: (d,) |g|.
        density: κ in (0, 1].
        rounds: J, of rescaling at most.

    Returns:
        λ; infinite where every nonzero coordinate is kept for certain: there are no more than κd of them.
    """
    wanted, total = density * len(magnitudes), float(magnitudes.sum())
    if wanted >= np.count_nonzero(magnitudes):
        return math.inf
    scale = wanted / total
    for _ in range(rounds):
        probabilities = scale * magnitudes
        below = probabilities < 1
        rest = float(probabilities[below].sum())
        if not rest:
            break
        factor = (wanted - len(magnitudes) + np.count_nonzero(below)) / rest
        if factor <= 1:
            break
        scale *= factor
    return scale


def hybrid_bits(exact: int, signed: int, length: int, float_bits: int = FLOAT_BITS) -> float:
    """Bits of sparsification.md 4 (RECONSTRUCTED), with log₂ d unrounded.

    b + log₂ d for each coordinate that is kept for certain, log₂ d + 1 for each that was lucky, and b for 1/λ.

    Args:
        exact: coordinates with p = 1.
        signed: kept coordinates with p < 1.
        length: d.
        float_bits: b.

    >>> hybrid_bits(exact=1, signed=3, length=4)
    75.0
    """
    index = math.log2(length)
    return exact * (float_bits + index) + signed * (index + 1) + float_bits


@register("sampled")
@dataclass(frozen=True)
class Sampled(Compressor):
    """Keeps coordinate i with probability p_i = min(λ|x_i|, 1) and sends x_i/p_i, so that E C(x) = x.

    Wangni et al. (2018); sparsification.md 2 to 4, DERIVED or RECONSTRUCTED there. Σp coordinates are sent on average;
    one of two arguments says what λ is.

    Args:
        variance_budget: ε ≥ 0: the fewest coordinates with E‖C(x)‖² ≤ (1 + ε)‖x‖² (:func:`closed_form`).
        density: κ in (0, 1]: about κ·L coordinates (:func:`greedy`, two rounds, no sorting).

    A message holds x_i as float32 and the index where λ|x_i| > 1; of the others, which all have the magnitude 1/λ,
    index and sign, or a map of 2 bits per coordinate where that is shorter. An index has ⌈log₂ L⌉ bits, and 16 bytes
    say what is what. If float32 for every coordinate is shorter still, that is sent: so messages differ in length, and
    none has more than 16 + 4L bytes.

    >>> Sampled(density=0.02).size(1000, 4)
    4016
    """

    variance_budget: float | None = None
    density: float | None = None

    unbiased = True

    def __post_init__(self) -> None:
        if (self.variance_budget is None) == (self.density is None):
            raise ValueError(f"{self!r} must have either variance_budget, how much noise is added, or density")
        if self.variance_budget is not None and not 0 <= self.variance_budget < math.inf:
            raise ValueError(f"variance_budget={self.variance_budget} must be at least 0: E‖C(x)‖² ≤ (1 + it)·‖x‖²")
        if self.density is not None and not 0 < self.density <= 1:
            raise ValueError(f"density={self.density} must be above 0 and at most 1: the share of coordinates sent")

    def size(self, length: int, itemsize: int) -> int:
        return HEAD + 4 * length

    def bits(self, length: int, itemsize: int) -> float:
        return 8 * self.size(length, itemsize)

    def error_factor(self, length: int) -> float | None:
        return self.variance_budget if self.variance_budget is not None and self.variance_budget < 1 else None

    def probabilities(self, vector: Tensor) -> Floats:
        """(L,) the p_i with which the coordinates of ``vector`` are kept."""
        magnitudes = np.abs(vectors.wide(vector).astype(np.float64))
        return _probabilities(magnitudes, self._unit(magnitudes))

    def compress(self, vector: Tensor, out: Tensor, key: tuple[int, ...]) -> int:
        values = vectors.wide(vector)
        magnitudes = np.abs(values.astype(np.float64))
        vectors.finite(float(magnitudes.max(initial=0.0)))
        unit = self._unit(magnitudes)
        lucky = random.generator(random.stream(key)).random(len(values)) < _probabilities(magnitudes, unit)
        exact = np.flatnonzero(magnitudes > unit)
        signed = np.flatnonzero(lucky & (magnitudes <= unit))
        return _write(values, exact, signed, unit, out.numpy())

    def add(self, payloads: Sequence[Tensor], weights: Sequence[float], out: Tensor) -> None:
        array = out.detach().numpy()
        for payload, weight in zip(payloads, weights, strict=True):
            _add(payload.numpy(), array.dtype.type(weight), array)

    def _unit(self, magnitudes: Floats) -> np.float32:
        """1/λ as it is sent; the probabilities are those that belong to it, so that it rounds without a bias."""
        if self.variance_budget is not None:
            scale = closed_form(magnitudes, self.variance_budget)
        else:
            assert self.density is not None
            scale = greedy(magnitudes, self.density)
        return np.float32(1 / scale)


def _probabilities(magnitudes: Floats, unit: np.float32) -> Floats:
    if not unit:
        return (magnitudes > 0).astype(np.float64)
    return np.minimum(magnitudes / np.float64(unit), 1.0)


def _write(values: Array, exact: Array, signed: Array, unit: np.float32, out: Bytes) -> int:
    """The shortest of the three messages; its bytes."""
    length, index = len(values), packing.width(max(1, len(values)))
    certain = 4 * len(exact) + packing.size(len(exact), index)
    listed, mapped = packing.size(len(signed), index + 1), packing.size(length, 2)
    negative = (values[signed] < 0).astype(np.int64)
    form = DENSE if certain + min(listed, mapped) >= 4 * length else LISTED if listed <= mapped else MAPPED
    head = np.array([form, len(exact), len(signed), unit.view(np.uint32)], dtype=np.uint32)
    out[:HEAD] = head.view(np.uint8)
    body = out[HEAD:]
    if form == DENSE:
        dense = np.zeros(length, dtype=np.float32)
        dense[exact] = values[exact]
        dense[signed] = np.where(negative, -unit, unit)
        body[: 4 * length] = dense.view(np.uint8)
        return HEAD + 4 * length
    body[: 4 * len(exact)] = values[exact].astype(np.float32).view(np.uint8)
    packing.pack(exact, index, body[4 * len(exact) :])
    if form == LISTED:
        packing.pack(2 * signed + negative, index + 1, body[certain:])
        return HEAD + certain + listed
    marks = np.zeros(length, dtype=np.int64)
    marks[signed] = 1 + negative
    packing.pack(marks, 2, body[certain:])
    return HEAD + certain + mapped


def _add(payload: Bytes, weight: np.floating[Any], out: Array) -> None:
    """``out`` += weight · what :func:`_write` wrote."""
    length, index = len(out), packing.width(max(1, len(out)))
    head = payload[:HEAD].copy().view(np.uint32)
    form, exact, signed = head[:3].tolist()
    unit, body = weight * head[3:].view(np.float32)[0], payload[HEAD:]
    if form == DENSE:
        out += weight * body.copy().view(np.float32)
        return
    certain = 4 * exact + packing.size(exact, index)
    out[packing.unpack(body[4 * exact :], index, exact)] += weight * body[: 4 * exact].copy().view(np.float32)
    if form == LISTED:
        marks = packing.unpack(body[certain:], index + 1, signed)
        out[marks >> 1] += np.where(marks & 1, -unit, unit)
    else:
        marks = packing.unpack(body[certain:], 2, length)
        out += np.array([0, unit, -unit], dtype=out.dtype)[marks]
