"""Block coordinate descent with encoded coordinates: new stragglers in every iteration, or the same for ever."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from gradcode import delays, schemes, solvers
from gradcode.delays.law import Source
from gradcode.experiments.comparison import Comparisons, shown, write_table
from gradcode.experiments.encoded.problems import COLOURS, ENCODERS, WORKERS, coordinates, solve
from gradcode.experiments.encoded.scale import Scale
from gradcode.experiments.encoded.spread import WHY, tolerance
from gradcode.experiments.pictures import blank, save
from gradcode.experiments.registry import Request
from gradcode.protocol import Floats
from gradcode.training import EncodedCoordinates

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXPECTED = {
    ("random", "hadamard", 12): 0.0,
    ("random", "hadamard", 8): 0.0,
    ("random", "uncoded", 12): 0.0,
    ("random", "uncoded", 8): 0.0,
    ("fixed", "hadamard", 12): 0.0,
    ("fixed", "hadamard", 8): 1.00,
    ("fixed", "uncoded", 12): 13.3,
    ("fixed", "uncoded", 8): 36.5,
}
"""(stragglers, coordinates, k) -> f/f* − 1 after 400 steps (OURS)."""


def coordinate_descent(request: Request, scale: Scale, found: Comparisons) -> None:
    """f/f* − 1 at the end of block coordinate descent."""
    seeds = scale.seeds
    curves: dict[tuple[str, str, int], Floats] = {}
    lines = []
    for (kind, name, k), expected in EXPECTED.items():
        steps = scale.coordinates if (kind, name) == ("fixed", "hadamard") else scale.rest
        request.tell(f"coordinate descent: {kind} stragglers, {name}, k = {k}, {seeds} seeds")
        values = np.empty((seeds, steps + 1))
        for seed in range(seeds):
            rng = np.random.default_rng([31, seed])
            problem = coordinates(rng)
            objective = EncodedCoordinates(problem.uncoded, ENCODERS[name](problem.features.shape[1], rng))
            scheme = schemes.fastest_blocks(WORKERS, k, objective.length)
            law: Source = delays.Exponential(1.0)
            if kind == "fixed":
                law = delays.slow(law, dict.fromkeys(rng.choice(WORKERS, WORKERS - k, replace=False).tolist(), np.inf))
            solved = solve(partial(solvers.coordinate_descent, steps=steps), (objective, scheme), law, seed)
            values[seed] = solved.values / problem.best - 1
        curves[kind, name, k] = values
        own = values[:, -1]
        allowed = tolerance(own, 5e-3 if expected < 10 else 5e-2)
        what = f"coordinate descent, {kind} stragglers, {name}, k = {k}: f/f* − 1"
        item = found.add(what, expected, float(own.mean()), allowed, "", f"{WHY}; digits")
        ours, away = f"{own.mean():.3g}", f"{own.std(ddof=1):.2g}"
        lines.append([kind, name, str(k), shown(expected), ours, away, "yes" if item.agrees else "NO"])
    header = ["stragglers", "coordinates", "k of 16", "f/f* − 1: expected", "ours", "s.d. of a seed", "agrees"]
    write_table(request.output / "coordinates", header, lines)
    save(request, "coordinates", _figure(curves))


def _figure(curves: dict[tuple[str, str, int], Floats]) -> Figure:
    """f/f* − 1 against steps: lines are medians, shades from seed to seed."""
    figure = blank(10, 4.4)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, kind in zip(panels, ("random", "fixed"), strict=True):
        for (_, name, k), own in ((key, own) for key, own in curves.items() if key[0] == kind):
            values, style = np.maximum(own, 1e-12), "-" if k == 12 else "--"
            axes.plot(np.median(values, axis=0), style, color=COLOURS[name], label=f"{name}, k = {k}")
            axes.fill_between(
                range(values.shape[1]),
                values.min(axis=0),
                values.max(axis=0),
                color=COLOURS[name],
                alpha=0.12,
                linewidth=0,
            )
        axes.set_yscale("log")
        axes.set_ylim(1e-12, None)
        axes.set_xlim(left=0)
        axes.set_title(f"{kind} stragglers", loc="left", fontsize=10, fontweight="bold")
        axes.set_xlabel("step")
        axes.grid(axis="y", color="0.93")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    panels[0].set_ylabel("f/f* − 1")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    return figure
