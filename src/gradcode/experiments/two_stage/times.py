"""Mean times, work and utilisation of all variants, beside the expected ones and closed forms (two_stage.md 4.5, 8.2).

An expected number comes from one run of 4000 iterations, in which all schemes had the same draws; so have they here. A
mean is allowed four times √(e² + v/n): e is the standard error that is given, or where none is given √(v/4000).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from gradcode.delays import ShiftedExponential
from gradcode.experiments.comparison import Comparisons, write_table
from gradcode.experiments.registry import Request
from gradcode.experiments.two_stage.setting import (
    PARTITIONED,
    RATE,
    SHARE,
    SHIFT,
    SLOWDOWN,
    VARIANTS,
    K,
    Law,
    N,
    S,
    cyclic,
    fixed,
    run,
    uncoded,
    wait_for,
)
from gradcode.protocol import Floats
from gradcode.schemes.two_stage import Course
from gradcode.schemes.two_stage.cover import Pool
from gradcode.schemes.two_stage.plan import GRANULARITIES, Granularity

EXPECTED: dict[str, tuple[float, float, float | None, float, float | None]] = {
    "uncoded": (30.96, 0.31, None, 40.0, None),
    "CRS s=1": (29.27, 0.52, 87.8, 80.0, None),
    "CRS s=2": (21.51, 0.44, 121.4, 120.0, None),
    "CRS s=3": (19.94, 0.25, 20.5, 160.0, None),
    "M1=8, fresh, any_s": (11.74, 0.10, 22.3, 51.4, 0.705),
    "M1=8, fresh, budget": (11.68, 0.16, 18.1, 47.6, 0.705),
    "M1=8, all, any_s": (8.04, 0.04, 11.8, 51.4, 0.705),
    "M1=8, all, budget": (8.37, 0.08, 10.9, 47.6, 0.705),
    "M1=8, all, fixed": (8.65, 0.04, 13.9, 57.1, 0.705),
    "M1=5, fresh, any_s": (13.47, 0.14, 21.0, 51.4, 0.536),
    "M1=5, all, any_s": (11.56, 0.07, 14.9, 51.4, 0.536),
}
"""Mean seconds, their standard error, 95th percentile, partition computations ordered, share with a stage 2."""

PUNCTUAL = (1 - SHARE) * (1 - np.exp(-3.0))
"""q: a worker of stage 1 reports by T₁ = n₁(a + 3/μ); who straggles never does."""

WHY = "4 standard errors, of both"
WHY_EXACT = "4 standard errors"


def share_staged(active: int) -> float:
    """Of iterations with a stage 2: 1 − q^M₁."""
    return float(1 - PUNCTUAL**active)


def work(active: int, mode: str) -> float:
    """Partition computations ordered, K + E[K_u(s₂ + 1)], where the pool allows any s₂."""
    late = np.arange(active + 1)
    copies = {
        "any_s": np.full(active + 1, S),
        "budget": np.maximum(0, S - late) + 1,
        "fixed": np.full(active + 1, S + 1),
    }
    mean = (stats.binom.pmf(late, active, 1 - PUNCTUAL) * late * K / active * copies[mode]).sum()
    return float(K + mean)


def missing(active: int, wait: float, pool: Pool, granularity: Granularity = "partition") -> float:
    """Partitions missing on average, E[K_u], with even loads n = K/M₁ and messages that take no time (OURS).

    All M₁ are alike: a late one with c reports by T₁, (c + 1)X > T₁ ≥ cX, leaves n − c − 1 of its part if c ≥ 1 and it
    is worth waiting for, (c + 1)X ≤ T₁(1 + ℓ_u); else, and with granularity "worker", n. Here X is what it takes per
    partition, and ℓ_u the length of stage 2 if u are late (:meth:`.Rules.length`), of which u − 1 are others.
    """
    scheme = fixed(active=active, wait=wait, pool=pool)
    load, plan, law = K // active, scheme.plan(), ShiftedExponential(SHIFT, RATE)

    def below(seconds: float) -> float:
        return float((1 - SHARE) * law.cdf(seconds) + SHARE * law.cdf(seconds / SLOWDOWN))

    late, found = 1 - below(wait / load), 0.0
    for others in range(active):
        limit = wait * (1 + scheme.rules.length(plan, others + 1))
        own = load * late
        for reports in range(1, load) if granularity == "partition" else ():
            slowest, quickest = min(wait / reports, limit / (reports + 1)), wait / (reports + 1)
            own -= (reports + 1) * max(0.0, below(slowest) - below(quickest))
        found += active * own * float(stats.binom.pmf(others, active - 1, late))
    return found


def check_exact(found: Comparisons) -> None:
    """Our closed forms against those given, to their digits."""
    for name, expected, own, digits in (
        ("q", 0.855192, PUNCTUAL, 6),
        ("share with a stage 2, M1=8", 0.713907, share_staged(8), 6),
        ("share with a stage 2, M1=5", 0.542578, share_staged(5), 6),
        ("mean number of missing partitions", 5.79233, K * (1 - PUNCTUAL), 5),
        ("work, any_s", 51.5847, work(8, "any_s"), 4),
        ("work, budget", 47.7301, work(8, "budget"), 4),
        ("work, fixed", 57.3770, work(8, "fixed"), 4),
        ("uncoded without stragglers: mean", 5.17159, _healthy(N, 4), 5),
        ("CRS s=2 without stragglers: mean", 13.71476, _healthy(N - S, 12), 5),
    ):
        found.add(f"{name}, closed form", expected, own, 0.501 * 10.0**-digits, "", "the digits given")


def _healthy(wanted: int, load: int) -> float:
    """Seconds until so many workers have computed ``load`` partitions, if nobody straggles."""
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, N + 1))])
    return float(load * (SHIFT + (harmonic[N] - harmonic[N - wanted]) / RATE))


def courses(compute: Floats) -> dict[str, Course]:
    """All schemes on the same draws."""
    found = {"uncoded": uncoded(compute)} | {f"CRS s={s}": cyclic(compute, s) for s in (1, 2, 3)}
    return found | {name: run(fixed(**options), compute) for name, options in (VARIANTS | PARTITIONED).items()}


def times(request: Request, found: Comparisons) -> None:
    """8.2's table, the closed forms, the order of the schemes, and utilisation."""
    samples = 4000 if request.quick else 40_000
    request.tell(f"all variants: {samples} iterations")
    measured = courses(Law().draws(samples))
    lines = []
    for name, (mean, error, percentile, ordered, staged) in EXPECTED.items():
        own = measured[name]
        found.add(f"{name}: mean", mean, own.time.mean(), _both(own.time, error), "s", WHY)
        late = (own.late > 0).astype(np.float64)
        if staged is None:
            found.add(f"{name}: work", ordered, own.ordered.mean(), 0.0, "partitions", "none")
        else:
            active, _, mode = name.removeprefix("M1=").split(", ")
            # The digits given are added to the allowance.
            found.add(f"{name}: work", ordered, own.ordered.mean(), _both(own.ordered) + 0.05, "partitions", WHY)
            found.add(f"{name}: share with a stage 2", staged, late.mean(), _both(late) + 0.0005, "", WHY)
            exact = (share_staged(int(active)), work(int(active), mode))
            for what, wanted, values in (("share with a stage 2", exact[0], late), ("work", exact[1], own.ordered)):
                allowed = 4 * values.std() / np.sqrt(samples)
                found.add(f"{name}: {what} in closed form", wanted, values.mean(), allowed, "", WHY_EXACT)
        lines.append(
            [
                name,
                f"{mean:.2f} ({error:.2f})",
                f"{own.time.mean():.2f} ({own.time.std() / np.sqrt(samples):.2f})",
                "" if percentile is None else f"{percentile:.1f}",
                f"{np.quantile(own.time, 0.95):.1f}",
                f"{ordered:.1f}",
                f"{own.ordered.mean():.1f}",
                f"{own.stage1.mean():.2f}",
                "" if staged is None else f"{late.mean():.3f}",
            ]
        )
    header = ["scheme", "expected mean (s)", "found (s)", "expected 95 % (s)", "found (s)", "expected work"]
    write_table(request.output / "times", [*header, "found", "stage 1 (s)", "share with a stage 2"], lines)
    for name in VARIANTS | PARTITIONED:
        order = [measured[own].time.mean() for own in (name, "CRS s=2", "uncoded")]
        held = all(one < other for one, other in pairwise(order))
        found.add(f"{name} < CRS s=2 < uncoded", 1, int(held), 0.0, "", "none")
    _partitions(request, found, measured)
    _utilisation(request, measured | {"ignore 2 slowest": wait_for(Law().draws(samples), N - S, K // N)})
    healthy = Law(share=0.0).draws(samples)
    for name, own, wanted in (
        ("uncoded", uncoded(healthy), _healthy(N, 4)),
        ("CRS s=2", cyclic(healthy), _healthy(N - S, 12)),
    ):
        allowed = 4 * own.time.std() / np.sqrt(samples)
        found.add(f"{name} without stragglers: mean", wanted, own.time.mean(), allowed, "s", WHY_EXACT)


def _partitions(request: Request, found: Comparisons, measured: dict[str, Course]) -> None:
    """What it gains that each partition is reported; how many are missing, beside the closed form."""
    lines = []
    for name, options in PARTITIONED.items():
        for granularity in GRANULARITIES:
            kind = name if granularity == "partition" else name.removesuffix(", by partition")
            own, root = measured[kind], np.sqrt(len(measured[kind].time))
            exact = missing(options["active"], options["wait"], options["pool"], granularity)
            allowed = 4 * own.missing.std() / root
            found.add(f"{kind}: missing in closed form", exact, own.missing.mean(), allowed, "partitions", WHY_EXACT)
            means = [
                f"{values.mean():.2f} ({values.std() / root:.2f})" for values in (own.time, own.ordered, own.missing)
            ]
            lines.append([kind, *means, f"{exact:.3f}"])
    header = ["scheme", "mean (s)", "work (partitions)", "missing (partitions)", "missing in closed form"]
    write_table(request.output / "partitions", header, lines)


def _both(values: npt.NDArray[Any], error: float | None = None) -> float:
    given = values.std() / np.sqrt(4000) if error is None else error
    return float(4 * np.hypot(given, values.std() / np.sqrt(len(values))))


def _utilisation(request: Request, measured: dict[str, Course]) -> None:
    """Redundancy, and the three definitions of 7; the paper's own is not known. All are means over iterations."""
    lines = []
    for name, own in measured.items():
        useful = K if name != "ignore 2 slowest" else K * (N - S) // N
        shares = (useful / own.started, own.busy / (N * own.time), own.used / own.sent)
        lines.append([name, f"{own.ordered.mean() / K:.2f}", *(f"{values.mean():.3f}" for values in shares)])
    header = ["scheme", "computations ordered / K", "useful / started", "busy / all time", "messages used / sent"]
    write_table(request.output / "utilisation", header, lines)
