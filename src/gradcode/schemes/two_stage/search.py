"""How many begin and how long they are waited for, by simulation (two_stage.md 3.2, rule "search")."""

from __future__ import annotations

from itertools import product

import numpy as np

from gradcode.delays import Bernoulli, Delays, ShiftedExponential
from gradcode.schemes.two_stage.cover import Rules
from gradcode.schemes.two_stage.plan import Granularity, Waiting
from gradcode.schemes.two_stage.stages import TwoStage

ALLOWANCES = (1.0, 2.0, 3.0, 5.0, 10.0)
"""x in T₁ = n(a + x/μ) that are tried; the rule "shift" has 3."""


def search(
    workers: int,
    partitions: int,
    rules: Rules,
    law: ShiftedExponential,
    share: float,
    slowdown: float,
    active: int | None = None,
    granularity: Granularity = "worker",
    samples: int = 200,
    seed: int = 0,
) -> tuple[int, float]:
    """(M₁, T₁) of the smallest mean time over simulated iterations, with the same draws for all that are tried.

    M₁ goes from half of the workers to N − s (pool "fresh", where more would cost the guarantee of mode "any_s") or N.

    Args:
        workers, partitions, rules: of the scheme; all workers alike.
        law: seconds per partition of a worker that does not straggle.
        share, slowdown: of those that do, in each iteration others.
        active: M₁ itself; None: it is searched, too.
        granularity: of the scheme.
        samples: simulated iterations.
        seed: of their draws.
    """
    compute = Delays(Bernoulli(law, share, slowdown), stages=2).table(workers, seed).window(0, samples)[0]
    most = workers - rules.stragglers if rules.pool == "fresh" else workers
    chosen = range(max(1, min(most, workers // 2)), most + 1) if active is None else (active,)
    nothing = np.zeros(compute.shape[:2])
    means: dict[tuple[int, float], float] = {}
    for first, allowance in product(chosen, ALLOWANCES):
        wait = -(-partitions // first) * (law.shift + allowance / law.rate)
        waiting = Waiting("fixed", wait)
        scheme = TwoStage(workers, partitions, first, waiting, rules=rules, weight=None, granularity=granularity)
        means[first, wait] = float(scheme.duration(compute, nothing).mean())
    return min(means, key=means.__getitem__)
