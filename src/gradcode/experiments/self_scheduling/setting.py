"""Workers' times, the schemes on them, and time over fluid with its standard error (self_scheduling.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

import numpy as np

from gradcode import schemes
from gradcode.delays import (
    Bernoulli,
    Delays,
    Deterministic,
    Exponential,
    Occasional,
    Pareto,
    Persistent,
    ShiftedExponential,
    Weibull,
)
from gradcode.protocol import Floats
from gradcode.schemes import fluid_bound

MICRO, NOTICE = 8, 0.002
PLACEMENTS = 10
"""Random placements over which the draws are spread."""

MODELS: dict[str, Delays] = {
    "A": Delays(ShiftedExponential(0.1, 10.0)),
    "B": Delays(Persistent(ShiftedExponential(0.1, 50.0), {0: 3.0})),
    "C": Delays(Pareto(1.5, 0.1)),
    "D": Delays(Deterministic(0.1), start=Occasional(Exponential(1 / 0.3), 0.2)),
    "Weibull": Delays(Weibull(0.7, 0.1, 0.1)),
    # In one iteration the states of independent chains are as these: slow with the stationary share.
    "Gilbert-Elliott": Delays(Bernoulli(ShiftedExponential(0.1, 100.0), 0.05 / (0.05 + 0.15), 10.0)),
}
"""Seconds of a whole share, and before which a worker is not there."""


@dataclass(frozen=True)
class Ratio:
    """Mean time over mean fluid bound.

    Attributes:
        value: the ratio of the means.
        spread: its standard error times the root of the number of draws.
        draws: how many there were.
    """

    value: float
    spread: float
    draws: int

    @classmethod
    def of(cls, times: Floats, fluid: Floats) -> Self:
        """By the delta method: the ratio R of means errs as the mean of (time − R·fluid) / (mean fluid) does."""
        value = times.mean() / fluid.mean()
        return cls(float(value), float((times - value * fluid).std() / fluid.mean()), len(times))

    def error(self, draws: int | None = None) -> float:
        """The standard error, or that which so many draws would have."""
        return float(self.spread / np.sqrt(draws or self.draws))

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.error():.3f})"


@dataclass(frozen=True)
class Draws:
    """T iterations of N workers.

    Attributes:
        seconds: X, (T, N) of a whole share.
        start: D, (T, N) before which a worker is not there.
    """

    seconds: Floats
    start: Floats

    @classmethod
    def of(cls, model: str, workers: int, samples: int, seed: int, jitter: bool = True) -> Self:
        """From ``MODELS``; in D times that would be equal differ by up to 1e-7 of them, for their order matters."""
        rng = np.random.default_rng([*model.encode(), workers, seed])
        table = MODELS[model].table(workers, int(rng.integers(2**63)))
        seconds = table.window(0, samples)[0][:, :, 0]
        start = np.array([table.start(number) for number in range(samples)])
        if model == "D" and jitter:
            seconds = seconds * (1 + 1e-7 * rng.random(seconds.shape))
        return cls(seconds, start)

    @property
    def workers(self) -> int:
        return int(self.seconds.shape[1])

    @property
    def fluid(self) -> Floats:
        """(T,) what nothing can beat."""
        return fluid_bound(self.seconds, self.workers, self.start)

    def ratio(self, times: Floats) -> Ratio:
        """Of (T,) seconds to the fluid bound."""
        return Ratio.of(times, self.fluid)

    def run(self, scheme: schemes.SelfScheduling, notice: float = NOTICE) -> Floats:
        """(T,) seconds until everything is granted; collecting the sums is not in them."""
        return scheme.granted(self.seconds / scheme.micro, notice, self.start)[0]

    def self_scheduling(
        self,
        replication: int,
        placement: Literal["cyclic", "random"] = "cyclic",
        micro: int = MICRO,
        notice: float = NOTICE,
    ) -> Ratio:
        """Time over fluid, each decision as late as can be (OURS: ``ahead=0``)."""
        if placement == "cyclic":
            return self.ratio(self.run(schemes.self_scheduling(self.workers, replication, micro, ahead=0), notice))
        times = np.empty(len(self.seconds))
        for seed in range(PLACEMENTS):
            scheme = schemes.self_scheduling(self.workers, replication, micro, placement=placement, seed=seed, ahead=0)
            own = slice(seed, None, PLACEMENTS)
            times[own] = Draws(self.seconds[own], self.start[own]).run(scheme, notice)
        return self.ratio(times)

    def exact_code(self) -> Ratio:
        """The best of s = 1, …, 4 by mean time: worker i ends at D_i + (s + 1)X_i, and N − s are waited for."""
        found = []
        for stragglers in range(1, min(4, self.workers - 1) + 1):
            ends = self.start + (stragglers + 1) * self.seconds
            place = self.workers - stragglers - 1
            found.append(self.ratio(np.partition(ends, place, axis=1)[:, place]))
        return min(found, key=lambda own: own.value)
