"""The paper's way to a large completion probability: stochastic successive convex approximation (spec, 8.3)."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import gammaln

from gradcode.delays.law import Floats, Law
from gradcode.delays.laws import Exponential, ShiftedExponential
from gradcode.planning.block_coordinate.closed import by_large_threshold
from gradcode.planning.block_coordinate.model import Indices
from gradcode.planning.block_coordinate.patterns import draw_patterns, pattern_count

_STEPS = 200
_DRAWS = 500
_NEAR_OBJECTIVE, _NEAR_CONSTRAINT = 1e-5, 1e-3  # of the quadratic terms that keep a step short
_SLACK, _SPARE = 1e-6, 1e-3


def paper_shares(law: Law, workers: int, limit: float, rng: np.random.Generator, steps: int = _STEPS) -> Floats:
    """(N,) shares after so many iterations from x^(lg), for P(τ ≤ ``limit``) with L = κ = 1.

    In u (N,), the logarithms of the chances of a worker's time to lie between two levels' limits, and w = µ·t/S (N,),
    the probability is a sum over the set K (see :mod:`.patterns`), estimated from draws; every iteration minimises a
    linear model of it, averaged over the iterations, under convex constraints, by SLSQP.

    Raises:
        ValueError: the law is not a (shifted) exponential one.
    """
    if not isinstance(law, ShiftedExponential | Exponential):
        raise ValueError(f"law={law!r} must be ShiftedExponential or Exponential with method='paper'; use 'exact'")
    shift = law.shift if isinstance(law, ShiftedExponential) else 0.0
    problem = _Problem(workers, law.rate * limit, law.rate * shift)
    w = problem.scale / np.cumsum(np.arange(1, workers + 1) * by_large_threshold(workers, 1.0))
    u = problem.chances(w)
    model = np.zeros(workers)
    value, slope = 0.0, np.zeros(workers)
    for i in range(1, steps + 1):
        rho, gamma = i**-0.6, i**-0.7
        model = (1 - rho) * model + rho * problem.objective_slope(u, draw_patterns(workers, _DRAWS, rng))
        value = (1 - rho) * value + rho * problem.missing(w)
        slope = (1 - rho) * slope + rho * problem.weights / w**2
        aim_u, aim_w = problem.solve(u, w, model, value, slope)
        u, w = (1 - gamma) * u + gamma * aim_u, (1 - gamma) * w + gamma * aim_w
    work = np.maximum.accumulate(problem.scale / w)
    shares = np.diff(work, prepend=0.0) / np.arange(1, workers + 1)
    return np.asarray(shares / shares.sum())


class _Problem:
    """Values, slopes and the convex problem of one iteration."""

    def __init__(self, workers: int, scale: float, shift: float) -> None:
        n = np.arange(1.0, workers + 1)
        self.workers, self.scale, self._shift = workers, scale, shift
        self.weights = np.append(1 / (n * (n + 1))[:-1], 1 / workers)  # c_n: Σ c_n·S_n = Σ x_n
        self._log_count = math.log(pattern_count(workers))

    def chances(self, w: Floats) -> Floats:
        """u at which its constraints are tight, or as good as −∞ where a limit lies below the law's least time."""
        between = np.append(np.exp(-w[1:]) - np.exp(-w[:-1]), np.exp(-self._shift) - np.exp(-w[-1]))
        return np.asarray(np.log(np.maximum(between, 1e-12)))

    def missing(self, w: Floats) -> float:
        """How far Σ c_n·S_n is below L, over q: 0 for blocks that add up."""
        return float(1 / self.scale - (self.weights / w).sum())

    def objective_slope(self, u: Floats, patterns: Indices) -> Floats:
        """The slope, with respect to u, of minus the probability, up to its constant factor; an estimate."""
        logs = self._log_count + gammaln(self.workers + 1) - gammaln(patterns + 1).sum(axis=1) + patterns @ u
        return np.asarray(-(np.exp(logs) @ patterns) / len(patterns))

    def solve(self, u: Floats, w: Floats, model: Floats, value: float, slope: Floats) -> tuple[Floats, Floats]:
        """The best (u, w) for the linear models; where no point satisfies the constraints, the nearest to that."""
        from scipy.optimize import minimize

        n, here = self.workers, np.concatenate([u, w])
        linear = np.concatenate([np.zeros(n), slope])

        def constraints(v: Floats) -> Floats:  # all must be ≥ 0
            near = v - here
            first = _SLACK - value - linear @ near - _NEAR_CONSTRAINT * near @ near
            second = 1 / self.scale + _SPARE - (self.weights / v[n:]).sum()
            by_level = 1 - np.exp(v[: n - 1] + v[n + 1 :]) - np.exp(v[n + 1 :] - v[n:-1])
            last = np.exp(-self._shift) - np.exp(v[n - 1]) - np.exp(-v[-1])
            return np.concatenate([[first, second], by_level, [last]])

        def slopes(v: Floats) -> Floats:
            result = np.zeros((n + 2, 2 * n))
            result[0] = -linear - 2 * _NEAR_CONSTRAINT * (v - here)
            result[1, n:] = self.weights / v[n:] ** 2
            k = np.arange(n - 1)
            inner, ratio = np.exp(v[: n - 1] + v[n + 1 :]), np.exp(v[n + 1 :] - v[n:-1])
            result[k + 2, k] = -inner
            result[k + 2, n + k + 1] = -inner - ratio
            result[k + 2, n + k] = ratio
            result[-1, n - 1], result[-1, -1] = -np.exp(v[n - 1]), np.exp(-v[-1])
            return result

        def objective(v: Floats) -> tuple[float, Floats]:
            near = v - here
            gradient = 2 * _NEAR_OBJECTIVE * near
            gradient[:n] += model
            return float(model @ v[:n] + _NEAR_OBJECTIVE * near @ near), gradient

        bounds = [(-50.0, 5.0)] * n + [(1e-3, 700.0)] * n  # what no useful point leaves
        options = {"maxiter": 100, "ftol": 1e-9}
        found = minimize(
            objective,
            here,
            jac=True,
            method="SLSQP",
            bounds=bounds,
            constraints={"type": "ineq", "fun": constraints, "jac": slopes},
            options=options,
        )
        if not found.success or constraints(found.x).min() < -1e-5:
            slack = np.append(np.zeros(2 * n), 1.0)
            found = minimize(
                lambda v: (float(v[-1]), slack),
                np.append(here, max(-constraints(here).min(), 0.0)),
                jac=True,
                method="SLSQP",
                bounds=[*bounds, (0.0, None)],
                constraints={
                    "type": "ineq",
                    "fun": lambda v: constraints(v[:-1]) + v[-1],
                    "jac": lambda v: np.column_stack([slopes(v[:-1]), np.ones(n + 2)]),
                },
                options=options,
            )
        return found.x[:n], found.x[n : 2 * n]
