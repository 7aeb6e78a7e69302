"""Loss against the clock, a linear regression with exact gradients: the same steps at other times (settings OURS)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from gradcode import codes, schemes
from gradcode.clusters import SimulatedCluster
from gradcode.delays import DelayTable
from gradcode.experiments.comparison import Comparisons, write_table
from gradcode.experiments.curves import one_thread
from gradcode.experiments.dynamic_clustering.setting import CLUSTERS, SEED, Draws, N, by_flag, draw, times
from gradcode.experiments.pictures import blank, save
from gradcode.experiments.registry import Request
from gradcode.protocol import Report, Scheme
from gradcode.schemes.clustered import Clustered

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MEMORY, LOAD = 0.8, 3
SAMPLES, FEATURES = 400, 30

Curve = tuple[list[float], list[float]]
"""Times and losses after each iteration."""


def _clustered(candidates: int, knows: Callable[[int], np.ndarray] | None = None) -> Clustered:
    code = codes.clustered(N, CLUSTERS, LOAD - 1, variant="random", dtype="float64")
    return Clustered(code, candidates, knowledge=knows)


def contenders(drawn: Draws) -> dict[str, Scheme]:
    """All schemes; "told" knows the states of the iteration before, the genie the present ones."""
    return {
        "uncoded": schemes.uncoded(N),
        "GC": schemes.coded(codes.cyclic_mds(N, LOAD - 1, dtype="float64")),
        "GC-SC": _clustered(1),
        "GC-DC n=3, observed": _clustered(3),
        "GC-DC n=3, told": _clustered(3, lambda number: drawn.before[number]),
        "genie": _clustered(CLUSTERS, lambda number: drawn.states[number]),
    }


@one_thread()
def training(request: Request, found: Comparisons) -> None:
    """All schemes on one table of delays, in the simulated cluster."""
    iterations = 8 if request.quick else 300
    request.tell(f"linear regression: {iterations} iterations of each scheme")
    drawn = draw(MEMORY, iterations, np.random.default_rng([SEED, 4]))
    curves, lines = dict[str, Curve](), []
    for name, scheme in contenders(drawn).items():
        reports = train(scheme, drawn, iterations)
        clock = np.cumsum([report.time for report in reports]).tolist()
        curves[name] = clock, [report.loss for report in reports]
        away = float(np.abs(np.array(curves[name][1]) / curves["uncoded"][1] - 1).max())
        found.add(f"{name}: largest relative distance to the losses of uncoded", 0.0, away, 1e-9, "", "rounding")
        orders = np.mean([report.computations for report in reports]) / np.mean([r.downloads for r in reports])
        found.add(f"{name}: orders per iteration", N, float(np.mean([r.downloads for r in reports])), 0.0)
        lines.append([name, f"{clock[-1] / iterations:.2f}", f"{curves[name][1][-1]:.5f}", f"{orders:.2f}"])
        if name in ("GC-DC n=3, told", "genie"):
            flags, number = (drawn.states, CLUSTERS) if name == "genie" else (drawn.before, 3)
            wanted = times(drawn.seconds, by_flag(flags, number), LOAD)
            apart = float(np.abs(wanted - [report.time for report in reports]).max())
            found.add(f"{name}: largest distance of simulated times to those of the table", 0.0, apart, 1e-12, "s")
    header = ["scheme", "seconds per iteration", "loss at the end", "computations finished per order"]
    write_table(request.output / "training", header, lines)
    save(request, "training", _figure(curves))


def train(scheme: Scheme, drawn: Draws, iterations: int) -> list[Report]:
    """Gradient descent from 0 on a random regression."""
    import torch

    from gradcode.session import Session
    from gradcode.training import LeastSquares

    rng = np.random.default_rng([SEED, 5])
    matrix = rng.standard_normal((SAMPLES, FEATURES))
    target = matrix @ rng.standard_normal(FEATURES) + 0.1 * rng.standard_normal(SAMPLES)
    objective = LeastSquares(matrix, target, scheme.partitions, dtype=torch.float64)
    optimizer = torch.optim.SGD(objective.trainable, lr=0.02)
    reports: list[Report] = []
    cluster = SimulatedCluster(N, DelayTable.from_array(drawn.seconds))
    with Session.of(objective, scheme, cluster, listeners=[reports.append]) as session:
        while session.iteration < iterations:
            for step in session.epoch():
                step.backward()
                optimizer.step()
                if session.iteration == iterations:
                    break
    return reports


def _figure(curves: dict[str, Curve]) -> Figure:
    from gradcode.reporting import plots

    figure = blank(7, 4.0)
    axes = figure.subplots()
    plots.draw_curves(axes, curves, "training loss", "simulated time (s)")
    axes.set_yscale("log")
    return figure
