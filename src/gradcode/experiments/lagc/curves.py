"""The tension between iterations, messages, work and time: the gap against each of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gradcode.experiments.comparison import write_table
from gradcode.experiments.lagc.problems import LAWS, diagonal
from gradcode.experiments.pictures import blank, save
from gradcode.experiments.registry import Request
from gradcode.planning.lazy import Complexity
from gradcode.protocol import Floats

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = {
    "GD": ("#000000", "-"),
    "GC(3)": ("#999999", "-"),
    "Grouping(3)": ("#56B4E9", "-"),
    "LAG-WK": ("#E69F00", "-"),
    "LAG-PS": ("#D55E00", "-"),
    "LAGC(3) coded": ("#009E73", "-"),
    "G-LAG(3) PS": ("#0072B2", "-"),
    "G-LAG(3) WK": ("#CC79A7", "--"),
}


def tension(request: Request, complete: dict[str, Complexity]) -> None:
    """A picture of six panels, and its curves as a table."""
    scale = diagonal().scale
    runs = {name: complete[name] for name in SHOWN if name in complete}
    save(request, "tension", _panels(runs, scale))
    lines = []
    for name, own in runs.items():
        for k in sorted({*range(0, len(own.gaps), 10), len(own.gaps) - 1}):
            cells = [f"{_against(own, what)[k]:.6g}" for what in ("uploads", "messages", "units", *LAWS)]
            lines.append([name, str(k), f"{own.gaps[k] * scale:.6g}", *cells])
    header = [
        "scheme",
        "iteration",
        "gap",
        "uploads",
        "uploads + downloads",
        "units",
        *(f"clock {law}" for law in LAWS),
    ]
    write_table(request.output / "tension", header, lines)


def _against(own: Complexity, what: str) -> Floats:
    """What had been spent before each iteration."""
    match what:
        case "iterations":
            spent = np.ones(own.iterations)
        case "uploads":
            spent = own.per_iteration[:, 0].astype(np.float64)
        case "messages":
            spent = own.per_iteration[:, :2].sum(axis=1).astype(np.float64)
        case "units":
            spent = own.per_iteration[:, 2].astype(np.float64)
        case law:
            spent = own.times[law]
    return np.concatenate([[0.0], np.cumsum(spent)])


def _panels(runs: dict[str, Complexity], scale: float) -> Figure:
    figure = blank(11, 6.6)
    panels = figure.subplots(2, 3, sharey=True)
    titles = {
        "iterations": "iterations",
        "messages": "uploads + downloads",
        "units": "partition gradients",
        **{law: f"expected seconds, {law}" for law in LAWS},
    }
    for axes, (what, title) in zip(panels.flat, titles.items(), strict=True):
        ends = []
        for name, own in runs.items():
            colour, style = SHOWN[name]
            spent = _against(own, what)
            axes.plot(spent, own.gaps * scale, color=colour, linestyle=style, linewidth=1.6, label=name)
            ends.append(float(spent[-1]))
        axes.set_yscale("log")
        axes.set_ylim(1e-8, 500)
        axes.set_xlim(0, 1.05 * sorted(ends)[-2])  # the longest is cut off, so that the others can be told apart
        axes.set_xlabel(title)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    for axes in panels[:, 0]:
        axes.set_ylabel("F − F*")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    return figure
