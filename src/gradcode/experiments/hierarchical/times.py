"""Time per iteration (the spec's table 9.3), and the choice of both tolerances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gradcode.delays.table import Relay, Rows
from gradcode.experiments.comparison import Comparisons, write_table
from gradcode.experiments.hierarchical.methods import METHODS, MS, SETTINGS, SYSTEMS, Setting, chosen, draw, durations
from gradcode.experiments.pictures import blank, save
from gradcode.experiments.registry import Request
from gradcode.planning import hierarchical as planning
from gradcode.planning.hierarchical import Objective, System

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CHOICES: dict[Objective, tuple[tuple[int, int], ...]] = {
    "mean": ((0, 0), (0, 0), (1, 2), (1, 2)),
    "exact": ((3, 0), (0, 9), (2, 2), (1, 9)),
}
OBJECTIVE_VALUES = (226.6667, 226.6667, 236.6667, 286.6667)  # of JNCSS, milliseconds
SPEED_UPS: dict[str, tuple[float, ...]] = {
    "HGC-JNCSS": (1.000, 1.000, 2.821, 1.901),
    "HGC-exact": (1.378, 1.059, 2.948, 2.053),
}


@dataclass(frozen=True)
class Cell:
    """A method in a setting: milliseconds per iteration, from everywhere."""

    expected: float
    integrated: float
    simulated: float
    error: float
    repetition: float


def times(request: Request, found: Comparisons) -> None:
    """The table of times: expected, integrated, and simulated by the schemes' own durations."""
    number = 2_000 if request.quick else 40_000
    cells: dict[str, list[Cell]] = {method.name: [] for method in METHODS}
    for place, setting in enumerate(SETTINGS):
        request.tell(f"time per iteration: {setting}, {number} draws")
        system = SYSTEMS[setting.system]()
        rows: dict[Relay, Rows] = {
            relay: draw(system, setting.tail, number, place, relay) for relay in ("independent", "shared")
        }
        for method in METHODS:
            own = rows[method.relay or "independent"]
            drawn = durations(method.scheme(system, setting.tail, "lagrange"), own) * MS
            early = durations(method.scheme(system, setting.tail, "auto"), own) * MS
            cell = Cell(
                expected=method.expected[place],
                integrated=method.integrated(system, setting.tail) * MS,
                simulated=float(drawn.mean()),
                error=float(drawn.std(ddof=1) / np.sqrt(number)),
                repetition=float(early.mean()),
            )
            cells[method.name].append(cell)
            name = f"{method.name}, {setting}"
            found.add(
                f"{name}: integrated", cell.expected, cell.integrated, 1e-3 * cell.expected, "ms", "1e-3 of the value"
            )
            spread = 4 * float(np.hypot(cell.error, method.sampled))
            found.add(f"{name}: simulated", cell.expected, cell.simulated, spread, "ms", "4 standard errors")
        for name, expected in SPEED_UPS.items():
            ratio = cells["Uncoded"][place].integrated / cells[name][place].integrated
            found.add(f"Uncoded / {name}, {setting}", expected[place], ratio, 1e-3 * expected[place], "", "1e-3 of it")
    header = ["method"]
    for setting in SETTINGS:
        header += [f"{setting}: {what}" for what in ("expected", "integrated", "simulated", "repetition")]
    lines = [
        [name]
        + [
            text
            for cell in own
            for text in (
                f"{cell.expected:.2f}",
                f"{cell.integrated:.2f}",
                f"{cell.simulated:.2f} ± {cell.error:.2f}",
                f"{cell.repetition:.2f}",
            )
        ]
        for name, own in cells.items()
    ]
    write_table(request.output / "times", header, lines)
    save(request, "times", _bars(cells))


def choices(request: Request, found: Comparisons) -> None:
    """What the two objectives choose, and E[T] over all pairs as a picture."""
    for place, setting in enumerate(SETTINGS):
        request.tell(f"choice of both tolerances: {setting}")
        system = SYSTEMS[setting.system]()
        for objective, expected in CHOICES.items():
            choice = chosen(system, objective, setting.tail).choice
            label = "HGC-JNCSS" if objective == "mean" else "HGC-exact"
            for what, wanted, own in zip(("s_e", "s_w"), expected[place], choice, strict=True):
                found.add(f"{label}, {setting}: {what}", wanted, own, 0.0, "", "none")
        value = chosen(system, "mean", setting.tail).value * MS
        expected_value = OBJECTIVE_VALUES[place]
        found.add(f"JNCSS objective, {setting}", expected_value, value, 1e-4, "ms", "the digits given")
        save(request, f"tolerances-{setting.system.lower()}-{setting.tail}", _map(system, setting))


def _bars(cells: dict[str, list[Cell]]) -> Figure:
    """One panel per setting: bars are integrated, ticks expected, dots simulated, diamonds what repetition takes."""
    figure = blank(11, 6.4)
    panels = figure.subplots(2, 2, sharey=True)
    names, place = list(cells), np.arange(len(cells))
    for axes, setting, column in zip(panels.flat, SETTINGS, range(len(SETTINGS)), strict=True):
        own = [cells[name][column] for name in names]
        axes.barh(place, [cell.integrated for cell in own], 0.62, color="#A6CBE3", label="integrated")
        axes.plot([cell.expected for cell in own], place, "|", color="black", markersize=15, label="expected (ours)")
        simulated = [cell.simulated for cell in own]
        axes.plot(simulated, place, "o", color="#0072B2", markersize=4, label="simulated", zorder=3)
        axes.plot(
            [cell.repetition for cell in own],
            place,
            "D",
            color="#D55E00",
            markersize=7,
            markerfacecolor="none",
            label="simulated, repetition codes where possible",
        )
        axes.set_yticks(place, names, fontsize=8)
        axes.set_title(str(setting), loc="left", fontsize=10, fontweight="bold")
        axes.set_xlabel("ms per iteration")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    panels[0, 0].invert_yaxis()
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    return figure


def _map(system: System, setting: Setting) -> Figure:
    """E[T] over all tolerances: the star is the best pair, the circle what JNCSS chooses."""
    figure = planning.heat_map(chosen(system, "exact", setting.tail))
    axes = figure.axes[0]
    s_e, s_w = chosen(system, "mean", setting.tail).choice
    axes.plot(s_w, s_e, "o", markersize=13, markerfacecolor="none", markeredgecolor="white", markeredgewidth=2.2)
    axes.set_title(f"{setting}; {axes.get_title()}, circle: JNCSS ({s_e}, {s_w})", fontsize=9)
    return figure
