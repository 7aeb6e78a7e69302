"""Noise of stochastic gradient coding with and without one-bit messages, and the step sizes that it allows.

Sources: the exact second moment and the bounds are RECONSTRUCTED (one_bit.md 6, 10; their constants are the project's,
not those of Li and Skoglund 2024). F is the mean loss over the samples, and g_k, weighted n_k/n, adds up to its
gradient: the specification's sums apply unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from gradcode.delays.law import Floats

Range = Literal["linf", "l2", "fixed"]


def second_moment(
    messages: npt.ArrayLike,
    straggling: float | Sequence[float],
    range: Range | None = None,
    bound: float | None = None,
) -> float:
    """E‖ĝ − ∇F‖² for these messages, exactly (one_bit.md, eq. 5).

    Σ_i p_i(1 − p_i)‖h_i‖² + (1 − p_i)·(D·r_i² − ‖h_i‖²): who straggles, and what one bit per coordinate loses.

    Args:
        messages: h_i, (N, D), with the weights 1/(1 − p_i).
        straggling: p, one number or (N,).
        range: of the one-bit messages; None: they are sent as they are.
        bound: r for ``"fixed"``.

    Raises:
        ValueError: ``range`` is unknown, or ``"fixed"`` without a bound.

    >>> second_moment([[3.0, 4.0], [3.0, 4.0]], 0.5, "l2")
    37.5
    """
    return float(moments(messages, straggling, range, bound))


def moments(
    messages: npt.ArrayLike, straggling: float | Sequence[float], range: Range | None, bound: float | None
) -> Floats:
    """The :func:`second_moment` of messages (..., N, D), (...)."""
    h = np.asarray(messages, dtype=np.float64)
    p = np.broadcast_to(np.asarray(straggling, dtype=np.float64), h.shape[-2])
    squares = (h**2).sum(axis=-1)
    found = p * (1 - p) * squares
    if range is not None:
        found = found + (1 - p) * (h.shape[-1] * ranges(h, range, bound) ** 2 - squares)
    return np.asarray(found.sum(axis=-1))


def ranges(messages: npt.ArrayLike, range: Range, bound: float | None = None) -> Floats:
    """r of each message of (..., D): its largest magnitude, its norm, or ``bound`` (one_bit.md 5).

    Raises:
        ValueError: ``range`` is unknown, or ``"fixed"`` without a bound.

    >>> ranges([[3.0, -4.0]], "l2")
    array([5.])
    """
    h = np.asarray(messages, dtype=np.float64)
    if range == "linf":
        return np.asarray(np.abs(h).max(axis=-1, initial=0.0))
    if range == "l2":
        return np.asarray(np.linalg.norm(h, axis=-1))
    if range != "fixed" or bound is None:
        raise ValueError(f'range={range!r}, bound={bound!r} must be "linf", "l2", or "fixed" with a bound')
    return np.full(h.shape[:-1], float(bound))


def mean_squares(gradients: npt.ArrayLike, workers: int, replication: int, straggling: float) -> float:
    """Σ_i ‖h_i‖², exact with pairwise balanced allocation, on average with a random one (one_bit.md, eq. 7).

    (1 − p)⁻²·[Σ_k (1/d − 1/N)‖g_k‖² + ‖∇F‖²/N]: redundancy divides both kinds of noise by about d.

    Args:
        gradients: g_k, (K, D).
        workers: N.
        replication: d.
        straggling: p.
    """
    g = np.asarray(gradients, dtype=np.float64)
    whole = float((g.sum(axis=0) ** 2).sum())
    return float(((1 / replication - 1 / workers) * (g**2).sum() + whole / workers) / (1 - straggling) ** 2)


@dataclass(frozen=True)
class Noise:
    """E‖ĝ − ∇F‖² ≤ constant + relative·‖∇F‖² (one_bit.md, eq. 8: V0 and V1)."""

    constant: float
    relative: float

    def largest_step(self, smoothness: float, convex: bool = False) -> float:
        """γ ≤ 1/(L(1 + V1)), half of that for the bounds on convex losses.

        Raises:
            ValueError: ``smoothness`` is not positive.
        """
        if not smoothness > 0:
            raise ValueError(f"smoothness={smoothness!r} must be positive")
        return 1 / ((2 if convex else 1) * smoothness * (1 + self.relative))

    def mean_squared_slope(self, step: float, smoothness: float, gap: float, iterations: int) -> float:
        """Bound of (1/T)·Σ E‖∇F‖² for smooth losses: 2·(F(θ⁰) − F*)/(γT) + LγV0."""
        return 2 * gap / (step * iterations) + smoothness * step * self.constant

    def mean_gap(self, step: float, distance: float, iterations: int) -> float:
        """Bound of (1/T)·Σ E[F − F*] for convex losses: ‖θ⁰ − θ*‖²/(γT) + γV0; ``distance`` is not squared."""
        return distance**2 / (step * iterations) + step * self.constant

    def ball(self, step: float, convexity: float, distance: float = 0.0, iterations: int = 0) -> float:
        """Bound of E‖θ^T − θ*‖² for µ-strongly convex losses: (1 − γµ)^T·‖θ⁰ − θ*‖² + γV0/µ."""
        return float((1 - step * convexity) ** iterations * distance**2 + step * self.constant / convexity)


def noise(
    workers: int,
    replication: int,
    straggling: float,
    squares: float,
    coordinates: int | None = None,
) -> Noise:
    """What the noise is at most along a path (one_bit.md, eq. 8), for the range ``"l2"``; that of ``"linf"`` is less.

    Args:
        workers: N.
        replication: d.
        straggling: p in [0, 1).
        squares: the largest Σ_k‖g_k‖² along the path.
        coordinates: D of one-bit messages; None: they are sent as they are.

    Raises:
        ValueError: an argument is out of its range.
    """
    if not 0 <= straggling < 1:
        raise ValueError(f"straggling={straggling!r} must be a probability below 1")
    if not 1 <= replication <= workers:
        raise ValueError(f"replication={replication!r} must be between 1 and workers={workers}")
    factor = (straggling if coordinates is None else coordinates - 1 + straggling) / (1 - straggling)
    return Noise(factor * (1 / replication - 1 / workers) * squares, factor / workers)


def noise_along(
    messages: npt.ArrayLike,
    straggling: float | Sequence[float],
    range: Range | None = None,
    bound: float | None = None,
) -> Noise:
    """The largest second moment along a path, for every range and every allocation: V0 with V1 = 0.

    :func:`noise` knows the path by Σ_k‖g_k‖² alone, and so needs pairwise balance and the range ``"l2"``; where the
    messages themselves are at hand, this is what they allow.

    Args:
        messages: h_i, (..., N, D) for all iterations, of several runs perhaps, with the weights 1/(1 − p_i).
        straggling, range, bound: as of :func:`second_moment`. Nothing may be clipped to ``bound``: the bounds are of
            gradients that are right on average.

    Raises:
        ValueError: ``range`` is unknown, ``"fixed"`` without a bound, or messages are beyond it.
    """
    h = np.asarray(messages, dtype=np.float64)
    largest = float(np.abs(h).max())
    if range == "fixed" and bound is not None and largest > bound:
        raise ValueError(f"bound={bound!r} must be at least the largest coordinate {largest:.6g}: clipping is a bias")
    return Noise(float(moments(h, straggling, range, bound).max()), 0.0)


def decaying_ball(square: float, convexity: float, iterations: int) -> float:
    """Bound of E‖θ^T − θ*‖² for µ-strongly convex losses and γ_t = 1/(µt), t = 1, ..., T: 4G²/(µ²T).

    Source: RECONSTRUCTED (one_bit.md 6.2). ``square``: G² ≥ E‖ĝ‖² = E‖ĝ − ∇F‖² + ‖∇F‖² along the path.
    """
    return 4 * square / (convexity**2 * iterations)


def memory_bound(step: float, largest: npt.ArrayLike, error_factor: float) -> Floats:
    """Bound of E‖e_i‖², whatever p is: 2δ(1 + δ)γ²H_i²/(1 − δ)² (one_bit.md 10, RECONSTRUCTED).

    Args:
        step: γ.
        largest: H_i ≥ ‖h_i‖ along the path, (N,).
        error_factor: δ of the compressor, below 1.

    Raises:
        ValueError: δ is not in [0, 1).
    """
    if not 0 <= error_factor < 1:
        raise ValueError(f"error_factor={error_factor!r} must be in [0, 1)")
    h = np.asarray(largest, dtype=np.float64)
    return np.asarray(2 * error_factor * (1 + error_factor) * (step * h) ** 2 / (1 - error_factor) ** 2)


def feedback_bound(
    step: float,
    smoothness: float,
    gap: float,
    iterations: int,
    straggling: float,
    largest: npt.ArrayLike,
    error_factor: float,
) -> float:
    """Bound of (1/T)·Σ E‖∇F‖² with error feedback, γ ≤ 1/(2L) (one_bit.md 10, RECONSTRUCTED).

    4·(F(θ⁰) − F*)/(γT) + 2LγV + 2L²·N·Σ_i E‖e_i‖², with V = p(1 − p)·Σ_i H_i² and the :func:`memory_bound`.

    Args:
        step: γ.
        smoothness: L.
        gap: F(θ⁰) − F*.
        iterations: T.
        straggling: p.
        largest: H_i ≥ ‖h_i‖ along the path, (N,).
        error_factor: δ of the compressor, below 1.

    Raises:
        ValueError: the step is larger than 1/(2L), or δ not in [0, 1).
    """
    if not 0 < step <= 0.5 / smoothness:
        raise ValueError(f"step={step!r} must be positive and at most 1/(2L) = {0.5 / smoothness:.6g}")
    h = np.asarray(largest, dtype=np.float64)
    memories = float(memory_bound(step, h, error_factor).sum())
    variance = straggling * (1 - straggling) * float((h**2).sum())
    return float(
        4 * gap / (step * iterations) + 2 * smoothness * step * variance + 2 * smoothness**2 * len(h) * memories
    )
