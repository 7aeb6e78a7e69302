"""Time per iteration where only computing counts (bcc.md section 7, its third table)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gradcode import codes, schemes
from gradcode.delays import ShiftedExponential
from gradcode.experiments.comparison import Comparisons, write_table
from gradcode.experiments.coupon.thresholds import SEED
from gradcode.experiments.registry import Request
from gradcode.planning import coupon as planning
from gradcode.planning.coupon import Estimate, Method
from gradcode.protocol import Floats
from gradcode.schemes import Coded

LAW = ShiftedExponential(1.0, 1.0)
LOAD = 10


@dataclass(frozen=True)
class Way:
    """A method as a closed form and as a scheme, for n workers with as many partitions.

    Args:
        plan: n -> what is waited for.
        scheme: (n, seed of what is drawn) -> what runs it.
    """

    plan: Callable[[int], Method]
    scheme: Callable[[int, int], Coded]


def _cyclic(workers: int, seed: int) -> Coded:
    # Of the cyclic codes the one that waits for exactly n − s; its amplification is for float64 only.
    code = codes.cyclic_mds(workers, LOAD - 1, dtype="float64", max_error=float("inf"))
    return schemes.coded(code)


WAYS: dict[str, Way] = {
    "uncoded": Way(lambda n: planning.uncoded(n, n), lambda n, seed: schemes.uncoded(n)),
    "cyclic repetition": Way(lambda n: planning.cyclic_repetition(n, n, LOAD), _cyclic),
    "batched coupon": Way(
        lambda n: planning.batched_coupon(n, n, LOAD),
        lambda n, seed: schemes.coded(codes.batched_coupon(n, load=LOAD, rng=seed)),
    ),
    "fractional repetition": Way(
        lambda n: planning.fractional_repetition(n, n, LOAD),
        lambda n, seed: schemes.coded(codes.fractional_repetition(n, LOAD - 1)),
    ),
}
"""Fractional repetition is OURS to compare with, and has no expected numbers."""

EXPECTED: dict[tuple[int, str], tuple[float, float, float]] = {
    (50, "uncoded"): (5.4992, 5.506, 0.009),
    (50, "cyclic repetition"): (26.7024, 26.670, 0.021),
    (50, "batched coupon"): (12.6638, 12.663, 0.012),
    (100, "uncoded"): (6.1874, 6.185, 0.009),
    (100, "cyclic repetition"): (33.5841, 33.604, 0.022),
    (100, "batched coupon"): (13.6008, 13.579, 0.015),
}
"""(workers, method) -> seconds in closed form; mean and standard error of 20,000 draws made apart from this code."""


def times(request: Request, found: Comparisons) -> None:
    """Closed forms, draws in which batches are really drawn, and the schemes' own durations."""
    draws = 4_000 if request.quick else 20_000
    rng = np.random.default_rng([SEED, 2])
    lines = []
    for workers in (50, 100):
        request.tell(f"time per iteration: {workers} workers, {draws} draws")
        pace = LAW.sample(rng, (draws, workers))
        for name, way in WAYS.items():
            method = way.plan(workers)
            integrated = method.expected_time(LAW)
            drawn = Estimate.of(collected(name, method.load * pace, rng)[0])
            what = f"{name}, n = m = {workers}"
            found.add(f"{what}: drawn, from its closed form", integrated, drawn.mean, 4 * drawn.error, "s", "4 s.e.")
            if (workers, name) in EXPECTED:
                closed, mean, error = EXPECTED[workers, name]
                found.add(f"{what}: closed form", closed, integrated, 5.001e-5, "s", "the digits given")
                spread = 4 * float(np.hypot(error, drawn.error))
                found.add(f"{what}: drawn", mean, drawn.mean, spread, "s", "4 standard errors of both")
            scheme, some = way.scheme(workers, 1), pace[:500]
            own = scheme.duration(some[:, :, None], np.zeros_like(some))
            apart = np.abs(own / collected(name, method.load * some, batches_of(scheme))[0] - 1).max()
            found.add(f"{what}: the scheme's duration / collected − 1", 0.0, apart, 1e-12, "", "rounding")
            expected = f"{EXPECTED[workers, name][0]:.4f}" if (workers, name) in EXPECTED else ""
            lines.append(
                [what, expected, f"{integrated:.4f}", f"{drawn.mean:.3f} ± {drawn.error:.3f}", f"{method.load:g}"]
            )
    write_table(request.output / "times", ["method", "expected", "closed form", "drawn", "load"], lines)


def collected(
    name: str, finish: Floats, choices: npt.NDArray[np.int64] | np.random.Generator, receive: float = 0.0
) -> tuple[Floats, Floats]:
    """((draws,) seconds of an iteration, (draws,) vectors received), without the scheme; inf: some batch is nobody's.

    Args:
        name: of the way.
        finish: (draws, n) seconds at which the workers end.
        choices: (n,) the workers' batches, or what they are drawn with anew for each iteration.
        receive: seconds that the master takes for a vector.
    """
    workers = finish.shape[1]
    if name not in ("batched coupon", "fractional repetition"):
        waits = round(WAYS[name].plan(workers).mean_threshold)
        return planning.received(finish, receive)[:, waits - 1], np.full(len(finish), float(waits))
    if isinstance(choices, np.random.Generator):
        batches = np.tile(np.arange(workers) % (workers // LOAD), (len(finish), 1))
        if name == "batched coupon":
            batches = choices.integers(workers // LOAD, size=finish.shape)
    else:
        batches = np.tile(choices, (len(finish), 1))
    return planning.collecting_times(batches, finish, workers // LOAD, receive)


def batches_of(scheme: Coded) -> npt.NDArray[np.int64]:
    """(n,) the batch that each worker holds."""
    return np.array([held[0] // LOAD for held in scheme.code.placement])
