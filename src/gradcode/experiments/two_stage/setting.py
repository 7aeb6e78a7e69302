"""Workers, their times, and the schemes that are compared (two_stage.md 8.2)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from gradcode import schemes
from gradcode.delays import Bernoulli, Delays, DelayTable, ShiftedExponential
from gradcode.protocol import Floats
from gradcode.schemes import TwoStage
from gradcode.schemes.two_stage import Course

N, K, S = 10, 40, 2
SHIFT, RATE = 1.0, 10.0
SHARE, SLOWDOWN = 0.1, 10.0
SEED = 2022

fixed = partial(schemes.two_stage, N, S, K, rule="fixed", weight=None)
VARIANTS: dict[str, dict[str, Any]] = {
    f"M1={active}, {pool}, {mode}": {"active": active, "wait": wait, "pool": pool, "mode": mode}
    for active, wait, pool, mode in (
        (8, 6.5, "fresh", "any_s"),
        (8, 6.5, "fresh", "budget"),
        (8, 6.5, "all", "any_s"),
        (8, 6.5, "all", "budget"),
        (8, 6.5, "all", "fixed"),
        (5, 10.4, "fresh", "any_s"),
        (5, 10.4, "all", "any_s"),
    )
}
"""Two-stage coding as in 8.2: workers alike, nothing learned."""

PARTITIONED: dict[str, dict[str, Any]] = {
    f"{name}, by partition": VARIANTS[name] | {"granularity": "partition"}
    for name in ("M1=8, fresh, any_s", "M1=8, all, any_s", "M1=5, fresh, any_s", "M1=5, all, any_s")
}
"""The same with each partition reported (3.3)."""


@dataclass(frozen=True)
class Law:
    """Seconds per partition: at least ``SHIFT``, on average 1/``RATE`` more; with ``share`` all times ``slowdown``.

    Who is slow is so in both stages of an iteration; the random part is drawn anew in the second.
    """

    share: float = SHARE
    slowdown: float = SLOWDOWN

    def table(self, seed: int) -> DelayTable:
        """Draws for all schemes alike."""
        law = ShiftedExponential(SHIFT, RATE)
        process = Bernoulli(law, self.share, self.slowdown) if self.share else law
        return Delays(process, stages=2).table(N, seed)

    def draws(self, samples: int, seed: int = SEED) -> Floats:
        """(samples, N, 2) seconds per partition in each stage."""
        return self.table(seed).window(0, samples)[0]


def run(scheme: TwoStage, compute: Floats) -> Course:
    """Messages take no time."""
    return scheme.course(compute, np.zeros(compute.shape[:2]))


def wait_for(compute: Floats, wanted: int, load: int) -> Course:
    """One stage: everybody computes ``load`` partitions, and ``wanted`` messages are waited for."""
    pace = compute[:, :, 0]
    ends = load * pace
    time: Floats = np.partition(ends, wanted - 1, axis=1)[:, wanted - 1]
    begun = np.minimum(load, np.floor(time[:, None] / pace) + 1)
    samples = len(compute)
    return Course(
        time=time,
        stage1=time,
        late=np.zeros(samples, dtype=np.int64),
        missing=np.zeros(samples, dtype=np.int64),
        ordered=np.full(samples, load * N),
        started=begun.sum(axis=1),
        busy=np.minimum(ends, time[:, None]).sum(axis=1),
        sent=(ends <= time[:, None]).sum(axis=1),
        used=np.full(samples, wanted),
    )


def uncoded(compute: Floats) -> Course:
    """Waits for all."""
    return wait_for(compute, N, K // N)


def cyclic(compute: Floats, stragglers: int = S) -> Course:
    """Cyclic repetition: waits for N − s."""
    return wait_for(compute, N - stragglers, K // N * (stragglers + 1))
