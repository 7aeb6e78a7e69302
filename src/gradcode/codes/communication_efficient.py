"""Communication-efficient codes: more partitions per worker, shorter messages, or more stragglers, as one likes.

Source: Ye and Abbe 2018 (arXiv 1802.03475), of which the abstract and the beginning of the introduction were read;
numbers (1) to (4) and sections are those of the project's communication_efficient.md. There the construction was seen
through another's implementation and re-derived; "gaussian" and "orthonormal" are RECONSTRUCTED, "fourier_centred" is
its own.

Letters: n workers, d their load, s stragglers, m the reduction, f = n − s messages, θ_i the nodes, V (f, n) with a
column for each worker, T the m target rows of V.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import SupportsIndex

import numpy as np

from gradcode.codes import checks, stability
from gradcode.codes.affine import AffineCode
from gradcode.codes.code import Array, Indices
from gradcode.codes.registry import register

CONSTRUCTIONS = ("polynomial", "fourier_centred", "gaussian", "orthonormal")
NODES = ("half_steps", "chebyshev", "unity")


@register(
    summary="messages of the m-th part of the length: load is traded for tolerance and for communication",
    exact=True,
    tolerance="load − reduction, at least s",
    load="dK/N, with d ≥ s + m",
    needs="stragglers + reduction ≤ load ≤ workers; partitions ≥ workers; a bound that holds",
    choose="when sending a gradient takes longer than computing one on a partition",
)
def communication_efficient(
    workers: SupportsIndex,
    load: SupportsIndex,
    stragglers: SupportsIndex,
    reduction: SupportsIndex,
    partitions: SupportsIndex | None = None,
    *,
    construction: str = "auto",
    nodes: str | Sequence[complex] = "half_steps",
    draws: SupportsIndex = 20,
    rng: checks.Seed = 0,
    dtype: str = "float32",
    max_error: float | None = None,
) -> AffineCode:
    """The communication-efficient code of Ye and Abbe 2018 (communication_efficient.md, sections 2 to 5).

    Worker i holds partitions i, …, i + d − 1 (mod N) and sends ⌈L/m⌉ numbers instead of L. The gradient is cut into m
    contiguous parts, where the paper takes consecutive m-tuples of coordinates: any fixed permutation does. There is
    such a code if and only if d ≥ s + m (1); what d has beyond that is given to the tolerance, d − m. With m = 1 it is
    a gradient code like any other. Decoding with more than N − s messages takes the weights of minimum norm.

    What a worker sends are values at its node, or in its column of V, of the same combinations for all; the master
    solves for m of their coefficients. ``construction`` says which V:

    - "polynomial", the paper's: V[r, i] = θ_i^r, T the last m rows; its polynomials (2) in closed form. ``nodes``:
      "half_steps", ±(1 + i/2), the positive ones first, 0 before them where N is odd (of the other implementation);
      "chebyshev"; "unity", the N-th roots of unity, which make the code complex; or N distinct numbers in any order.
    - "fourier_centred", OURS: the nodes are roots of unity, T the m central rows. Complex, so each part travels as half
      as many complex numbers. The most stable where s and m are small.
    - "gaussian": V of standard normal entries, T the last m rows; of ``draws`` the one with the smallest error bound
      in a short search.
    - "orthonormal": the same, with the rows of each draw made orthonormal.
    - "auto", the choice of section 7: "polynomial" for N ≤ 12, "fourier_centred" if s + m ≤ 4, else "gaussian". Where
      that one's bound passes ``max_error``, the first of "fourier_centred" and "gaussian" whose bound does not (OURS).

    Args:
        workers: N.
        load: d, the groups of partitions on each worker, from s + m to N: it computes d/N of everything.
        stragglers: s.
        reduction: m ≥ 1.
        partitions: K ≥ N, grouped into N runs of nearly equal length; N by default.
        construction, nodes: see above.
        draws: how many V are compared.
        rng: generator or seed of the draws.
        dtype, max_error: as in `cyclic_mds`.

    Raises:
        ValueError: an argument is out of range, load < stragglers + reduction, or the error bound passes ``max_error``.

    >>> code = communication_efficient(4, load=3, stragglers=1, reduction=2, nodes=(0, 1, 2, 3), dtype="float64")
    >>> code.encoding[0, :3].round(12) + 0.0  # of partitions 0, 1 and 2: x − τ and x² − τ² at x = 0, τ = 1, 2, 3
    array([[-1., -1.],
           [-2., -4.],
           [-3., -9.]])
    >>> code.decode([0, 2, 3]).weights.shape
    (4, 2)
    """
    n, s = checks.workers_and_stragglers(workers, stragglers)
    m = checks.integer("reduction", reduction, 1, n - s, f"stragglers + reduction <= load <= workers={n}")
    d = checks.integer("load", load, 1, n, f"there are workers={n} groups of partitions")
    if d < s + m:
        raise ValueError(
            f"load={d} must be at least stragglers + reduction = {s} + {m}: of each partition's {d} holders {s} may be "
            f"lost, and the others' messages, 1/{m} as long, must still carry its gradient. Take load={s + m}, fewer "
            f"stragglers or a smaller reduction"
        )
    sizes = checks.group_sizes(partitions, n)
    checks.choice("construction", construction, ("auto", *CONSTRUCTIONS))
    points = _points(nodes, n)
    seeds = checks.generator(rng).integers(2**63, size=checks.integer("draws", draws, 1))
    stability.roundoff(dtype)

    def build(construction: str, dtype: str, stragglers: int, reduction: int) -> AffineCode:
        f = n - stragglers
        if construction == "polynomial":
            return _code(_powers(points, f), reduction, sizes, dtype, _polynomials(points, f, reduction))
        if construction == "fourier_centred":
            first = (f - reduction) // 2
            powers = _powers(_points("unity", n), f)
            centred = np.roll(powers, -(first + reduction), axis=0)  # the target rows last
            return _code(centred, reduction, sizes, dtype, circulant=True)
        return _best_draw(n, f, reduction, sizes, dtype, seeds, construction == "orthonormal")

    first = construction
    if construction == "auto":
        first = "polynomial" if n <= 12 else "fourier_centred" if s + m <= 4 else "gaussian"
    if max_error == float("inf"):
        return build(first, dtype, d - m, m)
    others = [name for name in ("fourier_centred", "gaussian") if name != first]
    bound = stability.limit(max_error, dtype, int(sizes.sum()))
    tried = []
    for name in [first, *others] if construction == "auto" else [first]:
        tried.append(build(name, dtype, d - m, m))
        if tried[-1].worst.error <= bound:
            return tried[-1]
    raise ValueError(_refusal(build, min(tried, key=lambda code: code.worst.error), s, m, bound, max_error))


def _points(nodes: str | Sequence[complex], workers: int) -> Array:
    """(n,) distinct nodes θ.

    Raises:
        ValueError: the name is unknown, or they are not n distinct numbers.
    """
    if isinstance(nodes, str):
        checks.choice("nodes", nodes, NODES)
        if nodes == "unity":
            angles = 2 * np.pi * np.arange(workers) / workers
            return np.cos(angles) + 1j * np.sin(angles)
        if nodes == "chebyshev":
            return np.cos((2 * np.arange(workers) + 1) * np.pi / (2 * workers))
        half = 1 + np.arange(workers // 2) / 2
        return np.concatenate([np.zeros(workers % 2), half, -half])
    points = np.asarray(nodes)
    if points.shape != (workers,) or len(np.unique(points)) < workers or not np.isfinite(points).all():
        names = ", ".join(map(repr, NODES))
        raise ValueError(f"nodes={nodes!r} must be one of {names}, or workers={workers} distinct numbers")
    return points.astype(np.complex128 if np.iscomplexobj(points) else np.float64)


def _powers(points: Array, count: int) -> Array:
    """The Vandermonde matrix (count, n) of the nodes."""
    return np.vander(points, count, increasing=True).T


def _missing(workers: int, load: int) -> Indices:
    """(n, n − d): who does not hold partition j, workers j + 1, …, j + n − d."""
    return (np.arange(workers)[:, None] + np.arange(1, workers - load + 1)) % workers


def _polynomials(points: Array, messages: int, reduction: int) -> Array:
    """E[i, j, u] = p_j^{(u+1)}(θ_i), (n, n, m), by (2).

    Each p^{(u)} is p^{(1)} times a monic polynomial, and the c of (2) are the complete homogeneous symmetric
    polynomials of the nodes τ where p^{(1)} vanishes: p^{(u)} = p^{(1)}·(x^{u−1} + h_1(τ) x^{u−2} + … + h_{u−1}(τ)).
    """
    n = len(points)
    zeros = points[_missing(n, n - messages + reduction)]  # (n, n − d)
    symmetric = np.zeros((n, reduction), dtype=points.dtype)  # h_0, …, h_{m−1} of each partition's zeros
    symmetric[:, 0] = 1
    for zero in zeros.T:
        for k in range(1, reduction):
            symmetric[:, k] += zero * symmetric[:, k - 1]
    values = np.empty((n, n, reduction), dtype=points.dtype)
    values[..., 0] = (points[:, None, None] - zeros).prod(axis=2)
    factor = np.ones((n, n), dtype=points.dtype)
    for u in range(1, reduction):
        factor = points[:, None] * factor + symmetric[:, u]
        values[..., u] = values[..., 0] * factor
    return values


def _code(
    V: Array,
    reduction: int,
    sizes: Indices,
    dtype: str,
    encoding: Array | None = None,
    *,
    circulant: bool = False,
    thorough: bool = True,
) -> AffineCode:
    """The code of V (f, n), the target rows last; of section 5, unless its ``encoding`` is known.

    With V = (QR)ᵀ, weights that solve V a = e_u (4) are conj(Q_1) R_11^{-T} plus anything in the span of the columns
    of conj(Q) beyond f, Q_1 being columns f − m to f of Q. What the workers send is a combination of columns of Q.
    """
    f, n = V.shape
    others = f - reduction
    Q, R = np.linalg.qr(V.T, mode="complete")
    target, corner = Q[:, others:f], R[others:f, others:]
    if encoding is None:
        encoding = np.repeat((target @ corner)[:, None], n, axis=1)
        missing = _missing(n, n - others)
        if others:
            free = np.linalg.solve(Q[missing, :others], -encoding[missing, np.arange(n)[:, None]])
            encoding += np.einsum("ir,jru->iju", Q[:, :others], free)
        encoding[missing, np.arange(n)[:, None]] = 0
    offset = np.linalg.solve(corner, target.conj().T).T
    if reduction == 1:
        encoding, offset = encoding[..., 0], offset[..., 0]
    return AffineCode(
        encoding,
        sizes,
        n - f,
        dtype,
        offset=offset,
        null=Q[:, f:].conj().T,
        generic=True,
        circulant=circulant,
        thorough=thorough,
    )


def _best_draw(
    workers: int, messages: int, reduction: int, sizes: Indices, dtype: str, seeds: Indices, orthonormal: bool
) -> AffineCode:
    """The draw with the smallest error bound in a short search; the long search then judges it."""

    def code(seed: int, thorough: bool) -> AffineCode:
        V: Array = np.random.default_rng(seed).standard_normal((messages, workers))
        if orthonormal:
            V = np.linalg.qr(V.T)[0].T
        return _code(V, reduction, sizes, dtype, thorough=thorough)

    best = min(seeds, key=lambda seed: code(seed, thorough=False).worst.error) if len(seeds) > 1 else seeds[0]
    return code(best, thorough=True)


def _refusal(
    build: Callable[[str, str, int, int], AffineCode],
    code: AffineCode,
    s: int,
    m: int,
    bound: float,
    limit: float | None,
) -> str:
    """What is wrong with ``code``, which passes the bound, and what holds instead."""
    n, dtype, tolerance, worst = code.workers, code.dtype, code.tolerance, code.worst
    ways = [
        f"construction={name!r} holds"
        for name in ("fourier_centred", "gaussian")
        if build(name, dtype, tolerance, m).worst.error <= bound
    ]
    double = stability.limit(limit, "float64", code.partitions)
    if dtype != "float64" and any(
        build(name, "float64", tolerance, m).worst.error <= double for name in ("fourier_centred", "gaussian")
    ):
        ways.append("dtype='float64' holds")
    smaller = (less for less in range(m - 1, 0, -1) if build("fourier_centred", dtype, s, less).worst.error <= bound)
    if less := next(smaller, 0):
        ways.append(f"load={s + less}, reduction={less} with construction='fourier_centred' holds")
    ways.append(f"fractional_repetition(workers={n}, stragglers={s}) holds at every size, with whole messages")
    return (
        f"reduction={m} with stragglers={tolerance} must be smaller for this code with workers={n}, dtype={dtype!r}: "
        f"its error bound reaches {worst.error:.1e} of Σ‖g_j‖ (amplification {worst.condition:.1e}, when workers "
        f"{list(worst.stragglers)} straggle) and must be at most max_error={bound:.1e}. {'; '.join(ways)}"
    )
