"""The table of a plan as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gradcode.planning.hierarchical.choice import Plan

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def heat_map(plan: Plan) -> Figure:
    """The table over (s_e, s_w), the choice marked; infeasible pairs stay white.

    Colours are by the logarithm, for the values near the best are what matters. Drawn without a display; save it by
    ``figure.savefig(path)``.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    n, m = plan.table.shape
    figure = Figure(figsize=(min(2.4 + 0.45 * m, 11), min(1.6 + 0.45 * n, 9)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    low, high = np.nanmin(plan.table), np.nanmax(plan.table)
    norm = LogNorm(low, high) if 0 < low < high else None
    image = axes.imshow(plan.table, cmap="viridis", norm=norm, origin="lower", aspect="auto", interpolation="nearest")
    s_e, s_w = plan.choice
    axes.plot(s_w, s_e, marker="*", markersize=14, color="#D55E00", markeredgecolor="white", linestyle="none")
    what = "expected time (s)" if plan.objective == "exact" else "time with every part at its mean (s)"
    bar = figure.colorbar(image, ax=axes, label=what)
    if norm is not None:
        ticks = np.geomspace(low, high, 5)
        bar.set_ticks(list(ticks), labels=[f"{tick:.3g}" for tick in ticks])
        bar.minorticks_off()
    axes.set_xlabel("worker stragglers per edge node")
    axes.set_ylabel("edge stragglers")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(f"star: the choice ({s_e}, {s_w})", fontsize=10)
    return figure
