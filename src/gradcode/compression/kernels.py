"""The loops over coordinates, compiled by Numba at first use and kept on disk beside this file.

Each is written so that LLVM turns it into vector instructions: 32 coordinates at a time, each with a bit of its own in
one word. The bit of coordinate j lies in byte j // 8, lowest bit first. Numba takes half a second to import, so the
rest of the room imports this module where it calls it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

from gradcode.compression import random

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]
Number = Any  # of NumPy, whose types the kernels keep
F = TypeVar("F", bound=Callable[..., Any])

WORD = 32
BLOCK = 1024  # coordinates whose random numbers are made at once
STEP = np.uint64(random.STEP)
TERMS = 1024  # added up in the vector's own precision, before that sum is added to one in float64


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
    for first in range(begin, end, TERMS):
        own = vector.dtype.type(0)
        for j in range(first, min(first + TERMS, end)):
            own += abs(vector[j])
        total += own
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
        word = np.uint32(0)
        for k in range(WORD):
            word |= np.uint32(vector[first + k] >= 0) << np.uint32(k)
        write_word(word, bits, first // 8, WORD)
    first = end - (end - begin) % WORD
    if first < end:
        word = np.uint32(0)
        for k in range(end - first):
            word |= np.uint32(vector[first + k] >= 0) << np.uint32(k)
        write_word(word, bits, first // 8, end - first)


@_compiled
def grouped_signs(vector: Array, group: int, scales: Array, bits: Bytes) -> None:
    """The mean magnitude of each group, and the signs; memory is read once, unless groups are beyond the cache."""
    length = len(vector)
    for begin in range(0, length, WORD * group):
        end = min(begin + WORD * group, length)
        for first in range(begin, end, group):
            last = min(first + group, end)
            scales[first // group] = sum_of_magnitudes(vector, first, last) / (last - first)
        signs(vector, bits, begin, end)


@_compiled
def add_signs(bits: Bytes, scales: Array, group: int, weight: float, out: Array, begin: int, end: int) -> None:
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
            byte = first // 8
            word = np.uint32(bits[byte]) | np.uint32(bits[byte + 1]) << np.uint32(8)
            word |= np.uint32(bits[byte + 2]) << np.uint32(16) | np.uint32(bits[byte + 3]) << np.uint32(24)
            for k in range(WORD):
                out[first + k] += scale if (word >> np.uint32(k)) & np.uint32(1) else -scale
            continue
        for j in range(first, min(first + WORD, end)):
            if j == edge:
                own += 1
                edge += group
                scale = out.dtype.type(weight * scales[own])
            out[j] += scale if (bits[j // 8] >> (j % 8)) & 1 else -scale


@_compiled
def mix(z: Number) -> Number:
    """:func:`gradcode.compression.random.mix`."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@_compiled
def coins(vector: Array, per_unit: Number, shared: Number, start: Number, bits: Bytes) -> None:
    """Bit j is 1 with probability 1/2 + vector[j] · per_unit / 2^16, from 0 on to 1.

    The 64-bit number b after ``start`` gives coordinates 4b to 4b + 3 a whole number u each, uniform from −2^15 to
    2^15 − 1; the bit is u + shared < vector[j] · per_unit, with ``shared`` from (0, 1).
    """
    numbers = np.empty(BLOCK // 4, dtype=np.uint64)
    uniform = numbers.view(np.int16)
    for begin in range(0, len(vector), BLOCK):
        end = min(begin + BLOCK, len(vector))
        for b in range(BLOCK // 4):
            numbers[b] = mix(start + STEP * np.uint64(begin // 4 + b + 1))
        for first in range(begin, end - WORD + 1, WORD):
            word = np.uint32(0)
            for k in range(WORD):
                below = np.float32(uniform[first - begin + k]) + shared < vector[first + k] * per_unit
                word |= np.uint32(below) << np.uint32(k)
            write_word(word, bits, first // 8, WORD)
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
