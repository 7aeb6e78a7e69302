"""Gradient, proximal gradient and coordinate descent: a round trip per step.

Source: Karakus et al. 2017, 2019 (encoded_optimization.md 4).
"""

from __future__ import annotations

import torch

from gradcode.schemes import FastestBlocks
from gradcode.session import Session
from gradcode.solvers.trips import Solution, Trips


def gradient_descent(session: Session, steps: int, rate: float | None = None) -> Solution:
    """w ← w − rate·ĝ, from where the session's parameters are.

    On encoded data it goes at a linear rate to a neighbourhood of the optimum, whoever straggles, whose size depends on
    how near to an isometry the encoder stays without the stragglers (:func:`gradcode.codes.encoders.brip`).

    Args:
        session: on a linear objective, with a scheme whose workers each send a row.
        steps: how many.
        rate: None: one over ``objective.smoothness()``, 1/(Λ + λ) of the spec.

    Raises:
        ValueError: the session has another objective or scheme, or ``steps`` or ``rate`` is out of range.
    """
    return _descend(Trips(session), steps, rate, 0.0)


def proximal_gradient(session: Session, steps: int, penalty: float, rate: float | None = None) -> Solution:
    """w ← soft(w − rate·ĝ, rate·penalty): minimises the objective plus penalty·‖w‖₁, LASSO for least squares.

    soft(a, t) = sign(a)·max(|a| − t, 0) is the proximal operator of t·‖·‖₁.

    Args:
        session: on a linear objective, with a scheme whose workers each send a row.
        steps: how many.
        penalty: ≥ 0, per coordinate.
        rate: None: one over ``objective.smoothness()``.

    Raises:
        ValueError: as :func:`gradient_descent`, or ``penalty`` is negative.
    """
    if not 0 <= penalty < float("inf"):
        raise ValueError(f"penalty={penalty!r} must be at least 0 and finite")
    trips = Trips(session, lambda theta: penalty * float(theta.abs().sum()))
    return _descend(trips, steps, rate, penalty)


def coordinate_descent(session: Session, steps: int, rate: float | None = None) -> Solution:
    """v_i ← v_i − rate·∇_i in the blocks i of the k fastest workers; the others' stay.

    On :class:`gradcode.training.EncodedCoordinates` it converges to the exact optimum even if the same workers are late
    for ever, as long as the rows of S that move have full column rank. ``parameters`` of the solution are v.

    Args:
        session: on a linear objective, with ``schemes.fastest_blocks``.
        steps: how many.
        rate: None: one over ``objective.smoothness()``, the largest eigenvalue of the Hessian in v.

    Raises:
        ValueError: as :func:`gradient_descent`, or the scheme is another.
    """
    if not isinstance(session.scheme, FastestBlocks):
        raise ValueError(f"coordinate_descent is for schemes.fastest_blocks, not for {session.scheme!r}")
    return _descend(Trips(session), steps, rate, 0.0)


def _descend(trips: Trips, steps: int, rate: float | None, penalty: float) -> Solution:
    length = 1 / trips.objective.smoothness() if rate is None else rate
    if not 0 < length < float("inf"):
        raise ValueError(f"rate={rate!r} must be positive and finite")
    for _ in range(checked_steps(steps)):
        moved = trips.theta - length * trips.gradient(trips.theta)
        if penalty:
            moved = torch.nn.functional.softshrink(moved, length * penalty)
        trips.arrive(moved, trips.scheme.responders)
    return trips.solution()


def checked_steps(steps: int) -> int:
    """ValueError unless it is 0 or more."""
    if steps < 0:
        raise ValueError(f"steps={steps!r} must be 0 or more")
    return steps
