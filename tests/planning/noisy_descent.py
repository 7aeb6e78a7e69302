"""Gradient descent with coded one-bit messages, many runs side by side, on problems whose constants are known."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy.optimize import minimize

from gradcode import codes
from gradcode.compression import Compressor, OneBit
from gradcode.delays.law import Floats
from gradcode.planning import one_bit

WORKERS, LENGTH, ROWS = 10, 6, 8  # and as many partitions as workers, of so many rows
P = 0.2


@dataclass(frozen=True)
class Problem:
    """F(θ) = (1/n)·Σ_i ℓ(x_i·θ, y_i) + (λ/2)‖θ‖², here logistic regression; partitions are of equal size.

    λθ is added at the master, as weight decay of the optimizer: so it is exact, and a fixed range never clips.
    """

    ridge: float = 0.0
    seed: int = 0

    bend = 0.25  # the largest |ℓ''| of log(1 + exp(−y·z)),
    steep = 1.0  # and the largest |ℓ'|

    @cached_property
    def data(self) -> tuple[Floats, Floats]:
        """(n, D) and (n,) labels −1 and 1; every partition leans another way, and no plane separates the labels."""
        rng = np.random.default_rng(self.seed)
        rows = rng.standard_normal((WORKERS, ROWS, LENGTH)) + 0.5 * rng.standard_normal((WORKERS, 1, LENGTH))
        rows = rows.reshape(-1, LENGTH)
        labels = np.sign(rows @ rng.standard_normal(LENGTH) + 2.0 * rng.standard_normal(len(rows)))
        return rows, labels

    @cached_property
    def smoothness(self) -> float:
        """L: the largest ℓ'' times the largest eigenvalue of XᵀX/n, and λ."""
        rows, _ = self.data
        return self.bend * float(np.linalg.eigvalsh(rows.T @ rows / len(rows))[-1]) + self.ridge

    def losses(self, z: Floats, y: Floats) -> Floats:
        return np.logaddexp(0.0, -y * z)

    def slopes(self, z: Floats, y: Floats) -> Floats:
        return -y / (1 + np.exp(y * z))

    def value(self, theta: Floats) -> Floats:
        """F of (..., D)."""
        rows, y = self.data
        return self.losses(theta @ rows.T, y).mean(axis=-1) + self.ridge / 2 * (theta**2).sum(axis=-1)

    def gradients(self, theta: Floats) -> Floats:
        """g_k of every partition, (..., K, D), which add up to the gradient, but for λθ."""
        rows, y = self.data
        slopes = self.slopes(theta @ rows.T, y).reshape(-1, WORKERS, ROWS).swapaxes(0, 1)
        parts = (slopes @ rows.reshape(WORKERS, ROWS, LENGTH)).swapaxes(0, 1) / len(rows)
        return parts.reshape(*theta.shape[:-1], WORKERS, LENGTH)

    def gradient(self, theta: Floats) -> Floats:
        """∇F, (..., D)."""
        return self.gradients(theta).sum(axis=-2) + self.ridge * theta

    @cached_property
    def largest(self) -> Floats:
        """(K, D): no coordinate of a g_k is ever above it."""
        return self.steep * np.abs(self.data[0]).reshape(WORKERS, ROWS, LENGTH).sum(axis=1) / len(self.data[0])

    @cached_property
    def optimum(self) -> Floats:
        """θ*, of a convex problem."""
        found = minimize(self.value, np.zeros(LENGTH), jac=self.gradient, options={"gtol": 1e-12})
        assert np.linalg.norm(self.gradient(found.x)) < 1e-8
        return found.x


class Sigmoid(Problem):
    """ℓ(z, y) = ½(σ(z) − t)² with t = 1 for y = 1, 0 for y = −1: smooth, and not convex.

    With s = σ(z), σ' = s(1 − s) and σ'' = σ'·(1 − 2s): for t = 0, ℓ'' = σ'² + s·σ'' = s²(1 − s)(2 − 3s), whose
    derivative s(4 − 15s + 12s²) vanishes at s = (15 ∓ √33)/24, where ℓ'' is 0.0770 and −0.0602; for t = 1 the same with
    1 − s in place of s. So |ℓ''| ≤ 0.0771, and F ≥ 0.
    """

    bend = 0.0771
    steep = 4 / 27  # (1 − s)·s(1 − s) at s = 1/3

    def losses(self, z: Floats, y: Floats) -> Floats:
        return (1 / (1 + np.exp(-z)) - (y + 1) / 2) ** 2 / 2

    def slopes(self, z: Floats, y: Floats) -> Floats:
        s = 1 / (1 + np.exp(-z))
        return (s - (y + 1) / 2) * s * (1 - s)


@dataclass(frozen=True)
class Setting:
    """A problem, who holds what of it and what is sent."""

    problem: Problem
    replication: int
    range: one_bit.Range | None
    workers: int = WORKERS
    allocation: str = "cyclic"

    @cached_property
    def encoding(self) -> Floats:
        """(N, K), with the weights 1/(1 − p)."""
        code = codes.stochastic(self.workers, WORKERS, self.replication, allocation=self.allocation)
        return np.asarray(code.encoding) / (1 - P)

    @cached_property
    def bound(self) -> float | None:
        """r of a fixed range, of weighted messages: they are never above it."""
        return float((self.encoding @ self.problem.largest).max()) if self.range == "fixed" else None

    def messages(self, theta: Floats) -> Floats:
        """h_i, (..., N, D)."""
        return self.encoding @ self.problem.gradients(theta)

    def noise(self, path: Floats) -> one_bit.Noise:
        """What the bounds are to be given: at most V along the path."""
        return one_bit.noise_along(self.messages(path), P, self.range, self.bound)

    def sent(self, messages: Floats, key: tuple[int, ...]) -> Floats:
        """What the master reads of them.

        Q(h) = r·Q(h/r): so the package's compressor does all messages of all runs at once, in the range [−1, 1].
        """
        if self.range is None:
            return messages
        r = one_bit.ranges(messages, self.range, self.bound)[..., None]
        scaled = np.divide(messages, r, out=np.zeros_like(messages), where=r > 0)
        compressor = OneBit("fixed", 1.0)
        assert compressor.clipped(torch.from_numpy(scaled)) == 0
        return r * passed(compressor, scaled, key)


def passed(compressor: Compressor, vector: Floats, key: tuple[int, ...]) -> Floats:
    """C(x), through bytes."""
    flat = torch.from_numpy(np.ascontiguousarray(vector).reshape(-1))
    message = torch.empty(compressor.size(len(flat), 8), dtype=torch.uint8)
    out = torch.empty_like(flat)
    compressor.decompress(message[: compressor.compress(flat, message, key)], out)
    return out.numpy().reshape(vector.shape)


def descend(setting: Setting, start: Floats, steps: Floats, runs: int, seed: int = 1) -> Floats:
    """θ⁰, ..., θ^T of all runs, (T + 1, runs, D); workers straggle independently with probability P."""
    rng = np.random.default_rng(seed)
    path = np.empty((len(steps) + 1, runs, LENGTH))
    path[0] = start
    for t, step in enumerate(steps):
        sent = setting.sent(setting.messages(path[t]), (seed, t, 0))
        there = rng.random((runs, setting.workers, 1)) >= P
        path[t + 1] = path[t] - step * ((there * sent).sum(axis=1) + setting.problem.ridge * path[t])
    return path
