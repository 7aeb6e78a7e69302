"""Loss against iterations, against numbers sent and against time, on the digits (settings OURS)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from gradcode import codes, schemes
from gradcode.clusters import SimulatedCluster
from gradcode.delays import Delays, ShiftedExponential
from gradcode.experiments.communication_efficient.times import MODEL
from gradcode.experiments.comparison import Comparisons, write_table
from gradcode.experiments.curves import Curve, Task, train
from gradcode.experiments.pictures import blank, save
from gradcode.experiments.registry import Request
from gradcode.planning.communication_efficient import expected_time

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WORKERS = 8
SETTINGS = ((1, 0, 1), (3, 2, 1), (3, 1, 2))
"""(d, s, m): uncoded, for stragglers only, and communication-efficient with the same load."""


def training(request: Request, found: Comparisons) -> None:
    """Softmax regression: the same losses whatever the code, for as many numbers as the code says."""
    iterations = 4 if request.quick else 100
    task, curves, lines = Task.of(None), dict[str, Curve](), []
    for d, s, m in SETTINGS:
        name = f"(d, s, m) = ({d}, {s}, {m})"
        request.tell(f"training on digits: {name}, {iterations} iterations")
        compute = ShiftedExponential(MODEL["compute_shift"], MODEL["compute_rate"])
        send = ShiftedExponential(MODEL["transmit_shift"] / m, MODEL["transmit_rate"] * m)
        code = codes.communication_efficient(WORKERS, d, s, m, dtype="float64")
        cluster = SimulatedCluster(WORKERS, Delays(compute, send))
        curve = train(task, schemes.coded(code), cluster, iterations=iterations, batch_size=320, rate=0.5)
        curves[name] = curve
        length = curve.gradient_bytes // 8
        sent = sent_numbers(curve)[-1] / iterations
        found.add(f"{name}: numbers sent per iteration", (WORKERS - s) * -(-length // m), sent, 0.0, "", "none")
        away = float(np.abs(np.array(curve.losses) / curves[next(iter(curves))].losses - 1).max())
        found.add(f"{name}: largest relative distance to the losses of uncoded", 0.0, away, 1e-9, "", "rounding")
        seconds = np.array([report.time for report in curve.reports])
        error = float(seconds.std() / np.sqrt(iterations))
        expected = expected_time(WORKERS, d, m, **MODEL)
        if not request.quick:
            why = "4 standard errors of its iterations"
            found.add(f"{name}: seconds per iteration", expected, float(seconds.mean()), 4 * error, "s", why)
        lines.append(
            [
                name,
                f"{sent:.0f}",
                f"{expected:.2f}",
                f"{seconds.mean():.2f} ± {error:.2f}",
                f"{curve.losses[-1]:.4f}",
                f"{curve.accuracies[-1]:.4f}",
            ]
        )
    header = ["code", "numbers per iteration", "E T (s)", "seconds per iteration", "test loss", "accuracy"]
    write_table(request.output / "training", header, lines)
    save(request, "training", _figure(curves))


def sent_numbers(curve: Curve) -> list[float]:
    """Numbers that the master has received before the training, and after each iteration."""
    return [0.0, *np.cumsum([report.bytes_up / 8 for report in curve.reports]).tolist()]


def _figure(curves: dict[str, Curve]) -> Figure:
    """Test loss against iterations, numbers sent and simulated time."""
    from matplotlib.ticker import MaxNLocator

    from gradcode.reporting import plots

    figure = blank(13, 4.0)
    ways: dict[str, Callable[[Curve], Sequence[float]]] = {
        "iterations": lambda curve: range(len(curve.losses)),
        "numbers sent to the master": sent_numbers,
        "simulated time (s)": lambda curve: curve.times,
    }
    for axes, (label, way) in zip(figure.subplots(1, 3, sharey=True), ways.items(), strict=True):
        plots.draw_curves(axes, {name: (way(own), own.losses) for name, own in curves.items()}, "test loss", label)
        axes.set_yscale("log")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.get_legend().remove()
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    return figure
