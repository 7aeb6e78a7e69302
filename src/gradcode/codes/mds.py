"""The cyclic MDS code: deterministic, cyclic supports, decoded by one small Fourier system."""

from __future__ import annotations

from typing import SupportsIndex

import numpy as np

from gradcode.codes import checks, stability
from gradcode.codes.affine import AffineCode
from gradcode.codes.code import Array, Indices
from gradcode.codes.registry import register


@register(
    summary="deterministic code with cyclic supports; real where N − s is odd, complex elsewhere",
    exact=True,
    tolerance="s",
    load="(s+1)K/N; (s+2)K/N with real=True where N − s is even",
    needs="stragglers < workers; partitions ≥ workers; a bound that holds (small s, or small N)",
    choose="with one or two stragglers, where a deterministic cyclic code is wanted",
)
def cyclic_mds(
    workers: SupportsIndex,
    stragglers: SupportsIndex,
    partitions: SupportsIndex | None = None,
    *,
    real: bool = False,
    permute: checks.Seed | bool = False,
    dtype: str = "float32",
    max_error: float | None = None,
) -> AffineCode:
    """The cyclic MDS code of Raviv et al. 2018, with centred zeros (gradient_codes.md 2.4, RECONSTRUCTED
    there).

    Row i of B holds the coefficients of g(x) = Π_{z∈Z} (x − ω^z), ω = exp(2πi/N), from column i on,
    cyclically. Z is s consecutive exponents about N/2, so that g is real with positive coefficients when N −
    s is odd and s ≤ N/2. When N − s is even no real centred code exists and B is complex.

    Args:
        workers: N.
        stragglers: s < N.
        partitions: K ≥ N, grouped into N runs of nearly equal length; N by default.
        real: where N − s is even, take the real code of tolerance s + 1 instead, with a load one run higher.
        permute: generator or seed that shuffles the workers once, so that neighbours (a rack) are not
            consecutive rows, the worst stragglers of this code; False keeps the natural order.
        dtype: of the messages.
        max_error: the largest accepted bound of the relative error over all straggler sets: 1e-5 for float32
            and 1e-10 for float64 by default; ``float("inf")`` accepts every size.

    Raises:
        ValueError: an argument is out of range, or the error bound passes ``max_error``.

    >>> code = cyclic_mds(workers=6, stragglers=3)
    >>> code.encoding[0].round(12), code.decode([3, 4, 5]).weights.round(12) + 0.0
    (array([1., 2., 2., 1., 0., 0.]), array([ 0.,  0.,  0.,  1., -1.,  1.]))
    """
    n, s = checks.workers_and_stragglers(workers, stragglers)
    sizes = checks.group_sizes(partitions, n)
    order = shuffle(n, permute)

    def build(s: int, dtype: str) -> AffineCode:
        tolerance = s + 1 if real and s and (n - s) % 2 == 0 and s + 1 < n else s
        is_real = tolerance == 0 or (n - tolerance) % 2 == 1
        return circulant_code(n, centred_zeros(n, tolerance), sizes, dtype, real=is_real, order=order)

    return stability.accept(build, s, dtype, max_error)


def centred_zeros(workers: int, tolerance: int) -> Indices:
    """Z, the exponents about N/2 at which the generator polynomial of the centred code vanishes."""
    start = (workers - tolerance + 1) // 2
    return np.arange(start, start + tolerance)


def shuffle(workers: int, permute: checks.Seed | bool) -> Indices | None:
    """A permutation of the workers drawn from ``permute``; None keeps them as they are."""
    if permute is False:
        return None
    return checks.generator(0 if permute is True else permute).permutation(workers)


def circulant_code(
    workers: int, zeros: Indices, sizes: Array, dtype: str, *, real: bool, order: Indices | None
) -> AffineCode:
    """The circulant code of g(x) = Π (x − ω^z) with its Fourier decoder.

    The vectors with aᵀB = 1ᵀ are a_i = 1/g(1) + Σ_{z∈zeros} y_z ω^{−zi}: constant plus an orthogonal basis of
    the left null space of B.
    """
    n = workers
    generator: Array = np.ones(1)
    if real:  # pairs ω^z, ω^{−z} as real quadratics: no imaginary rounding, no cancellation
        for z in zeros[2 * zeros <= n]:
            factor = [1.0, 1.0] if 2 * z == n else [1.0, -2 * np.cos(2 * np.pi * z / n), 1.0]
            generator = np.convolve(generator, factor)
    else:
        for z in zeros:
            generator = np.convolve(generator, [1.0, -_root(n, z)])
    generator = generator[::-1]  # ascending powers
    matrix = np.zeros((n, n), dtype=generator.dtype)
    for j, value in enumerate(generator):
        matrix[np.arange(n), (np.arange(n) + j) % n] = value
    null = _fourier(n, zeros, real)
    offset = np.full(n, 1 / generator.sum())
    return AffineCode(
        matrix, sizes, len(zeros), dtype, offset=offset, null=null, generic=True, circulant=True, order=order
    )


def _root(n: int, power: Array | int) -> Array:
    """ω^power, with the exponent reduced first: large ones would lose digits."""
    root: Array = np.exp(2j * np.pi * (np.asarray(power) % n) / n)
    return root


def _fourier(n: int, zeros: Indices, real: bool) -> Array:
    """Orthonormal rows (len(zeros), n) that span ω^{−zi}; cosines and sines for a real code."""
    waves: Array = _root(n, -np.outer(zeros, np.arange(n))) / np.sqrt(n)
    if not real:
        return waves
    half = waves[2 * zeros < n]
    middle = waves[2 * zeros == n].real
    rows: Array = np.concatenate([half.real * np.sqrt(2), half.imag * np.sqrt(2), middle])
    return rows
