"""Uneven workers: allocated loads with random partitions against balanced loads (bcc.md section 7, at its end)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gradcode import schemes
from gradcode.delays import PerWorker, ShiftedExponential, as_delays
from gradcode.experiments.comparison import Comparisons, write_table
from gradcode.experiments.coupon.thresholds import SEED
from gradcode.experiments.pictures import blank, save
from gradcode.experiments.registry import Request
from gradcode.planning import coupon as planning
from gradcode.planning.coupon import Estimate
from gradcode.protocol import Floats

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PARTITIONS = 500
SHIFTS = np.full(100, 20.0)
RATES = np.array([1.0] * 95 + [20.0] * 5)
LAWS = PerWorker([ShiftedExponential(float(a), float(rate)) for a, rate in zip(SHIFTS, RATES, strict=True)])
SLOW, FAST = 0, 99  # a worker of each kind
EXPECTED_RUNS = 400

RELAXED: dict[int, tuple[float, float, float, float]] = {
    500: (119.80, 5.167, 5.901, 5.001e-4),
    3107: (744.44, 32.11, 36.67, 5.001e-3),
}
"""Target -> t*, loads of both kinds, and half a unit of the loads' last digit."""
DRAWN: dict[float, tuple[float, float, float, tuple[int, int] | None]] = {
    1.0: (730.6, 1.9, 0.47, None),
    1.25: (875.1, 1.7, 0.09, (40, 46)),
    2.519: (1662.9, 0.7, 0.0, (81, 92)),
}
"""Constant -> mean and standard error of 400 runs, the share of draws that fail to cover, and whole loads."""
BALANCED = (1026.0, 0.2)
SPEEDS = {"µ": RATES, "1/(a + 1/µ)": 1 / (SHIFTS + 1 / RATES)}
"""What balanced loads are in proportion to: the baseline's rates; the true mean speeds, OURS to compare with."""


def uneven(request: Request, found: Comparisons) -> None:
    """t* and loads; completion of the generalised scheme and of balanced loads, from draws."""
    runs = 150 if request.quick else 4_000
    rng = np.random.default_rng([SEED, 4])
    for target, (time, slow, fast, digits) in RELAXED.items():
        chosen = planning.allocate(SHIFTS, RATES, target)
        what = f"uneven workers, target {target}"
        found.add(f"{what}: t*", time, chosen.time, 5.001e-3, "s", "the digits given")
        found.add(f"{what}: load of slow workers", slow, chosen.loads[SLOW], digits, "", "the digits given")
        found.add(f"{what}: load of fast workers", fast, chosen.loads[FAST], digits, "", "the digits given")
        results = planning.expected_results(chosen.loads, SHIFTS, RATES, chosen.time)
        found.add(f"{what}: results expected by t*", target, results, 1e-9 * target, "", "rounding")
    lines = []
    for constant, (mean, error, missed, whole) in DRAWN.items():
        request.tell(f"uneven workers: c = {constant:g}, {runs} runs")
        chosen = planning.allocate(SHIFTS, RATES, planning.coverage_target(PARTITIONS, constant))
        loads, what = chosen.whole(PARTITIONS), f"uneven workers, c = {constant:g}"
        if whole is not None:
            for kind, wanted, own in zip(("slow", "fast"), whole, loads[[SLOW, FAST]], strict=True):
                found.add(f"{what}: whole load of {kind} workers", wanted, int(own), 0.0, "", "none")
        drawn = Estimate.of(planning.completion(LAWS, loads, PARTITIONS, runs, rng))
        spread = 4 * float(np.hypot(error, drawn.error))
        found.add(f"{what}: completion", mean, drawn.mean, spread, "s", "4 standard errors of both")
        fails = 1 - planning.subsets_cover_probability(loads.tolist(), PARTITIONS)
        of_runs = float(np.sqrt(fails * (1 - fails) / EXPECTED_RUNS))
        found.add(f"{what}: P(not covered)", missed, fails, 4 * of_runs + 5.001e-3, "", "4 s.e. of 400 runs, digits")
        of_runs = float(np.sqrt(fails * (1 - fails) / runs))
        what_drawn = f"{what}: P(not covered), drawn"
        # Where it is rare, one run in 4000 may.
        found.add(what_drawn, fails, 1 - drawn.covered, 4 * of_runs + 1 / runs, "", "4 s.e. of a share, one run")
        lines.append(
            [
                f"c = {constant:g}",
                f"{loads[SLOW]} / {loads[FAST]}",
                f"{mean} ± {error}",
                f"{drawn.mean:.1f} ± {drawn.error:.1f}",
                f"{missed:.0%}",
                f"{fails:.1%}",
                f"{_each_when_ready(loads.tolist(), 20 if request.quick else 200):.0f}",
            ]
        )
    request.tell(f"balanced loads, {runs} runs")
    balanced = {}
    for name, speeds in SPEEDS.items():
        loads = planning.balanced(speeds, PARTITIONS)
        balanced[name] = drawn = Estimate.of(_finish(loads, runs, rng).max(axis=1))
        expected = ""
        if name == "µ":
            spread = 4 * float(np.hypot(BALANCED[1], drawn.error))
            found.add("balanced loads: completion", BALANCED[0], drawn.mean, spread, "s", "4 standard errors of both")
            expected = f"{BALANCED[0]} ± {BALANCED[1]}"
        lines.append(
            [
                f"in proportion to {name}, nothing twice",
                f"{'–'.join(map(str, np.unique(loads[: FAST - 4])))} / {loads[FAST]}",
                expected,
                f"{drawn.mean:.1f} ± {drawn.error:.1f}",
                "0%",
                "0.0%",
                "",
            ]
        )
    header = ["loads", "slow / fast", "expected", "completion", "not covered: expected", "exactly", "schemes.coupon"]
    write_table(request.output / "uneven", header, lines)
    every = 0.4 if request.quick else 0.1
    save(request, "uneven", _figure(rng, 60 if request.quick else 400, every, balanced))


