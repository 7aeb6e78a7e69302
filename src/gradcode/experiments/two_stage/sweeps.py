"""What each parameter does: stragglers, their share and slowdown, workers that begin, how long they are waited for.

Nothing here is expected; the numbers are OURS.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gradcode import schemes
from gradcode.experiments.comparison import write_table
from gradcode.experiments.pictures import blank, save
from gradcode.experiments.registry import Request
from gradcode.experiments.two_stage.setting import RATE, SHIFT, K, Law, N, S, cyclic, run, uncoded

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gradcode.protocol import Floats

POOLS = ("fresh", "all")
TITLES = {
    "share": "share of stragglers",
    "slowdown": "slowdown of stragglers",
    "stragglers": "stragglers tolerated, s",
    "active": "workers that begin, M1",
    "wait": "seconds that stage 1 has, T1",
    "mode": "mode",
    "replication": "workers that begin with each partition",
    "partitions": "slowdown of stragglers, each partition reported",
}


class Point(NamedTuple):
    """One value of one parameter; all else as in 8.2 with T₁ by the rule "shift"."""

    parameter: str
    value: Any
    law: Law
    options: dict[str, Any]


def points() -> Iterator[Point]:
    """All that are tried."""
    for share in (0.0, 0.05, 0.1, 0.2, 0.3):
        yield Point("share", share, Law(share=share), {})
    for slowdown in (2.0, 5.0, 10.0, 20.0):
        yield Point("slowdown", slowdown, Law(slowdown=slowdown), {})
    for stragglers in (1, 2, 3, 4):
        yield Point("stragglers", stragglers, Law(), {"stragglers": stragglers})
    for active in (4, 5, 6, 7, 8, 9):
        yield Point("active", active, Law(), {"active": active})
    for wait in (5.25, 5.5, 6.0, 6.5, 7.5, 10.0, 15.0):
        yield Point("wait", wait, Law(), {"rule": "fixed", "wait": wait})
    for mode in ("any_s", "budget", "fixed"):
        yield Point("mode", mode, Law(), {"mode": mode})
    for replication in (1, 2, 3):
        yield Point("replication", replication, Law(), {"replication": replication})
    for slowdown in (2.0, 3.0, 5.0, 10.0):
        yield Point("partitions", slowdown, Law(slowdown=slowdown), {"granularity": "partition"})


def sweeps(request: Request) -> None:
    """A table and a figure."""
    samples = 500 if request.quick else 4000
    request.tell(f"sweeps: {samples} iterations of each")
    drawn: dict[Law, Floats] = {}
    lines, curves = [], dict[tuple[str, str], list[tuple[Any, float]]]()
    for point in points():
        if point.law not in drawn:
            drawn[point.law] = point.law.draws(samples)
        compute = drawn[point.law]
        line = [TITLES[point.parameter], str(point.value)]
        stragglers = point.options.get("stragglers", S)
        for name, own in (("uncoded", uncoded(compute)), ("CRS", cyclic(compute, stragglers))):
            curves.setdefault((point.parameter, name), []).append((point.value, own.time.mean()))
            line.append(f"{own.time.mean():.2f}")
        for pool in POOLS:
            own = run(scheme(pool, **point.options), compute)
            curves.setdefault((point.parameter, f"two-stage, {pool}"), []).append((point.value, own.time.mean()))
            line += [f"{own.time.mean():.2f} ({own.time.std() / np.sqrt(samples):.2f})", f"{own.ordered.mean():.1f}"]
        lines.append(line)
    header = ["parameter", "value", "uncoded (s)", "CRS with that s (s)"]
    header += [f"two-stage, {pool}: {what}" for pool, what in product(POOLS, ("mean (s)", "work"))]
    write_table(request.output / "sweeps", header, lines)
    save(request, "sweeps", _figure(curves))


def scheme(pool: str, **options: Any) -> schemes.TwoStage:
    """Two-stage coding of 8.2 with these options."""
    given: dict[str, Any] = {"stragglers": S, "rule": "shift", "weight": None, "pool": pool} | options
    if given["rule"] == "shift":
        given |= {"shift": SHIFT, "rate": RATE}
    return schemes.two_stage(N, partitions=K, **given)


def _figure(curves: dict[tuple[str, str], list[tuple[Any, float]]]) -> Figure:
    figure = blank(9, 6)
    shown = ("share", "slowdown", "active", "wait")
    for axes, parameter in zip(figure.subplots(2, 2).flat, shown, strict=True):
        for (of, name), own in curves.items():
            if of == parameter:
                axes.plot(*zip(*own, strict=True), marker="o", markersize=3, label=name)
        axes.set_xlabel(TITLES[parameter])
        axes.set_ylabel("mean time of an iteration (s)")
        axes.set_ylim(bottom=0)
    figure.axes[0].legend(frameon=False, fontsize="small")
    return figure
