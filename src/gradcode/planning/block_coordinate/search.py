"""The search for the best shares, and the bound: E[τ] from its tangent planes (spec, 4.2; in this form OURS).

E, of the shares on the allowed levels for L = κ = 1, is convex and homogeneous of degree 1. So every gradient G of it,
anywhere, is a plane below: G·y ≤ E(y) for all shares y, and min_n G_n bounds E from below. So does every mean of
gradients; the best mean is a linear program.
"""

from __future__ import annotations

import numpy as np

from gradcode.delays.law import Floats, Law
from gradcode.planning.block_coordinate.expected import Integral, jumps, ranks
from gradcode.planning.block_coordinate.model import Indices
from gradcode.planning.block_coordinate.race import success
from gradcode.planning.block_coordinate.simplex import descend

_STEPS = 400  # evaluations of a descent
_CUTS = 150  # of the cutting planes after it
_WORK = 3e8  # operations for E of a law with jumps, a fraction of a second
_DRAWN = 4_000_000  # numbers in the draws where that is not enough
_KINKED_ACCURACY = 1e-5  # many kinks take many planes
_DRAWN_ACCURACY = 1e-4  # an average over draws is not worth more


def search(
    law: Law, workers: int, levels: Indices, start: Floats, tolerance: float, rng: np.random.Generator
) -> Search:
    """Minimises E over the shares on ``levels``, from ``start``, until bound ≥ (1 − tolerance)·value if it can."""
    points = jumps(law)
    if points is None:
        found = Search(law, workers, levels, tolerance)
    elif 20 * len(points) * workers**3 <= _WORK:
        found = _Stepped(law, workers, levels, max(tolerance, _KINKED_ACCURACY))
    else:
        found = _Drawn(law, workers, levels, max(tolerance, _DRAWN_ACCURACY))
        found.draw(rng)
    found(start)
    descend(found, start, _STEPS, found.near)
    found.tighten()
    if not found.near():
        found.cut()
    return found


class Search:
    """E and its gradient, remembered: the best shares, its value and gradient there, and the bound."""

    exact = True

    def __init__(self, law: Law, workers: int, levels: Indices, tolerance: float) -> None:
        self.law, self.workers, self.levels, self.tolerance = law, workers, levels, tolerance
        self.value, self.bound = np.inf, 0.0
        self.best, self.slopes = np.zeros(len(levels)), np.zeros(len(levels))
        self.gradients: list[Floats] = []
        self._tightened = 0

    def __call__(self, shares: Floats) -> tuple[float, Floats]:
        """ln E and its gradient."""
        sizes = np.zeros(self.workers)
        sizes[self.levels] = shares
        value, by_load = self.oracle(np.cumsum(np.arange(1, self.workers + 1) * sizes))
        gradient = (self.levels + 1) * np.cumsum(by_load[::-1])[::-1][self.levels]
        self.gradients.append(gradient)
        self.bound = max(self.bound, float(gradient.min()))
        if value < self.value:
            self.value, self.best, self.slopes = value, shares, gradient
        return float(np.log(value)), gradient / value

    def oracle(self, work: Floats) -> tuple[float, Floats]:
        """E and ∂E/∂S_n, (N,)."""
        return Integral(work, self.law).gradient()

    def near(self) -> bool:
        """Whether the gap is small; the linear program is solved where the last gradients say that it may be."""
        last = max(float(gradient.min()) for gradient in self.gradients[-5:])
        if last > (1 - 1000 * self.tolerance) * self.value and len(self.gradients) >= self._tightened + 5:
            self.tighten()
        return self.bound >= (1 - self.tolerance) * self.value

    def tighten(self) -> None:
        """Raises the bound to the best mean of the gradients."""
        from scipy.optimize import linprog

        self._tightened = len(self.gradients)
        planes = np.array(self.gradients).T / self.value
        levels, number = planes.shape
        solution = linprog(
            np.append(np.zeros(number), -1.0),
            A_ub=np.column_stack([-planes, np.ones(levels)]),
            b_ub=np.zeros(levels),
            A_eq=[np.append(np.ones(number), 0.0)],
            b_eq=[1.0],
            bounds=[(0, None)] * number + [(None, None)],
            method="highs",
        )
        if solution.x is not None:
            # The weights may be off by the solver's tolerance; a mean of gradients is a bound with any weights.
            weights = np.maximum(solution.x[:-1], 0.0)
            self.bound = max(self.bound, self.value * float((planes @ weights).min() / weights.sum()))

    def cut(self) -> None:
        """Minimises the highest of all planes, in a box around the best that grows and shrinks with success.

        For kinks, at which a descent stops: a law with few jumps, or a share that should be 0.
        """
        from scipy.optimize import linprog

        radius = 0.01
        for _ in range(_CUTS):
            planes = np.array(self.gradients) / self.value
            solution = linprog(
                np.append(np.zeros(len(self.levels)), 1.0),
                A_ub=np.column_stack([planes, -np.ones(len(planes))]),
                b_ub=np.zeros(len(planes)),
                A_eq=[np.append(np.ones(len(self.levels)), 0.0)],
                b_eq=[1.0],
                bounds=[
                    *zip(np.maximum(self.best - radius, 0), np.minimum(self.best + radius, 1), strict=True),
                    (0, 2),
                ],
                method="highs",
            )
            if solution.x is None:
                break
            shares = np.maximum(solution.x[:-1], 0.0)
            before, hoped = self.value, 1 - float(solution.x[-1])
            if hoped > self.tolerance / 10:
                self(shares / shares.sum())
                won = 1 - self.value / before
                radius = min(radius * (2 if won > hoped / 2 else 1 if won > hoped / 10 else 0.5), 1.0)
            else:
                if radius >= 1:
                    break
                radius = min(4 * radius, 1.0)
            if self.near():
                return
        self.tighten()


class _Stepped(Search):
    """The same for a law with jumps: τ is one of the products S_n·T, and P(τ ≤ ·) is known between them."""

    def oracle(self, work: Floats) -> tuple[float, Floats]:
        points = jumps(self.law)
        assert points is not None
        level, point = np.divmod(np.arange(len(work) * len(points)), len(points))
        products = np.multiply.outer(work, points).ravel()
        times, first = np.unique(products, return_index=True)
        middle = np.append((times[1:] + times[:-1]) / 2, 2 * times[-1])
        there = success(ranks(work, self.law, middle))
        mass = np.diff(there, prepend=0.0)
        gradient: Floats = np.bincount(level[first], points[point[first]] * mass, minlength=len(work)).astype(float)
        return float(gradient @ work), gradient


class _Drawn(Search):
    """The same for an average over draws."""

    exact = False

    def draw(self, rng: np.random.Generator) -> None:
        """Fixes the draws."""
        number = max(min(20_000, _DRAWN // self.workers), 1000)
        times = np.sort(self.law.sample(rng, (number, self.workers)), axis=1)
        self._times = np.ascontiguousarray(times[:, ::-1])

    def oracle(self, work: Floats) -> tuple[float, Floats]:
        last = (self._times * work).argmax(axis=1)
        slowest = self._times[np.arange(len(last)), last]
        gradient = np.bincount(last, slowest, minlength=self.workers) / len(last)
        return float(gradient @ work), gradient
