"""The optimum against the paper's subgradient method at equal time (the spec's section 4)."""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np

from gradcode.delays.law import Floats
from gradcode.experiments.block_coordinate.reported import CYCLES, RUNTIME, SAMPLES
from gradcode.experiments.block_coordinate.runtime import best, exact, unit
from gradcode.experiments.comparison import Comparisons, write_table
from gradcode.experiments.pictures import blank, save
from gradcode.experiments.registry import Request
from gradcode.planning import block_coordinate as planning

SETTING = RUNTIME[0].settings[1]
END = 2.839
"""U where the authors' method ended in the spec's own run: N = 20, 500 steps."""
ACCURACIES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
_POINTS = 24


class Way(NamedTuple):
    """A method's values U, and the seconds and oracle calls (E[τ] or its estimate, with a gradient) that they took."""

    name: str
    style: str
    colour: str
    seconds: Floats
    calls: Floats
    values: Floats


def convergence(request: Request, found: Comparisons) -> None:
    """Table, figure, and where the paper's method ends; times are this machine's and not compared."""
    batch = 1_000 if request.quick else 10_000
    request.tell(f"optimum against the subgradient method, N = 20, {batch} draws per step")
    ways = [_optimum(), *_descents(batch)]
    name, why = "runtime U, N = 20: end of the subgradient method (ours)", '0.5 %: from draws, "about"'
    found.add(name, END, ways[1].values[-1], 5e-3 * END, "", why)
    least = best(SETTING).bound / unit(SETTING)
    header = ("method", "seconds", "oracle calls", "U", "above the bound")
    write_table(
        request.output / "convergence",
        header,
        (
            (way.name, f"{seconds:.4f}", str(int(calls)), f"{value:.6f}", f"{value / least - 1:.2e}")
            for way in ways
            for seconds, calls, value in zip(way.seconds, way.calls, way.values, strict=True)
        ),
    )
    figure = blank(10.5, 4.4)
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, what in ((left, "seconds"), (right, "oracle calls")):
        for way in ways:
            across = way.seconds if axes is left else way.calls
            axes.loglog(across, way.values / least - 1, way.style, color=way.colour, markersize=5, label=way.name)
        axes.set_xlabel(what)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    left.set_ylabel("U above the lower bound, relative")
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    save(request, "convergence", figure)


def _optimum() -> Way:
    """``optimal``, asked for one accuracy after the other."""
    law, workers, coordinates = SETTING.law, SETTING.workers, SETTING.coordinates
    planning.optimal(law, workers, coordinates, SAMPLES, CYCLES, tolerance=0.1)  # imports are not its time
    rows = []
    for accuracy in ACCURACIES:
        began = time.perf_counter()
        found = planning.optimal(law, workers, coordinates, SAMPLES, CYCLES, tolerance=accuracy)
        seconds = time.perf_counter() - began
        rows.append((seconds, found.evaluations, exact(SETTING, found.shares * coordinates)))
    seconds, calls, values = np.array(rows, dtype=float).T
    return Way("optimal, by the gap asked for", "D", "black", seconds, calls, values)


def _descents(batch: int) -> list[Way]:
    """The paper's method: its iterates, and the mean of the last half of them at each time (OURS)."""
    law, workers, coordinates = SETTING.law, SETTING.workers, SETTING.coordinates
    run = planning.subgradient(law, workers, coordinates, steps=500, batch=batch)
    steps = np.unique(np.geomspace(1, 500, _POINTS).round().astype(int))
    averages = [run.iterates[(step + 1) // 2 : step + 1].mean(axis=0) for step in steps]
    return [
        Way(name, "o-", colour, run.seconds[steps], steps.astype(float), np.array([exact(SETTING, x) for x in sizes]))
        for name, colour, sizes in (
            ("subgradient method: last iterate", "#D55E00", run.iterates[steps]),
            ("its averaged iterates", "#E69F00", averages),
        )
    ]
