"""Time per iteration where the master takes c seconds to receive a vector (bcc.md section 7, after its third table).

The expected totals are additive, computing (from draws) plus c for each vector. A master with a queue receives while
others still compute: what the recursion of :func:`gradcode.planning.coupon.received` gives, and the simulated cluster
with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from gradcode.delays import Delays
from gradcode.experiments.comparison import Comparisons, write_table
from gradcode.experiments.coupon.thresholds import SEED
from gradcode.experiments.coupon.times import EXPECTED, LAW, WAYS, batches_of, collected
from gradcode.experiments.pictures import blank, save
from gradcode.experiments.registry import Request
from gradcode.planning.coupon import Estimate
from gradcode.protocol import Floats, Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

N = 50
TOTALS: dict[float, tuple[float, float, float]] = {
    0.1: (10.51, 30.77, 13.81),
    0.2: (15.51, 34.87, 14.95),
    0.5: (30.51, 47.17, 18.37),
    1.0: (55.51, 67.67, 24.08),
    2.0: (105.5, 108.7, 35.5),
}
"""c -> expected seconds of the first three of ``WAYS``, for 50 workers."""
BREAK_EVEN = 0.186


@dataclass(frozen=True)
class Trial:
    """Iterations on the simulated cluster, (iterations,) each.

    Args:
        times: seconds.
        vectors: that the master received.
        predicted: seconds that the recursion gives on the same draws.
        bound: seconds of computing, and c for each vector.
    """

    times: Floats
    vectors: Floats
    predicted: Floats
    bound: Floats


def simulate(name: str, receive: float, iterations: int, seed: int) -> Trial:
    """So many iterations of a way for ``N`` workers; the seed is that of the delays, and of what the way draws once."""
    from gradcode.clusters import SimulatedCluster
    from gradcode.session import Objective, Session, Step
    from gradcode.training import LeastSquares

    scheme = WAYS[name].scheme(N, seed)
    table = Delays(LAW, receive=receive).table(N, seed)
    reports: list[Report] = []
    objective = cast(Objective, LeastSquares(np.eye(N), np.ones(N), N))
    with Session.of(objective, scheme, SimulatedCluster(N, table), listeners=[reports.append]) as session:
        for number in range(iterations):
            Step(session, number).backward()
    finish = WAYS[name].plan(N).load * table.window(0, iterations)[0][:, :, 0]
    vectors = np.array([report.bytes_up for report in reports]) / scheme.layout.row_bytes(N, 8)
    return Trial(
        np.array([report.time for report in reports]),
        vectors,
        collected(name, finish, batches_of(scheme), receive)[0],
        np.array([report.order_statistic for report in reports]) + receive * vectors,
    )


def messages(request: Request, found: Comparisons) -> None:
    """Totals, additive and with the queue, and the cost from which batched coupon beats uncoded."""
    draws = 4_000 if request.quick else 20_000
    iterations, seeds = (2, 3) if request.quick else (10, 12)
    rng = np.random.default_rng([SEED, 3])
    pace = LAW.sample(rng, (draws, N))
    lines = []
    trials: dict[str, list[list[Trial]]] = {name: [] for name in WAYS}  # for each cost those of each seed
    for index, (cost, expected) in enumerate(TOTALS.items()):
        request.tell(f"c = {cost:g}: {draws} draws, and {iterations * seeds} iterations on the cluster")
        for place, (name, way) in enumerate(WAYS.items()):
            method, what = way.plan(N), f"{name}, c = {cost:g}"
            total = method.expected_time(LAW, cost)
            if place < len(expected):
                digits = 0.05 if cost == 2.0 else 0.005
                spread = 4 * EXPECTED[N, name][2] + 1.001 * digits
                found.add(f"{what}: total", expected[place], total, spread, "s", "4 s.e. of its draws, and digits")
            queued = Estimate.of(collected(name, method.load * pace, rng, cost)[0])
            own = [simulate(name, cost, iterations, index * seeds + seed) for seed in range(seeds)]
            trials[name].append(own)
            lines.append(
                [
                    what,
                    str(expected[place]) if place < len(expected) else "",
                    f"{total:.2f}",
                    f"{queued.mean:.2f} ± {queued.error:.2f}",
                    f"{_mean(own, 'times'):.2f}",
                    f"{_mean(own, 'vectors'):.2f}",
                ]
            )
    _check(found, {name: [own for each in costs for own in each] for name, costs in trials.items()})
    found.add("c from which batched coupon beats uncoded", BREAK_EVEN, break_even(), 5.001e-4, "s", "the digits given")
    header = ["method", "expected total", "total", "with the queue", "simulated cluster", "vectors received"]
    write_table(request.output / "messages", header, lines)
    seen = {name: [_mean(own, "times") for own in costs] for name, costs in trials.items()}
    save(request, "messages", _figure(pace[:1000], seen, 9 if request.quick else 33))


def _mean(trials: list[Trial], what: str) -> float:
    return float(np.concatenate([getattr(trial, what) for trial in trials]).mean())


def _check(found: Comparisons, trials: dict[str, list[Trial]]) -> None:
    """The cluster does what the recursion says, never takes more than the sum, and receives what is expected."""
    for name, own in trials.items():
        away = max(float(np.abs(trial.times / trial.predicted - 1).max()) for trial in own)
        found.add(f"{name}: cluster / recursion − 1, all c", 0.0, away, 1e-12, "", "rounding")
        beyond = max(0.0, *(float((trial.times - trial.bound).max()) for trial in own))
        found.add(f"{name}: queue beyond computing + c·K, all c", 0.0, beyond, 1e-9, "s", "rounding")
        # Iterations of one seed have their batches in common.
        vectors = Estimate.of([float(trial.vectors.mean()) for trial in own])
        expected = WAYS[name].plan(N).communication
        spread = 4 * vectors.error + 1e-12
        found.add(f"{name}: vectors received on the cluster", expected, vectors.mean, spread, "", "4 s.e. of the seeds")


def break_even() -> float:
    """c at which computing and receiving, added up, take equally long uncoded and with batched coupon."""
    few, many = WAYS["batched coupon"].plan(N), WAYS["uncoded"].plan(N)
    return (few.expected_time(LAW) - many.expected_time(LAW)) / (many.communication - few.communication)


def _figure(pace: Floats, seen: dict[str, list[float]], points: int) -> Figure:
    """Seconds against c: solid with the queue, dashed added up, dots the cluster; on the left small costs."""
    from gradcode.reporting.plots import LINES, MASTER

    figure = blank(11, 4.6)
    for axes, most in zip(figure.subplots(1, 2, width_ratios=(3, 4)), (0.5, 2.0), strict=True):
        costs = np.linspace(0, most, points)
        highest = 0.0
        for (name, way), colour in zip(WAYS.items(), LINES, strict=False):
            method = way.plan(N)
            queued = [
                Estimate.of(collected(name, method.load * pace, np.random.default_rng(SEED), float(c))[0]).mean
                for c in costs
            ]
            axes.plot(costs, queued, color=colour, label=name)
            axes.plot(costs, [method.expected_time(LAW, float(c)) for c in costs], "--", color=colour, linewidth=1)
            dots = [(c, mean) for c, mean in zip(TOTALS, seen[name], strict=True) if c <= most]
            axes.plot(*zip(*dots, strict=True), "o", markersize=4.5, color=colour, clip_on=False)
            highest = max(highest, queued[-1])
        axes.set_xlim(0, most)
        axes.set_ylim(0, 1.15 * highest)
        axes.set_xlabel("seconds to receive a vector, c")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    axes = figure.axes[0]
    axes.plot([], [], color=MASTER, label="with the queue, drawn")
    axes.plot([], [], "--", color=MASTER, linewidth=1, label="added up: computing + c·K")
    axes.plot([], [], "o", markersize=4.5, color=MASTER, label="simulated cluster")
    axes.axvline(break_even(), color=MASTER, linestyle=":", linewidth=1, label=f"c = {break_even():.3f}")
    axes.set_ylabel("seconds per iteration")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    return figure
