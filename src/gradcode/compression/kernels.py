"""The loops over coordinates, compiled by Numba at first use and kept on disk beside this file.

Bits are made thirty-two coordinates at a time (:mod:`gradcode.compression.lanes`), which fill one word. The bit of
coordinate j lies in byte j // 8, lowest bit first. Numba takes half a second to import, so the rest of the room imports
this module where it calls it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

from gradcode.compression import lanes

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]
Number = Any  # of NumPy, whose types the kernels keep
F = TypeVar("F", bound=Callable[..., Any])

WORD = lanes.WIDTH
BLOCK = 4096  # coordinates that fit into a core's first-level cache, with what is made of them


def _compiled(function: F) -> F:
    # Sums may be reordered, which is what vector instructions do; NaN and infinities keep their meaning.
    options: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "nsz"}}
    compiled: Any = numba.njit(**options)(function)
    return cast(F, compiled)


@_compiled
def largest(patterns: Array) -> Number:
    """The largest of floating-point numbers by magnitude, as bits; ``patterns`` are their bits as integers."""
    found = patterns.dtype.type(0)
    mask = np.iinfo(patterns.dtype).max
    for j in range(len(patterns)):
        found = max(found, patterns.dtype.type(patterns[j] & mask))
    return found


@_compiled
def sum_of_squares(vector: Array) -> float:
    """Added up in float64, so that no square leaves its range."""
    total = 0.0
    for j in range(len(vector)):
        total += np.float64(vector[j]) * np.float64(vector[j])
    return total


@_compiled
def sum_of_magnitudes(vector: Array, begin: int, end: int) -> float:
    total = 0.0
    for first in range(begin, end - WORD + 1, WORD):
        total += lanes.sum_of_magnitudes(vector, first)
    for j in range(end - (end - begin) % WORD, end):
        total += abs(vector[j])
    return total


@_compiled
def write_word(word: Number, bits: Bytes, byte: int, count: int) -> None:
    """The ``count`` lowest bits of ``word`` into the bytes from ``byte`` on."""
    for k in range((count + 7) // 8):
        bits[byte + k] = (word >> (8 * k)) & 255


@_compiled
def signs(vector: Array, bits: Bytes, begin: int, end: int) -> None:
    """A bit for each coordinate from ``begin``, a multiple of 32, to ``end``: whether it is ≥ 0."""
    for first in range(begin, end - WORD + 1, WORD):
        lanes.store(lanes.not_negative(vector, first), bits, first // 8)
    first = end - (end - begin) % WORD
    if first < end:
        word = np.uint32(0)
        for k in range(end - first):
            word |= np.uint32(vector[first + k] >= 0) << np.uint32(k)
        write_word(word, bits, first // 8, end - first)


@_compiled
def grouped_signs(vector: Array, group: int, scales: Array, bits: Bytes) -> None:
    """The mean magnitude of each group, and the signs.

    Groups of whole words are read once. Of others as many as have whole words in common are read twice, which is from
    the cache unless groups are large.
    """
    length, own, done = len(vector), 0, 0
    if group % WORD == 0:
        done = length - length % group
        for first in range(0, done, group):
            total = 0.0
            for word in range(first, first + group, WORD):
                lanes.store(lanes.not_negative(vector, word), bits, word // 8)
                total += lanes.sum_of_magnitudes(vector, word)
            scales[own] = total / group
            own += 1
    for begin in range(done, length, WORD * group):
        end = min(begin + WORD * group, length)
        for first in range(begin, end, group):
            last = min(first + group, end)
            scales[own] = sum_of_magnitudes(vector, first, last) / (last - first)
            own += 1
        signs(vector, bits, begin, end)


@_compiled
def add_signs_of_one(bits: Bytes, scales: Array, group: int, weight: float, out: Array, begin: int, end: int) -> None:
    """``out`` += ± weight · scales, group by group, from coordinate ``begin``, a multiple of 32, to ``end``."""
    own = begin // group
    edge = (own + 1) * group
    scale = out.dtype.type(weight * scales[own])
    for first in range(begin, end, WORD):
        if first == edge:
            own += 1
            edge += group
            scale = out.dtype.type(weight * scales[own])
        if first + WORD <= min(edge, end):
            lanes.add_signed(lanes.load(bits, first // 8), scale, out, first)
            continue
        for j in range(first, min(first + WORD, end)):
            if j == edge:
                own += 1
                edge += group
                scale = out.dtype.type(weight * scales[own])
            out[j] += scale if (bits[j // 8] >> (j % 8)) & 1 else -scale


@_compiled
def add_signs(bits: Bytes, scales: Array, weights: Array, group: int, out: Array) -> None:
    """``out`` += Σ_i ± weights[i] · scales[i], (M, bytes) and (M, groups): all messages of a piece, then the next."""
    for begin in range(0, len(out), BLOCK):
        for i in range(len(weights)):
            add_signs_of_one(bits[i], scales[i], group, weights[i], out, begin, min(begin + BLOCK, len(out)))


@_compiled
def scrambled(number: Number, key: Number) -> Number:
    """A bijection of 32 bits that looks random on consecutive numbers: a usual finaliser, keyed in its middle."""
    z = np.uint32(number ^ (number >> np.uint32(16)))
    z = np.uint32(z * np.uint32(0x7FEB352D))
    z = np.uint32(z ^ (z >> np.uint32(15)) ^ key)
    z = np.uint32(z * np.uint32(0x846CA68B))
    return np.uint32(z ^ (z >> np.uint32(16)))


@_compiled
def coins(vector: Array, per_unit: Number, shared: Number, start: Number, key: Number, bits: Bytes) -> None:
    """Bit j is 1 with probability 1/2 + vector[j] · per_unit / 2^16, from 0 on to 1.

    The scrambled number ``start`` + b gives coordinates 2b and 2b + 1 a whole number u each, uniform from −2^15 to
    2^15 − 1; the bit is u + shared < vector[j] · per_unit, with ``shared`` from (0, 1).
    """
    numbers = np.empty(BLOCK // 2, dtype=np.uint32)
    uniform = numbers.view(np.int16)
    for begin in range(0, len(vector), BLOCK):
        end = min(begin + BLOCK, len(vector))
        number = np.uint32(start + begin // 2)
        for b in range(BLOCK // 2):
            numbers[b] = scrambled(np.uint32(number + np.uint32(b)), key)
        for first in range(begin, end - WORD + 1, WORD):
            word = lanes.below(uniform, first - begin, shared, vector, first, per_unit)
            lanes.store(word, bits, first // 8)
        first = end - (end - begin) % WORD
        if first < end:
            word = np.uint32(0)
            for k in range(end - first):
                below = np.float32(uniform[first - begin + k]) + shared < vector[first + k] * per_unit
                word |= np.uint32(below) << np.uint32(k)
            write_word(word, bits, first // 8, end - first)


@_compiled
def pack(numbers: Array, width: int, bits: Bytes) -> None:
    """``width`` bits, 48 at most, of each number in a row, lowest first."""
    held, count, byte = np.uint64(0), 0, 0
    for number in numbers:
        held |= np.uint64(number) << np.uint64(count)
        count += width
        while count >= 8:
            bits[byte] = held & np.uint64(255)
            held >>= np.uint64(8)
            count -= 8
            byte += 1
    if count:
        bits[byte] = held


@_compiled
def unpack(bits: Bytes, width: int, numbers: Array) -> None:
    """What :func:`pack` wrote."""
    held, count, byte = np.uint64(0), 0, 0
    mask = (np.uint64(1) << np.uint64(width)) - np.uint64(1)
    for j in range(len(numbers)):
        while count < width:
            held |= np.uint64(bits[byte]) << np.uint64(count)
            count += 8
            byte += 1
        numbers[j] = held & mask
        held >>= np.uint64(width)
        count -= width