def _finish(loads: npt.NDArray[np.int64], runs: int, rng: np.random.Generator) -> Floats:
    """(runs, n) seconds after which the workers have computed their loads."""
    return as_delays(LAWS).sample(rng, runs, loads, len(loads))


def _each_when_ready(loads: list[int], runs: int) -> float:
    """Mean seconds of the scheme, whose workers send each result when it is ready, for one draw of the partitions."""
    scheme = schemes.coupon(len(loads), PARTITIONS, loads)
    compute, communicate = as_delays(LAWS).table(len(loads), 0).window(0, runs)
    return float(scheme.duration(compute, communicate).mean())


def _figure(rng: np.random.Generator, runs: int, every: float, balanced: dict[str, Estimate]) -> Figure:
    """Against the constant c: seconds until everything has come, and how likely a draw misses something."""
    from gradcode.reporting.plots import LINES

    figure = blank(11, 4.4)
    left, right = figure.subplots(1, 2)
    constants = np.arange(0.9, 2.61, every)
    together, ready, missed = [], [], []
    for constant in constants.tolist():
        target = planning.coverage_target(PARTITIONS, constant)
        loads = planning.allocate(SHIFTS, RATES, target).whole(PARTITIONS)
        together.append(Estimate.of(planning.completion(LAWS, loads, PARTITIONS, runs, rng)).mean)
        missed.append(1 - planning.subsets_cover_probability(loads.tolist(), PARTITIONS))
        ready.append(_each_when_ready(loads.tolist(), 20))
    left.plot(constants, together, color=LINES[2], label="all of a worker's results together, drawn")
    left.plot(constants, ready, color=LINES[1], label="each when it is ready: schemes.coupon")
    for (name, own), style in zip(balanced.items(), ("--", ":"), strict=True):
        left.axhline(own.mean, color=LINES[0], linestyle=style, label=f"loads in proportion to {name}, nothing twice")
    right.plot(constants, missed, color=LINES[2])
    for axes, column in ((left, 0), (right, 2)):
        points = [(constant, own[column]) for constant, own in DRAWN.items()]
        axes.plot(*zip(*points, strict=True), "o", markerfacecolor="none", color="black", label="expected")
        axes.set_ylim(bottom=0)
        axes.set_xlabel("constant c of the target ⌊c·m·ln m⌋")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    left.set_ylabel("seconds until every partition has come")
    right.set_ylabel("P(a draw leaves a partition to nobody)")
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    return figure
