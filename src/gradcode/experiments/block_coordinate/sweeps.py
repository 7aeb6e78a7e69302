"""A sweep in three columns (reported, exact, ours), as rows of a table, as comparisons and as a panel of a figure."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gradcode.experiments.block_coordinate.reported import (
    BY_FREQUENCY,
    BY_TIME,
    HALF,
    LARGE,
    LAYERED,
    MAXIMUM,
    OPTIMUM,
    PARTIAL,
    SINGLE,
    Sweep,
)
from gradcode.experiments.comparison import Comparisons, shown
from gradcode.experiments.registry import Request

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NONE = float("nan")
COLOURS = {
    OPTIMUM: "black",
    MAXIMUM: "black",
    BY_TIME: "#0072B2",
    BY_FREQUENCY: "#56B4E9",
    LARGE: "#0072B2",
    SINGLE: "#D55E00",
    PARTIAL: "#009E73",
    LAYERED: "#E69F00",
    HALF: "#999999",
}
HEADER = ("sweep", "at", "method", "reported", "exact", "ours", "agrees")


class Cell(NamedTuple):
    """A plotted number; the same evaluated exactly; ours where it is another. NaN where there is none.

    ``why`` says why the exact one is not compared with the plotted one; empty: it is.
    """

    reported: float
    exact: float
    ours: float = NONE
    why: str = ""


Cells = dict[str, list[Cell]]
"""Method -> a cell for each point of a sweep."""


def text_of(value: float) -> str:
    """A number, or nothing."""
    return "" if np.isnan(value) else f"{value:.4f}"


def judge(
    request: Request,
    found: Comparisons,
    quantity: str,
    sweep: Sweep,
    cells: Cells,
    tolerance: Callable[[float], float],
    why: str,
) -> list[tuple[str, ...]]:
    """Compares what can be, tells what cannot, and returns the rows of the table."""
    rows: list[tuple[str, ...]] = []
    for method, own in cells.items():
        left_out: dict[str, list[str]] = {}
        for point, cell in zip(sweep.points, own, strict=True):
            verdict = f"not judged: {cell.why}"
            if not cell.why:
                name = f"{quantity}, {sweep.what} = {shown(point)}: {method}"
                item = found.add(name, cell.reported, cell.exact, tolerance(cell.reported), "", why)
                verdict = "yes" if item.agrees else "NO"
            else:
                numbers = zip(("reported", "exact", "ours"), map(text_of, cell[:3]), strict=True)
                line = ", ".join(f"{column} {text}" for column, text in numbers if text)
                left_out.setdefault(cell.why, []).append(f"{shown(point)}: {line}")
            rows.append((sweep.what, shown(point), method, *map(text_of, cell[:3]), verdict))
        for reason, lines in left_out.items():
            request.tell(f"not judged: {quantity}, {method} ({reason}), {sweep.what} = {'; '.join(lines)}")
    return rows


def panel(axes: Axes, sweep: Sweep, cells: Cells, quantity: str) -> None:
    """Rings are reported, lines exact, dashes ours."""
    for method, own in cells.items():
        reported, exact, ours = np.array([cell[:3] for cell in own]).T
        colour, front = COLOURS[method], 3 if method in (OPTIMUM, MAXIMUM) else 2
        axes.plot(sweep.points, reported, "o", color=colour, markerfacecolor="none", markersize=6, zorder=front)
        axes.plot(sweep.points, exact, "-", color=colour, linewidth=1.3, zorder=front)
        axes.plot(sweep.points, ours, "--", color=colour, linewidth=2.0, zorder=front)
    axes.set_xlabel(sweep.what)
    axes.set_xticks(sweep.points, [shown(point) for point in sweep.points])
    axes.set_ylabel(quantity)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def legend(figure: Figure, methods: list[str]) -> None:
    """One for all panels: colours are methods, styles are columns."""
    from matplotlib.lines import Line2D

    entries = [Line2D([], [], color=COLOURS[method], linewidth=5, label=method) for method in methods]
    entries += [
        Line2D([], [], color="#444444", marker="o", markerfacecolor="none", linestyle="none", label="reported"),
        Line2D([], [], color="#444444", linestyle="-", label="exact"),
        Line2D([], [], color="#444444", linestyle="--", linewidth=2.0, label="ours"),
    ]
    figure.legend(handles=entries, loc="outside upper center", ncols=5, frameon=False, fontsize=9)
