"""What the experiments' pictures share; without a display."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gradcode.experiments.registry import Request


def blank(width: float, height: float) -> Figure:
    """An empty figure of so many inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(request: Request, name: str, figure: Figure) -> None:
    """Writes the figure as PNG and SVG into the request's folder."""
    from gradcode.reporting import plots

    for ending in ("png", "svg"):
        plots.save(figure, request.output / f"{name}.{ending}")
