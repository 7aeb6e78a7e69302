"""Shares of a whole: minimising over them, and projecting onto them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from gradcode.delays.bounds import positive, require
from gradcode.delays.law import Floats

Function = Callable[[Floats], tuple[float, Floats]]


def project(point: npt.ArrayLike, total: float) -> Floats:
    """The nearest point of {x ≥ 0, Σx = total}: max(v_n − λ, 0), with one sort for λ (spec, 4.1).

    >>> project([2.0, 2.0, -5.0], total=3.0).tolist()
    [1.5, 1.5, 0.0]
    """
    v = np.asarray(point, dtype=float)
    require(v.ndim == 1 and v.size > 0, "point.shape", v.shape, "be (N,)")
    positive("total", total)
    descending = np.sort(v)[::-1]
    cut = (np.cumsum(descending) - total) / np.arange(1, len(v) + 1)
    return np.asarray(np.maximum(v - cut[np.flatnonzero(descending > cut)[-1]], 0.0))


def descend(function: Function, start: Floats, steps: int, done: Callable[[], bool] = lambda: False) -> None:
    """Minimises over the shares x > 0 with sum 1 by L-BFGS in their logarithms; the function keeps what it has seen.

    Logarithms make the constraints vanish, and shares of any size equally easy to move. A share that should be 0 only
    tends to it.

    Args:
        function: x -> value and ∂/∂x.
        start: the first x; shares of 0 are raised to 1e-6 of the mean.
        steps: evaluations at most, roughly.
        done: asked after each step.
    """
    from scipy.optimize import minimize

    def in_logarithms(logs: Floats) -> tuple[float, Floats]:
        shares = np.exp(logs - logs.max())
        shares /= shares.sum()
        value, gradient = function(shares)
        return value, shares * (gradient - gradient @ shares)

    def stop(_: Floats) -> None:
        if done():
            raise StopIteration

    minimize(
        in_logarithms,
        np.log(np.maximum(start, 1e-6 / len(start))),
        jac=True,
        method="L-BFGS-B",
        callback=stop,
        options={"maxfun": steps, "maxiter": steps, "maxcor": 50, "ftol": 1e-15, "gtol": 1e-10},
    )
