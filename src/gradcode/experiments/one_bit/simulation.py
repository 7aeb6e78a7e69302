"""The problem of one_bit.md 11, and trainings on it without a cluster: all step sizes of a method at once.

A :class:`~gradcode.session.Session` on a simulated cluster computes the same, iteration by iteration, as the tests
hold it to; but one training at a time, message by message.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gradcode import codes
from gradcode.compression import Differences, ErrorFeedback, Plain
from gradcode.experiments.one_bit.messages import decoded
from gradcode.protocol import Floats

Codec = Plain | ErrorFeedback | Differences
Answers = npt.NDArray[np.bool_]

LOST = 1e6
"""Times F(θ⁰): a training whose loss is beyond that has diverged."""


@dataclass(frozen=True)
class Problem:
    """F(θ) = Σ_k ½(z_kᵀθ − y_k)²: linear regression with one sample per partition, a sum as in the specification.

    Args:
        rows: z_k, (M, D).
        targets: y_k, (M,).
    """

    rows: Floats
    targets: Floats

    @classmethod
    def drawn(cls, partitions: int, coordinates: int, seed: int) -> Problem:
        """z_k and θ_true standard normal, y_k = z_kᵀθ_true + N(0, 1); that θ_true is normal is OURS."""
        rng = np.random.default_rng(seed)
        rows, truth = rng.standard_normal((partitions, coordinates)), rng.standard_normal(coordinates)
        return cls(rows, rows @ truth + rng.standard_normal(partitions))

    @property
    def optimum(self) -> Floats:
        """θ*, (D,)."""
        return np.asarray(np.linalg.lstsq(self.rows, self.targets)[0])

    @property
    def least(self) -> float:
        """F*."""
        return float(self.losses(self.optimum[None])[0])

    @property
    def convexity(self) -> float:
        """µ, the least eigenvalue of F's Hessian (there are at least as many partitions as coordinates)."""
        return float(np.linalg.norm(self.rows, -2) ** 2)

    @property
    def smoothness(self) -> float:
        """L, its largest eigenvalue."""
        return float(np.linalg.norm(self.rows, 2) ** 2)

    def losses(self, theta: Floats) -> Floats:
        """F of each of (R, D) points, (R,)."""
        return np.asarray(((theta @ self.rows.T - self.targets) ** 2).sum(axis=-1) / 2)

    def gradients(self, theta: Floats) -> Floats:
        """g_k = (z_kᵀθ − y_k)·z_k at each of (R, D) points, (R, M, D)."""
        return np.asarray((theta @ self.rows.T - self.targets)[..., None] * self.rows)


def weights(workers: int, partitions: int, replication: int, straggling: float, seed: int) -> Floats:
    """(N, M) coefficients S_ik/(d(1 − p)) of one_bit.md, eq. (1); without redundancy partition k is on worker k."""
    allocation = "cyclic" if replication == 1 else "random"
    code = codes.stochastic(workers, partitions, replication, allocation=allocation, rng=seed)
    return np.asarray(code.encoding / (1 - straggling))


def answering(iterations: int, workers: int, straggling: float, seed: int) -> Answers:
    """(T, N) who answers, each worker with probability 1 − p and independently."""
    return np.random.default_rng([seed, workers]).random((iterations, workers)) >= straggling


def train(
    problem: Problem,
    coefficients: Floats,
    codec: Codec | None,
    rates: Floats,
    answers: Answers,
    seed: int,
    start: Floats | None = None,
    look: Callable[[int, Floats], None] | None = None,
) -> Floats:
    """R trainings with the same stragglers: θ ← θ − γ_t·ĝ (one_bit.md, eq. 4; with error feedback eq. 9).

    Args:
        problem: F.
        coefficients: (N, M) of the workers' messages h_i = Σ_k coefficients_ik·g_k.
        codec: what they travel through; None: they are sent as they are.
        rates: γ_t of each training, (T, R).
        answers: (T, N).
        seed: of the compressor.
        start: θ⁰, (D,); None: 0.
        look: is shown t and θ^t, (R, D), before every iteration.

    Returns:
        (T + 1, R) F(θ^t) for t = 0, …, T; inf from where a training has diverged.
    """
    iterations, runs = rates.shape
    length = problem.rows.shape[1]
    theta = np.tile(np.zeros(length) if start is None else start, (runs, 1))
    memory = np.zeros((runs, len(coefficients), length))
    losses = np.full((iterations + 1, runs), np.inf)
    alive = np.ones(runs, dtype=np.bool_)
    for t in range(iterations):
        if look is not None:
            look(t, theta)
        losses[t, alive] = problem.losses(theta)[alive]
        alive &= losses[t] <= LOST * losses[0]
        theta[~alive], memory[~alive] = 0.0, 0.0
        rate = np.where(alive, rates[t], 0.0)[:, None, None]
        up, key = np.flatnonzero(answers[t]), (seed, t)
        if codec is None:
            residuals = theta @ problem.rows.T - problem.targets
            theta -= rate[:, 0] * ((residuals * coefficients[up].sum(axis=0)) @ problem.rows)
            continue
        h = coefficients[up] @ problem.gradients(theta)
        match codec:
            case Plain(compressor):
                moved = rate * decoded(compressor, h, key)
            case ErrorFeedback(compressor):  # the memory is in units of the parameters
                a = rate * h + memory[:, up]
                moved = decoded(compressor, a, key)
                memory[:, up] = a - moved
            case Differences(compressor, share):
                known = memory[:, up]
                change = decoded(compressor, h - known, key)
                memory[:, up] = known + share * change
                moved = rate * (known + change)
        theta -= moved.sum(axis=1)
    losses[-1, alive] = problem.losses(theta)[alive]
    return losses
