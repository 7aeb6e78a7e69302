from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import Tensor

import gradcode
from gradcode import codes, delays, schemes
from gradcode.training import LeastSquares, Logistic
from gradcode.training.quadratic import LinearObjective

L = 5


def data(samples: int = 23) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    return rng.standard_normal((samples, L)), rng.standard_normal(samples), rng.choice([-1.0, 1.0], samples)


@pytest.fixture(params=["least squares", "logistic"])
def objective(request: pytest.FixtureRequest) -> LinearObjective:
    features, values, labels = data()
    if request.param == "logistic":
        return Logistic(features, labels, partitions=4, regularisation=0.3)
    return LeastSquares(features, values, partitions=4, regularisation=0.3)


def mean_loss(objective: LinearObjective, theta: Tensor, chosen: slice = slice(None)) -> Tensor:
    """The documented formula, for autograd."""
    features, values, labels = (torch.from_numpy(array)[chosen] for array in data())
    predictions = features @ theta
    if isinstance(objective, Logistic):
        each = torch.log1p(torch.exp(-labels * predictions))
    else:
        each = (predictions - values) ** 2 / 2
    return each.mean() + 0.3 / 2 * theta.dot(theta)


def test_closed_form_is_autograds(objective: LinearObjective) -> None:
    theta = torch.linspace(-1, 1, L, dtype=torch.float64, requires_grad=True)
    loss = mean_loss(objective, theta)
    (gradient,) = torch.autograd.grad(loss, theta)
    assert objective.loss(theta.detach()) == pytest.approx(float(loss.detach()), rel=1e-13)
    torch.testing.assert_close(objective.gradient(theta.detach()), gradient, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("together", [False, True])
def test_partitions_are_autograds_and_unequal(objective: LinearObjective, together: bool) -> None:
    theta = torch.linspace(-1, 1, L, dtype=torch.float64)
    sizes = objective.sizes(0)
    assert sorted(sizes.tolist()) == [5, 6, 6, 6]
    source = objective.copy()
    source.bind(theta, torch.empty(0, dtype=torch.float64), 0)
    source.refresh()
    if together:
        source.prepare(0)
    out, expected, start = torch.full((L,), torch.nan, dtype=torch.float64), torch.zeros(L, dtype=torch.float64), 0
    for j, size in enumerate(sizes):
        free = theta.clone().requires_grad_()
        loss = mean_loss(objective, free, slice(start, start + size))
        expected += (j - 1.5) * size / sizes.sum() * torch.autograd.grad(loss, free)[0]
        statistics = source.accumulate(0, j, j - 1.5, out, j == 0)
        assert statistics == pytest.approx([float(loss.detach()), 1.0], rel=1e-12)
        start += size
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-14)


def test_refresh_forgets_what_was_prepared(objective: LinearObjective) -> None:
    theta = torch.zeros(L, dtype=torch.float64)
    source, out = objective.copy(), torch.empty(L, dtype=torch.float64)
    source.bind(theta, torch.empty(0, dtype=torch.float64), 0)
    source.prepare(0)
    source.accumulate(0, 0, 1.0, out, True)
    before = out.clone()
    theta += 1.0
    source.refresh()
    source.accumulate(0, 0, 1.0, out, True)
    assert not torch.equal(out, before)


def test_coded_gradient_descent_finds_the_least_squares_solution() -> None:
    features, values, _ = data()
    objective = LeastSquares(features, values, partitions=6)
    cluster = gradcode.SimulatedCluster(6, delays=delays.Exponential(1.0))
    scheme = schemes.coded(codes.fractional_repetition(6, 2, dtype="float64"))
    reports: list[gradcode.Report] = []
    with gradcode.Session.of(objective, scheme, cluster, listeners=[reports.append]) as session:
        optimizer = torch.optim.SGD(session.model.parameters(), lr=0.8)
        losses = []
        for _ in range(300):
            for step in session.epoch():
                losses.append(float(step.backward()))
                optimizer.step()
    solution = np.linalg.lstsq(features, values, rcond=None)[0]
    np.testing.assert_allclose(objective.model.theta.detach().numpy(), solution, rtol=1e-10)  # type: ignore[union-attr]
    assert losses[-1] == pytest.approx(float(((features @ solution - values) ** 2).mean() / 2), rel=1e-10)
    assert any(report.stragglers for report in reports)


def test_padding_never_counts() -> None:
    """Rows that fill up short partitions have loss log 2 and slope −1/2 under the logistic loss."""
    objective = Logistic(np.eye(3), [1.0, 1.0, -1.0], partitions=2)
    theta = torch.zeros(3, dtype=torch.float64)
    assert objective.loss(theta) == pytest.approx(np.log(2))
    assert objective.gradient(theta).tolist() == pytest.approx([-1 / 6, -1 / 6, 1 / 6])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: LeastSquares(np.ones(3), np.ones(3), 1), "features (3,) and targets (3,) must have shapes"),
        (lambda: LeastSquares(np.ones((3, 2)), np.ones(2), 1), "features (3, 2) and targets (2,) must have shapes"),
        (lambda: LeastSquares(np.ones((3, 2)), np.ones(3), 0), "partitions=0 must be from 1 to the 3 samples"),
        (lambda: LeastSquares(np.ones((3, 2)), np.ones(3), 4), "partitions=4 must be from 1 to the 3 samples"),
        (lambda: LeastSquares(np.ones((3, 2)), np.ones(3), 1, -0.1), "regularisation=-0.1 must not be negative"),
        (lambda: LeastSquares(np.ones((3, 2)), np.ones(3), 1, np.nan), "regularisation=nan must not be negative"),
        (lambda: Logistic(np.ones((2, 2)), [0.0, 1.0], 1), "labels [0.0, 1.0]; logistic regression takes -1 and 1"),
    ],
)
def test_errors(build: object, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        build()  # type: ignore[operator]
