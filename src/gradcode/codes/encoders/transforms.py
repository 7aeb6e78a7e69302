"""Fast orthogonal transforms, every column by itself; lengths are powers of two."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def walsh_hadamard(values: Floats, size: int) -> None:
    """Multiplies every run of ``size`` rows by Sylvester's Hadamard matrix H_size, in place.

    N log N additions: H_2N is made of H_N, for the sums and for the differences of the two halves.

    Args:
        values: (multiple of ``size``, c), in C order.
        size: a power of two.
    """
    half = 1
    while half < size:
        pairs = values.reshape(len(values) // (2 * half), 2, -1)
        upper, lower = pairs[:, 0], pairs[:, 1]
        difference = upper - lower
        upper += lower
        lower[:] = difference
        half *= 2


def haar(coefficients: Floats) -> Floats:
    """The signals (N, c) of Haar coefficients (N, c): the product with the orthonormal matrix of N wavelets.

    The mean comes first, then wavelets from the coarsest to the finest; the last N/2 have two non-zeros each.
    """
    signal = coefficients[:1]
    while len(signal) < len(coefficients):
        detail = coefficients[len(signal) : 2 * len(signal)]
        signal = np.stack([signal + detail, signal - detail], axis=1).reshape(2 * len(signal), -1) / math.sqrt(2)
    return signal


def haar_adjoint(signal: Floats) -> Floats:
    """The Haar coefficients (N, c) of signals (N, c): the product with the transpose."""
    details = []
    while len(signal) > 1:
        even, odd = signal[::2], signal[1::2]
        details.append((even - odd) / math.sqrt(2))
        signal = (even + odd) / math.sqrt(2)
    return np.concatenate([signal, *reversed(details)])
