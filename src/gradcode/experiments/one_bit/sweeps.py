"""The gap against redundancy and against straggling: setting B, one bit with range linf (one_bit.md 13.2)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from gradcode.experiments.comparison import Comparisons, shown, write_table
from gradcode.experiments.one_bit.gaps import compare_ratio, few_problems, rounding
from gradcode.experiments.one_bit.methods import METHODS, REPLICATION, STRAGGLING, B, Best, best
from gradcode.experiments.pictures import blank, save
from gradcode.experiments.registry import Request

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Point = tuple[int, float]
"""d and p."""

REDUNDANCY: dict[Point, float] = {
    (1, STRAGGLING): 0.161,
    (2, STRAGGLING): 0.118,
    (REPLICATION, STRAGGLING): 0.044,
    (10, STRAGGLING): 0.021,
    (25, STRAGGLING): 0.0052,
}
STRAGGLERS: dict[Point, float] = {
    (REPLICATION, 0.1): 0.036,
    (REPLICATION, 0.5): 0.068,
    (1, 0.1): 0.177,
    (1, 0.5): 0.391,
}


def sweeps(request: Request, found: Comparisons) -> None:
    """Compares both sweeps; where it must be quick, on fewer problems."""
    seeds = range(3 if request.quick else 8)
    complete: dict[Point, Best] = {}
    lines = []
    expected = REDUNDANCY | STRAGGLERS
    for d, p in expected:
        request.tell(f"setting B, 1-bit linf: d = {d}, p = {p:g}, {len(seeds)} problems")
        method = replace(METHODS["1-bit linf"], replication=d, straggling=p)
        complete[d, p] = best(B, method, seeds, coarse=request.quick)
    least = few_problems(request, (own.spread() for own in complete.values()))
    for (d, p), own in complete.items():
        what, wanted, spread = f"B, 1-bit linf, d = {d}, p = {p:g}: gap", expected[d, p], max(least, own.spread())
        compare_ratio(found, what, wanted, own.gap, spread, (B.drawn, len(own.gaps)), rounding(wanted))
        lines.append([str(d), f"{p:g}", shown(wanted), f"{own.gap:.3g} ± {own.error:.2g}"])
    write_table(request.output / "sweeps", ["d", "p", "expected", "gap"], lines)
    save(request, "sweeps", _figure(complete))


def _figure(complete: dict[Point, Best]) -> Figure:
    """Lines ours with their standard errors, circles expected."""
    figure = blank(9, 3.8)
    by_d, by_p = figure.subplots(1, 2, sharey=True)
    expected = REDUNDANCY | STRAGGLERS
    lines = (
        (by_d, list(REDUNDANCY), 0, "p = 0.2", "#0072B2"),
        (by_p, [(REPLICATION, p) for p in (0.1, STRAGGLING, 0.5)], 1, "d = 5", "#0072B2"),
        (by_p, [(1, p) for p in (0.1, STRAGGLING, 0.5)], 1, "uncoded", "#D55E00"),
    )
    for axes, points, which, label, colour in lines:
        places = [point[which] for point in points]
        runs = [complete[point] for point in points]
        errors = [own.error for own in runs]
        axes.errorbar(places, [own.gap for own in runs], errors, color=colour, capsize=3, label=f"{label}, ours")
        wanted = [expected[point] for point in points]
        axes.plot(places, wanted, "o", mfc="none", color=colour, label=f"{label}, expected")
    by_d.set_xscale("log")
    by_d.set_xticks([1, 2, 5, 10, 25], ["1", "2", "5", "10", "25"])
    by_d.minorticks_off()
    by_d.set_xlabel("d, holders of each partition")
    by_p.set_xlabel("p, probability to straggle")
    by_d.set_ylabel("F − F*")
    for axes in (by_d, by_p):
        axes.set_yscale("log")
        axes.legend(frameon=False)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    return figure
