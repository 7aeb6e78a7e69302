"""The problems of the spec's section 5, and the ways to place them on workers.

How the data are drawn is not said there: standard normal features, parameters and noise are OURS, chosen because the
expected numbers come out of them. The coordinate descent problem has no regulariser, for the same reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from gradcode import schemes
from gradcode.clusters import SimulatedCluster
from gradcode.codes import encoders
from gradcode.delays import Delays
from gradcode.delays.law import Source
from gradcode.protocol import Floats, Scheme
from gradcode.session import Session
from gradcode.solvers import Solution
from gradcode.training import EncodedLeastSquares, LeastSquares
from gradcode.training.quadratic import LinearObjective

WORKERS = 16
REDUNDANCY = 2

Solver = Callable[[Session], Solution]
Placed = tuple[LinearObjective, Scheme]
ENCODERS: dict[str, Callable[[int, np.random.Generator], encoders.Encoder]] = {
    "hadamard": lambda samples, rng: encoders.hadamard(samples, REDUNDANCY, rng=rng),
    "gaussian": lambda samples, rng: encoders.gaussian(samples, REDUNDANCY, rng=rng),
    "replication": lambda samples, rng: encoders.replication(samples, REDUNDANCY),
    "uncoded": lambda samples, rng: encoders.replication(samples, 1),
}
COLOURS = {"hadamard": "#0072B2", "gaussian": "#CC79A7", "uncoded": "#D55E00", "replication": "#009E73"}


@dataclass(frozen=True, eq=False)
class Problem:
    """f(w) = ‖Xw − y‖²/(2n) + (λ/2)‖w‖² + µ‖w‖₁ with y = Xw₀ + noise.

    Attributes:
        features, targets: X, (n, p), and y, (n,).
        truth: w₀, (p,).
        regularisation, penalty: λ and µ.
    """

    features: Floats
    targets: Floats
    truth: Floats
    regularisation: float = 0.0
    penalty: float = 0.0

    @cached_property
    def uncoded(self) -> LeastSquares:
        """Without µ."""
        return LeastSquares(self.features, self.targets, 1, self.regularisation)

    @cached_property
    def optimum(self) -> Tensor:
        """w*, (p,)."""
        if not self.penalty:
            return self.uncoded.minimiser()
        rate, w = 1 / self.uncoded.smoothness(), torch.zeros(self.features.shape[1], dtype=torch.float64)
        hessian = self.uncoded.features.T @ self.uncoded.features / self.uncoded.samples
        start = self.uncoded.gradient(w)
        for _ in range(1000):
            w = torch.nn.functional.softshrink(w - rate * (hessian @ w + start), rate * self.penalty)
        return w

    @cached_property
    def best(self) -> float:
        """f*."""
        return self.value(self.optimum)

    def value(self, parameters: Tensor) -> float:
        """f."""
        return self.uncoded.loss(parameters) + self.penalty * float(parameters.abs().sum())

    def placed(self, encoder: encoders.Encoder, k: int) -> Placed:
        """The objective and the scheme that waits for k of ``WORKERS`` workers; of copies of a part one counts."""
        own = self.features, self.targets
        if isinstance(encoder, encoders.Replication):
            parts = LeastSquares(*own, WORKERS // encoder.copies, self.regularisation)
            return parts, schemes.fastest(WORKERS, k, replicas=encoder.copies)
        return EncodedLeastSquares(*own, encoder, WORKERS, self.regularisation), schemes.fastest(WORKERS, k)


def drawn(
    rng: np.random.Generator,
    samples: int,
    features: int,
    nonzero: int | None = None,
    scale: float = 1.0,
    regularisation: float = 0.0,
    penalty: float = 0.0,
) -> Problem:
    """Standard normal X and noise; w₀ is ``scale`` times standard normal in ``nonzero`` places (None: all)."""
    matrix, truth = rng.standard_normal((samples, features)), np.zeros(features)
    places = rng.permutation(features)[:nonzero]
    truth[places] = scale * rng.standard_normal(len(places))
    targets = matrix @ truth + rng.standard_normal(samples)
    return Problem(matrix, targets, truth, regularisation, penalty)


def ridge(rng: np.random.Generator) -> Problem:
    """n = 512, p = 64, λ = 0.05."""
    return drawn(rng, 512, 64, regularisation=0.05)


def lasso(rng: np.random.Generator) -> Problem:
    """n = 512, p = 128, 10 non-zeros of standard deviation 4, µ = 0.1."""
    return drawn(rng, 512, 128, nonzero=10, scale=4.0, penalty=0.1)


def coordinates(rng: np.random.Generator) -> Problem:
    """n = 256, p = 64, λ = 0."""
    return drawn(rng, 256, 64)


def small(rng: np.random.Generator) -> Problem:
    """n = 128, p = 20, λ = 0: few enough samples that some of them matter."""
    return drawn(rng, 128, 20)


def solve(solver: Solver, placed: Placed, delays: Delays | Source, seed: int) -> Solution:
    """What the solver finds on a simulated cluster with these delays."""
    objective, scheme = placed
    cluster = SimulatedCluster(scheme.workers, delays, seed=seed)
    with Session.of(objective, scheme, cluster, seed) as session:
        return solver(session)
