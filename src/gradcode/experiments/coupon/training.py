"""Training with a cost per message: the same steps, at another time (bcc.md section 6; settings OURS)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gradcode.clusters import SimulatedCluster
from gradcode.delays import Delays
from gradcode.experiments.comparison import Comparisons, write_table
from gradcode.experiments.coupon.messages import N
from gradcode.experiments.coupon.times import LAW, WAYS
from gradcode.experiments.curves import Curve, Task, train
from gradcode.experiments.pictures import blank, save
from gradcode.experiments.registry import Request

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COSTS = (0.0, 0.5)
ACCURACY = 0.9


def training(request: Request, found: Comparisons) -> None:
    """Softmax regression on the digits, with and without a cost per message: accuracy against simulated time."""
    iterations = 4 if request.quick else 100
    trained: dict[float, dict[str, Curve]] = {cost: {} for cost in COSTS}
    task = Task.of(None)
    lines = []
    for cost, runs in trained.items():
        for name, way in WAYS.items():
            request.tell(f"training on digits: c = {cost:g}, {name}, {iterations} iterations")
            cluster = SimulatedCluster(N, Delays(LAW, receive=cost))
            runs[name] = curve = train(task, way.scheme(N, 1), cluster, iterations=iterations, batch_size=300, rate=0.5)
            vectors = np.mean([report.bytes_up for report in curve.reports]) / curve.gradient_bytes
            reached = curve.reached(ACCURACY)
            lines.append(
                [
                    f"{cost:g}",
                    name,
                    f"{curve.times[-1] / iterations:.2f}",
                    "not reached" if np.isnan(reached) else f"{reached:.0f}",
                    f"{curve.losses[-1]:.4f}",
                    f"{curve.accuracies[-1]:.4f}",
                    f"{vectors:.2f}",
                ]
            )
            away = float(np.abs(np.array(curve.losses) / trained[COSTS[0]]["uncoded"].losses - 1).max())
            what = f"{name}, c = {cost:g}, digits: largest relative distance to the losses of uncoded"
            found.add(what, 0.0, away, 1e-5, "", "rounding in float64, amplified by the cyclic code")
    header = ["c", "method", "s per iteration", "seconds to 90 %", "test loss", "accuracy", "vectors at the master"]
    write_table(request.output / "training", header, lines)
    save(request, "training", _figure(trained))


def _figure(trained: dict[float, dict[str, Curve]]) -> Figure:
    """Test accuracy against simulated time, a column per cost."""
    from gradcode.reporting import plots

    figure = blank(11, 4.2)
    for axes, (cost, runs) in zip(figure.subplots(1, 2, sharey=True), trained.items(), strict=True):
        lines = {name: (curve.times, curve.accuracies) for name, curve in runs.items()}
        plots.draw_curves(axes, lines, "test accuracy", "simulated time (s)")
        axes.set_xlim(0, 0.35 * max(curve.times[-1] for curve in runs.values()))  # beyond, little happens
        axes.get_legend().remove()
        axes.set_title(f"{cost:g} s to receive a vector", loc="left", fontsize=10, fontweight="bold")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    return figure
