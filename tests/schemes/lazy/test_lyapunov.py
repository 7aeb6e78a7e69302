"""Descent: the Lyapunov inequality of lagc.md 7, and what its condition leaves open."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradcode import schemes
from gradcode.schemes.lazy import safe_step
from gradcode.training import LeastSquares, Logistic
from gradcode.training.quadratic import LinearObjective
from schemes.lazy.descents import descend, minimum, random_problem

FULL: dict[str, Any] = {"minibatches": False}
WORKERS = 6


def lazy(name: str, objective: LinearObjective, xi: list[float]) -> Any:
    def constants(groups: int) -> list[float]:
        return objective.smoothness_by(groups).tolist()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        match name:
            case "LAG-WK":
                return schemes.lag(WORKERS, "worker", xi=xi, **FULL)
            case "LAG-PS":
                return schemes.lag(WORKERS, "server", xi=xi, smoothness=constants(6), **FULL)
            case "G-LAG-WK":
                return schemes.glag(WORKERS, 2, "worker", xi=xi, **FULL)
            case "G-LAG-PS":
                return schemes.glag(WORKERS, 3, "server", xi=xi, smoothness=constants(2), **FULL)
            case mode:
                return schemes.lagc(WORKERS, 2, mode, xi=xi, smoothness=constants(6), dtype="float64", **FULL)


@given(
    seed=st.integers(0, 2**32),
    name=st.sampled_from(["LAG-WK", "LAG-PS", "G-LAG-WK", "G-LAG-PS", "coded", "switch", "wait_F"]),
    total=st.sampled_from([0.1, 0.5, 0.9]),
    depth=st.integers(1, 10),
    logistic=st.booleans(),
)
@settings(max_examples=40)
def test_lyapunov_function_falls(seed: int, name: str, total: float, depth: int, logistic: bool) -> None:
    """V^{k+1} ≤ V^k − (α/2)‖∇F(θ^k)‖² for α = (1 − Σξ)/L, V^k = F(θ^k) − F* + Σ_d β_d Δ_d^k.

    β_d = (1/(2α))·Σ_{i≥d} ξ_i, and Δ_d^k = ‖θ^{k+1−d} − θ^{k−d}‖². F* falls out of the difference.
    """
    rng = np.random.default_rng(seed)
    xi = rng.dirichlet(np.ones(depth)) * total
    objective: LinearObjective = random_problem(rng, WORKERS)
    if logistic:
        rows = rng.standard_normal((20, 4)) * rng.uniform(0.3, 3.0, (20, 1))
        objective = Logistic(rows, np.sign(rng.standard_normal(20)), WORKERS, regularisation=0.05)
    step = safe_step(float(objective.smoothness()), xi.tolist())
    found = descend(lazy(name, objective, xi.tolist()), objective, step, 25)
    moves = [0.0] * depth + [
        float((b - a).square().sum()) for a, b in zip(found.points, found.points[1:], strict=False)
    ]
    beta = np.cumsum(xi[::-1])[::-1] / (2 * step)
    values = [objective.loss(point) + float(beta @ moves[k : k + depth][::-1]) for k, point in enumerate(found.points)]
    scale = abs(values[0]) + 1.0
    for k in range(len(values) - 1):
        slope = float(objective.gradient(found.points[k]).square().sum())
        assert values[k + 1] <= values[k] - step / 2 * slope + 1e-12 * scale
    # What the rule promises of the gradient that is used (★): ‖∇ − ∇F‖² ≤ Σ ξ_d Δ_d / α².
    for k, used in enumerate(found.gradients):
        off = float((used - objective.gradient(found.points[k])).square().sum())
        allowed = float(xi @ moves[k : k + depth][::-1]) / step**2
        assert off <= allowed * (1 + 1e-9) + 1e-18 * scale


@pytest.mark.parametrize("name", ["LAG-WK", "LAG-PS", "G-LAG-WK", "coded"])
def test_linear_rate(name: str) -> None:
    """F(θ^k) − F* ≤ (1 − (1 − √(Dξ))/κ)^k·V^0, in the form RECONSTRUCTED in lagc.md 7."""
    objective = random_problem(np.random.default_rng(3), WORKERS)
    largest = float(objective.smoothness())
    zero = torch.zeros(objective.length, dtype=torch.float64)
    hessian = torch.stack(
        [objective.gradient(e) - objective.gradient(zero) for e in torch.eye(objective.length, dtype=torch.float64)]
    )
    condition = largest / float(torch.linalg.eigvalsh(hessian)[0])
    for total in (0.1, 0.25, 0.5, 0.9):
        root = total**0.5
        step = (1 - root) / largest
        found = descend(lazy(name, objective, [total / 10] * 10), objective, step, 60)
        gaps = [objective.loss(point) - minimum(objective) for point in found.points]
        for k, gap in enumerate(gaps):
            assert gap <= (1 - (1 - root) / condition) ** k * gaps[0] * (1 + 1e-9) + 1e-15


def test_reported_errors_bound_the_true_ones() -> None:
    """decode_error: ‖ĝ − g‖ / Σ_j‖g_j‖, of every scheme whose constants are known."""
    objective = random_problem(np.random.default_rng(5), WORKERS)
    step = 1 / float(objective.smoothness())
    for name in ("LAG-WK", "LAG-PS", "G-LAG-WK", "G-LAG-PS", "coded", "switch", "wait_F"):
        found = descend(lazy(name, objective, [0.02] * 10), objective, step, 40)
        stale = 0
        for point, used, report in zip(found.points, found.gradients, found.reports, strict=True):
            each = objective._of(point, slice(None))[0]
            off = float((used - each.sum(0)).norm()) / float(each.norm(dim=1).sum())
            assert off <= report.decode_error
            assert report.exact == (report.decode_error < 1e-6)
            stale += not report.exact
        assert stale > 10, name


def test_constants_are_those_of_the_hessian() -> None:
    rng = np.random.default_rng(7)
    rows = rng.standard_normal((12, 3))
    objective = LeastSquares(rows, rng.standard_normal(12), 4, regularisation=0.3)
    for groups in (1, 2, 4):
        expected = [np.linalg.eigvalsh(own.T @ own)[-1] / 12 + 0.3 / groups for own in np.split(rows, groups)]
        assert objective.smoothness_by(groups) == pytest.approx(expected)
    logistic = Logistic(rows, np.sign(rng.standard_normal(12)), 4, regularisation=0.3)
    expected = [np.linalg.eigvalsh(own.T @ own)[-1] / 48 + 0.3 / 4 for own in np.split(rows, 4)]
    assert logistic.smoothness_by() == pytest.approx(expected)
    with pytest.raises(ValueError, match="groups=5 must be from 1 to the 4 partitions"):
        objective.smoothness_by(5)
