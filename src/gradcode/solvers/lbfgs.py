"""L-BFGS on the fastest k: curvature from overlapping responders, and a step length from a second round trip.

Source: Karakus et al. 2017, 2019 (encoded_optimization.md 4; details RECONSTRUCTED). That the second round trip is an
ordinary iteration at other parameters is OURS.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from gradcode.schemes import Fastest
from gradcode.session import Session
from gradcode.solvers.descent import checked_steps
from gradcode.solvers.trips import Solution, Trips
from gradcode.training import LeastSquares


class Pair(NamedTuple):
    """A step u and how the gradient changed along it, r: uᵀr > 0."""

    step: Tensor
    change: Tensor


def lbfgs(session: Session, steps: int, memory: int = 10, damping: float = 0.9) -> Solution:
    """w ← w + α·d along d = −B·ĝ, B being L-BFGS's inverse Hessian; two round trips per step.

    Gradients of two steps are compared over the workers I that answered in both, so that the change is one of the
    parameters and not of who answered: r = (1/(nβη_I))·Σ_{i∈I}(g_i(w_t) − g_i(w_{t−1})) + λu. Without such workers, or
    where uᵀr ≤ 0, the pair is left out; with k > N/2 there are always some. The second round trip has a set D of k
    fastest workers of its own; α = −ν·dᵀĝ/((1/(nβη))·Σ_{i∈D}‖X̃_i d‖² + λ‖d‖²).

    As g_i(d) − g_i(0) = X̃_iᵀX̃_i d, and the master can compute g_i(0) itself, the second trip asks for nothing but
    gradients at d (OURS).

    Args:
        session: on least squares, encoded or not, with ``schemes.fastest`` and one partition per worker.
        steps: how many.
        memory: pairs that are kept, σ.
        damping: ν in (0, 1]; for an ε-isometry theory has (1 − ε)/(1 + ε).

    Raises:
        ValueError: the session has another objective or scheme, or an argument is out of range.
    """
    if memory < 1:
        raise ValueError(f"memory={memory!r} must be at least 1")
    if not 0 < damping <= 1:
        raise ValueError(f"damping={damping!r} must be above 0 and at most 1")
    scheme = session.scheme
    if not isinstance(scheme, Fastest) or scheme.partitions != scheme.workers:
        raise ValueError(f"lbfgs is for schemes.fastest with one partition per worker, not for {scheme!r}")
    if not isinstance(session.objective, LeastSquares):
        raise ValueError(f"lbfgs is for least squares, not for {type(session.objective).__name__}")
    trips = Trips(session)
    at_zero = trips.objective.gradients(torch.zeros_like(trips.theta))
    pairs: deque[Pair] = deque(maxlen=memory)
    before: tuple[Tensor, dict[int, Tensor]] | None = None
    for _ in range(checked_steps(steps)):
        gradient, rows, responders = trips.gradient(trips.theta), trips.rows(), scheme.responders
        if before is not None:
            overlap = rows.keys() & before[1].keys()
            weights = scheme.weights(overlap)
            change = sum((weights[i] * (rows[i] - before[1][i]) for i in overlap), torch.zeros_like(gradient))
            step = trips.theta - before[0]
            if step.dot(change) > 0:
                pairs.append(Pair(step, change))
        before = trips.theta, rows
        direction = _direction(pairs, gradient)
        length = _length(trips, scheme, direction, at_zero, gradient)
        trips.arrive(trips.theta + damping * length * direction, responders)
    return trips.solution()


def _direction(pairs: Iterable[Pair], gradient: Tensor) -> Tensor:
    """−B·gradient of unit length, by the two-loop recursion from uᵀr/rᵀr times the identity; 0 where it is 0."""
    known = [(pair, 1 / pair.step.dot(pair.change)) for pair in pairs]
    vector, shares = gradient.clone(), []
    for (step, change), inverse in reversed(known):
        shares.append(inverse * step.dot(vector))
        vector -= shares[-1] * change
    if known:
        step, change = known[-1][0]
        vector *= step.dot(change) / change.dot(change)
    for ((step, change), inverse), share in zip(known, reversed(shares), strict=True):
        vector += (share - inverse * change.dot(vector)) * step
    norm = vector.norm()
    return -vector / norm if norm else vector


def _length(trips: Trips, scheme: Fastest, direction: Tensor, at_zero: Tensor, gradient: Tensor) -> float:
    """The minimiser along ``direction`` by the curvature that the second round trip finds; 0 where it finds none."""
    there = trips.gradient(direction)
    weights = torch.as_tensor(scheme.weights(scheme.responders), dtype=there.dtype)
    curvature = float(direction.dot(there - weights @ at_zero))
    return -float(direction.dot(gradient)) / curvature if curvature > 0 else 0.0
