"""Least squares trained lazily without noise, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

import gradcode
from gradcode.training import LeastSquares

WORKERS, FEATURES = 12, 50


@dataclass(frozen=True)
class Descent:
    """What a training was: θ^0 … θ^k, the gradients used, the reports and who was selected."""

    points: list[torch.Tensor]
    gradients: list[torch.Tensor]
    reports: list[gradcode.Report]
    selected: list[tuple[int, ...]]

    @property
    def uploads(self) -> list[int]:
        return [report.uploads for report in self.reports]

    @property
    def downloads(self) -> list[int]:
        return [report.downloads for report in self.reports]


def diagonal(partitions: int = WORKERS, workers: int = WORKERS) -> LeastSquares:
    """E1 of lagc.md 8, divided by its M·50 samples: partition m has curvature (1 + 1.3^m)² along coordinate m."""
    rows = [np.eye(FEATURES) for _ in range(workers)]
    for m, own in enumerate(rows):
        own[m, m] += 1.3**m
    return LeastSquares(np.concatenate(rows), np.ones(workers * FEATURES), partitions)


def random_problem(rng: np.random.Generator, partitions: int, features: int = 4) -> LeastSquares:
    """Partitions of unequal curvature and size, strongly convex."""
    samples = 3 * partitions + 1
    scale = np.repeat(rng.uniform(0.2, 3.0, partitions), -(-samples // partitions))[:samples]
    rows = scale[:, None] * rng.standard_normal((samples, features))
    return LeastSquares(rows, rng.standard_normal(samples), partitions, regularisation=0.1)


def descend(
    scheme: Any,
    objective: LeastSquares,
    step_size: float,
    iterations: int,
    delays: Any = None,
    losses: Sequence[Sequence[float]] = (),
    until: float = 0.0,
) -> Descent:
    """Plain gradient steps from 0, at most so many, or until F − F* ≤ ``until``."""
    descent = Descent([], [], [], [])
    best = minimum(objective) if until else 0.0
    cluster = gradcode.SimulatedCluster(scheme.workers, delays, losses=losses, seed=0)
    with gradcode.Session.of(objective, scheme, cluster, listeners=[descent.reports.append]) as session:
        theta = objective.model.theta
        with torch.no_grad():
            theta.zero_()
        optimizer = torch.optim.SGD([theta], lr=step_size)
        session.optimizer = optimizer
        for _ in range(iterations):
            descent.points.append(theta.detach().clone())
            if until and objective.loss(theta.detach()) - best <= until:
                break
            for step in session.epoch():
                step.backward()
            descent.gradients.append(theta.grad.clone())
            descent.selected.append(tuple(getattr(scheme, "selected", ())))
            optimizer.step()
    return descent


def minimum(objective: LeastSquares) -> float:
    """F* of a least squares objective."""
    zero = torch.zeros(objective.length, dtype=torch.float64)
    basis = torch.eye(objective.length, dtype=torch.float64)
    offset = objective.gradient(zero)
    hessian = torch.stack([objective.gradient(direction) - offset for direction in basis])
    return objective.loss(torch.linalg.solve(hessian, -offset))
