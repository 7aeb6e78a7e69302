"""One-bit messages through a scheme: right on average, and exactly as noisy as the closed form says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import gradcode
from gradcode import schemes
from gradcode.delays import DelayTable
from gradcode.planning import one_bit
from gradcode.training import LeastSquares

DRAWS, P = 300, 0.2


@pytest.mark.parametrize(
    ("allocation", "workers", "partitions", "replication"),
    [("random", 6, 6, 3), ("pairwise", 8, 7, 4), ("cyclic", 6, 6, 2), ("repetition", 6, 6, 2)],
)
@pytest.mark.parametrize("range", ["linf", "l2", "fixed"])
def test_mean_and_second_moment(
    range: one_bit.Range, allocation: str, workers: int, partitions: int, replication: int
) -> None:
    """300 iterations at one point, each worker missing with probability 0.2: within 5 standard errors of both."""
    rng = np.random.default_rng(3)
    rows, values = rng.standard_normal((3 * partitions, 5)), rng.standard_normal(3 * partitions)
    objective = LeastSquares(rows, values, partitions)
    bound = 4.0 if range == "fixed" else None
    options: dict[str, Any] = {"allocation": allocation, "partitions": partitions, "rng": 2}
    scheme = schemes.one_bit(workers, replication, P, deadline=0.5, range=range, bound=bound, **options)
    away = np.where(rng.random((DRAWS, workers)) < P, np.inf, 0.0)
    away[np.isinf(away).all(axis=1), 0] = 0.0
    found = []
    cluster = gradcode.SimulatedCluster(workers, DelayTable.from_array(away))
    with gradcode.Session.of(objective, scheme, cluster) as session:
        while len(found) < DRAWS:
            next(session.epoch()).backward()
            found.append(objective.model.theta.grad.clone().numpy())
    theta = objective.model.theta.detach().numpy()
    parts = [
        a.T @ (a @ theta - b) / len(values)
        for a, b in zip(np.split(rows, partitions), np.split(values, partitions), strict=True)
    ]
    exact, draws = np.sum(parts, axis=0), np.array(found)
    assert np.abs(draws.mean(axis=0) - exact).max() <= 5 * draws.std(axis=0).max() / DRAWS**0.5
    messages = scheme.scheme.code.encoding @ np.array(parts) / (1 - P)
    squares = ((draws - exact) ** 2).sum(axis=1)
    expected = one_bit.second_moment(messages, P, range, None if bound is None else bound / (1 - P))
    assert abs(squares.mean() - expected) <= 5 * squares.std() / DRAWS**0.5
    assert torch.isfinite(torch.from_numpy(draws)).all() and len(np.unique(squares)) > DRAWS / 2
