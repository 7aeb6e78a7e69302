"""The mean of a random time from its distribution."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from numpy.polynomial import Legendre

from gradcode.errors import GradcodeWarning
from gradcode.planning.hierarchical.system import Floats

NEGLIGIBLE = 1e-12
# Gauss and Lobatto's nodes: the ends are among them, so that no jump is hidden between an end and the next node.
_NODES = np.concatenate([[-1.0], np.sort(Legendre.basis(7).deriv().roots()), [1.0]])
_WEIGHTS = 2 / (8 * 7 * Legendre.basis(7)(_NODES) ** 2)
# A rule of lower order on six of them: at a jump two of three estimates may agree by accident, hardly all.
_SIX = np.array([0, 1, 3, 4, 6, 7])
_FEWER = np.zeros(8)
_FEWER[_SIX] = np.linalg.solve(np.vander(_NODES[_SIX], increasing=True).T, [2, 0, 2 / 3, 0, 2 / 5, 0])
_RULES = np.stack([_WEIGHTS, _FEWER], axis=1)
_INTERVALS = 8
_ROUNDS = 60  # an interval halved so often is as narrow as rounding allows
_WORK = 1e9  # some ten seconds


def mean_time(
    survival: Callable[[Floats], Floats], start: float, stop: float, work: float, accuracy: float = 1e-6
) -> float:
    """E[T] = start + ∫ P(T > t) dt from ``start`` to ``stop``.

    Deterministic parts give the integrand kinks and jumps, as many as there are sums of attempts, so no fixed grid
    suits: intervals are halved where rules on the whole and on the halves disagree.

    Args:
        survival: (points,) times -> P(T > t), not increasing.
        start: where it is still 1.
        stop: where it is negligible.
        work: floating-point steps per time, roughly; where it takes too many times, a warning says what was reached.
        accuracy: relative, of the result; the disagreements left add up to no more.
    """
    points = max(_WORK / work, 1000.0)
    shortened, end = _narrowed(survival, start, stop)
    edges = np.linspace(shortened, end, _INTERVALS + 1)
    low, high = edges[:-1], edges[1:]
    whole, _ = _gauss(survival, low, high)
    total = 0.0
    budget = accuracy * max(shortened + whole.sum(), np.finfo(float).tiny)
    for _ in range(_ROUNDS):
        middle = (low + high) / 2
        halves, rough = _gauss(survival, np.stack([low, middle]), np.stack([middle, high]))
        better = halves.sum(axis=0)
        error = np.maximum(np.abs(better - whole), np.abs(better - rough.sum(axis=0)))
        order = np.argsort(error)
        spent = np.cumsum(error[order])
        # Half of what is left, so that many small disagreements leave something for a jump.
        settled = order[spent <= (budget if spent[-1] <= budget else budget / 2)]
        budget -= float(error[settled].sum())
        total += float(better[settled].sum())
        rest = np.setdiff1d(order, settled)
        points -= halves.size * len(_NODES)
        if points < 0 and len(rest):
            total += float(better[rest].sum())
            _warn(float(error[rest].sum()) / (shortened + total), accuracy)
            break
        if not len(rest):
            break
        low, high = np.concatenate([low[rest], middle[rest]]), np.concatenate([middle[rest], high[rest]])
        whole = halves[:, rest].ravel()
    else:
        total += float(whole.sum())
    return shortened + total


def _warn(reached: float, accuracy: float) -> None:
    if reached > 10 * accuracy:
        warnings.warn(
            f"an expected time is known to {reached:.0e} of its value only: failures this likely give its distribution "
            f"too many steps. Check it by monte_carlo, which gives its standard error",
            GradcodeWarning,
            stacklevel=4,
        )


def _narrowed(survival: Callable[[Floats], Floats], start: float, stop: float) -> tuple[float, float]:
    """The part of [start, stop] where the probability is neither 1 nor negligible."""
    for _ in range(3):
        times = np.linspace(start, stop, 17)
        late = survival(times)
        certain, possible = int((late > 1 - NEGLIGIBLE).sum()), int((late > NEGLIGIBLE).sum())
        start, stop = float(times[max(certain - 1, 0)]), float(times[min(possible, len(times) - 1)])
    return start, stop


def _gauss(survival: Callable[[Floats], Floats], low: Floats, high: Floats) -> tuple[Floats, Floats]:
    """The integral over each interval, by a rule and by one of lower order."""
    half = (high - low)[..., None] / 2
    times = low[..., None] + half * (1 + _NODES)
    found = (survival(times.ravel()).reshape(times.shape) * half) @ _RULES
    return found[..., 0], found[..., 1]
