"""The methods of one_bit.md 9 and 13.2, and each at its best step size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gradcode.compression import Compressor, Differences, ErrorFeedback, GroupedSign, OneBit, Plain, RandomK, TopK
from gradcode.experiments.one_bit.simulation import Codec, Problem, answering, train, weights
from gradcode.protocol import Floats

STRAGGLING = 0.2
REPLICATION = 5
LAST = 50
"""Iterations over whose losses a gap is averaged."""

CONSTANT = 2.0 ** np.arange(-7, 2)
DECAYING = 2.0 ** np.arange(-3, 4)
"""γ·L of the grid: γ_t = γ, and γ_t = γ/√(t + 1). The grid of the expected numbers is not known."""


@dataclass(frozen=True)
class Setting:
    """N = M, D and T; ``drawn`` problems that the expected numbers are means over."""

    name: str
    workers: int
    coordinates: int
    iterations: int
    drawn: int


A = Setting("A", 100, 100, 2000, 3)
B = Setting("B", 50, 20, 1500, 5)


@dataclass(frozen=True)
class Method:
    """What workers' messages travel through, None: as they are; holders of each partition; p."""

    codec: Codec | None
    replication: int = REPLICATION
    straggling: float = STRAGGLING

    @property
    def compressor(self) -> Compressor | None:
        return None if self.codec is None else self.codec.compressor

    def bits(self, coordinates: int) -> float:
        """Of an uplink message, numbers being float32."""
        return 32.0 * coordinates if self.compressor is None else self.compressor.bits(coordinates, 4)


_FEW = 0.1
METHODS: dict[str, Method] = {
    "SGC float": Method(None),
    "1-bit linf": Method(Plain(OneBit("linf"))),
    "1-bit l2": Method(Plain(OneBit("l2"))),
    "uncoded float": Method(None, 1),
    "uncoded 1-bit linf": Method(Plain(OneBit("linf")), 1),
    "uncoded 1-bit l2": Method(Plain(OneBit("l2")), 1),
    "COCO-EF sign": Method(ErrorFeedback(GroupedSign(20))),
    "sign without feedback": Method(Plain(GroupedSign(20))),
    "COCO-EF top-K": Method(ErrorFeedback(TopK(density=_FEW))),
    "top-K without feedback": Method(Plain(TopK(density=_FEW))),
    "random-K": Method(Plain(RandomK(density=_FEW))),
    "random-K differences": Method(Differences(RandomK(density=_FEW), rate=_FEW)),
    "GD without stragglers": Method(None, 1, 0.0),
}
"""The last two are among the baselines of section 9 and not in the table. K/D is the rate 1/(1 + ω) of random-K."""


@dataclass(frozen=True)
class Best:
    """A method at the step size of the grid with the least mean gap.

    Args:
        gaps: mean of the last F − F*, of each problem, (n,).
        curves: F(θ^t) − F* of each problem, (n, T + 1).
        messages: that had been sent before each θ^t, mean over the problems, (T + 1,).
        step: γ·L.
        decaying: whether γ_t falls as 1/√(t + 1).
    """

    gaps: Floats
    curves: Floats
    messages: Floats
    step: float
    decaying: bool

    @property
    def gap(self) -> float:
        return float(self.gaps.mean())

    @property
    def error(self) -> float:
        """Standard error of the gap, over problems."""
        return float(self.gaps.std(ddof=1) / np.sqrt(len(self.gaps)))

    def spread(self, other: Best | None = None) -> float:
        """Standard deviation of one problem's gap over the mean gap; or of its ratio to another method's, likewise."""
        shares = self.gaps / self.gap
        return float((shares if other is None else shares - other.gaps / other.gap).std(ddof=1))


def best(setting: Setting, method: Method, seeds: Sequence[int], coarse: bool = False) -> Best:
    """Trains on the problem of every seed with every step size, or with every other one.

    Problems and stragglers do not depend on the method.
    """
    constant, decaying = (CONSTANT[1::2], DECAYING[::2]) if coarse else (CONSTANT, DECAYING)
    iterations, workers = setting.iterations, setting.workers
    time = np.sqrt(np.arange(1, iterations + 1))[:, None]
    grid = np.concatenate([np.broadcast_to(constant, (iterations, len(constant))), decaying / time], axis=1)
    curves, messages = [], []
    for seed in seeds:
        problem = Problem.drawn(workers, setting.coordinates, seed)
        coefficients = weights(workers, workers, method.replication, method.straggling, seed)
        answers = answering(iterations, workers, method.straggling, seed)
        losses = train(problem, coefficients, method.codec, grid / problem.smoothness, answers, seed)
        curves.append(losses - problem.least)
        messages.append(np.concatenate([[0], np.cumsum(answers.sum(axis=1))]))
    every = np.array(curves)  # (n, T + 1, R)
    gaps = every[:, -LAST:].mean(axis=1)
    chosen = int(gaps.mean(axis=0).argmin())
    step = float(np.concatenate([constant, decaying])[chosen])
    falls = chosen >= len(constant)
    return Best(gaps[:, chosen], every[:, :, chosen], np.mean(messages, axis=0), step, falls)
