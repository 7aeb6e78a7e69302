"""Pictures of trainings, drawn by Matplotlib without a display; every function returns a figure to ``save``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MultipleLocator

from gradcode.protocol import Report

# Distinguishable with every kind of colour vision (Okabe and Ito).
COMPUTE, ABANDON, IDLE, MASTER = "#0072B2", "#E69F00", "#E8E8E8", "#333333"
LINES = ("#D55E00", "#009E73", "#0072B2", "#CC79A7", "#E69F00", "#56B4E9")

Curve = tuple[Sequence[float], Sequence[float]]


def save(figure: Figure, path: Path | str) -> None:
    """Writes the figure; the ending of ``path`` says in which format (png, svg, pdf)."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def timeline(runs: Mapping[str, Sequence[Report]], seconds: float | None = None) -> Figure:
    """When each worker computed, abandoned or idled: one panel per run, on one time axis.

    Args:
        runs: name -> reports in order.
        seconds: how much of the beginning to show; default: all of the shortest run.
    """
    rows = sum(_workers(reports) for reports in runs.values())
    figure = _figure(10, 1.6 + 0.9 * len(runs) + 0.22 * rows)
    heights = [_workers(reports) + 2 for reports in runs.values()]
    panels = figure.subplots(len(runs), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    span = seconds or min(_end(reports) - _begin(reports) for reports in runs.values())
    for axes, (name, reports) in zip(panels, runs.items(), strict=True):
        draw_timeline(axes, reports, span)
        axes.set_title(name, loc="left", fontsize=10, fontweight="bold")
    panels[-1].set_xlabel("time (s)")
    _legend(figure)
    return figure


def curves(lines: Mapping[str, Curve], ylabel: str, xlabel: str = "training time (s)") -> Figure:
    """A quantity against time, for several runs.

    Args:
        lines: name -> (times, values).
        ylabel, xlabel: what they are, with units.
    """
    figure = _figure(7, 4.2)
    draw_curves(figure.subplots(), lines, ylabel, xlabel)
    return figure


def arrivals(runs: Mapping[str, Sequence[Report]]) -> Figure:
    """Box plots of each worker's arrival times, and how often it did not arrive: one panel per run."""
    figure = _figure(10, 1.2 + 2.8 * len(runs))
    panels = figure.subplots(len(runs), 1, sharex=False, squeeze=False)[:, 0]
    for axes, (name, reports) in zip(panels, runs.items(), strict=True):
        times = np.array([report.arrivals for report in reports])
        boxes = [column[np.isfinite(column)] for column in times.T]
        axes.boxplot(
            boxes,
            positions=range(len(boxes)),
            widths=0.6,
            patch_artist=True,
            boxprops={"facecolor": "#CFE3F1", "edgecolor": COMPUTE},
            medianprops={"color": MASTER},
            whiskerprops={"color": COMPUTE},
            capprops={"color": COMPUTE},
            flierprops={"marker": ".", "markersize": 4, "markeredgecolor": COMPUTE},
        )
        late = [worker in report.stragglers for report in reports for worker in range(len(boxes))]
        share = np.array(late).reshape(len(reports), len(boxes)).mean(axis=0)
        step = -(-len(boxes) // 16)
        shown = range(0, len(boxes), step)
        axes.set_xticks(list(shown), [f"{worker}\n{share[worker]:.0%} late" for worker in shown], fontsize=8)
        axes.set_ylim(bottom=0)
        axes.set_ylabel("arrival (s)")
        axes.set_title(name, loc="left", fontsize=10, fontweight="bold")
        _tidy(axes)
    panels[-1].set_xlabel("worker, and the share of iterations that did not wait for it")
    return figure


def comparison(
    runs: Mapping[str, Sequence[Report]],
    lines: Mapping[str, Curve],
    ylabel: str,
    seconds: float | None = None,
    level: float | None = None,
) -> Figure:
    """The timelines of several runs above a quantity against time: one picture of what coding does.

    Args:
        runs: name -> reports in order.
        lines: name -> (times, values), the same names.
        ylabel: what the values are.
        seconds: how much of the beginning the timelines show.
        level: a value to mark, such as the accuracy wanted.
    """
    heights = [0.22 * _workers(reports) + 0.55 for reports in runs.values()]
    figure = _figure(10, 1.2 + sum(heights) + 3.2)
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=[sum(heights) + 0.9, 3.2])[:, 0]
    panels = upper.subplots(len(runs), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    span = seconds or min(_end(reports) - _begin(reports) for reports in runs.values())
    for axes, (name, reports) in zip(panels, runs.items(), strict=True):
        draw_timeline(axes, reports, span)
        axes.set_title(name, loc="left", fontsize=10, fontweight="bold")
    panels[-1].set_xlabel("time since the start (s)")
    _legend(upper)
    draw_curves(lower.subplots(), lines, ylabel, "training time (s)", level)
    return figure


def draw_timeline(axes: Axes, reports: Sequence[Report], seconds: float) -> None:
    """The timeline of one run into ``axes``, of its first ``seconds``."""
    workers, begin = _workers(reports), _begin(reports)
    for worker in range(workers):
        axes.broken_barh([(0.0, seconds)], (worker - 0.4, 0.8), color=IDLE, linewidth=0)
    for kind, colour in (("compute", COMPUTE), ("abandon", ABANDON)):
        bars: dict[int, list[tuple[float, float]]] = {}
        for report in reports:
            for work in report.work:
                start = max(0.0, report.start - begin + work.start)
                stop = min(seconds, report.start - begin + work.stop)
                if work.kind == kind and stop > start:
                    bars.setdefault(work.worker, []).append((start, stop - start))
        for worker, spans in bars.items():
            axes.broken_barh(spans, (worker - 0.4, 0.8), color=colour, linewidth=0)
    ends = [report.start - begin + report.time for report in reports]
    for end in ends:
        if end <= seconds:
            axes.axvline(end, color=MASTER, linewidth=0.7)
    axes.set_xlim(0, seconds)
    axes.set_ylim(workers - 0.4, -0.6)
    axes.yaxis.set_major_locator(MultipleLocator(-(-workers // 12)))
    axes.set_ylabel("worker")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)


def draw_curves(axes: Axes, lines: Mapping[str, Curve], ylabel: str, xlabel: str, level: float | None = None) -> None:
    """Values against time into ``axes``."""
    for index, (name, (times, values)) in enumerate(lines.items()):
        axes.plot(times, values, color=LINES[index % len(LINES)], label=name, linewidth=1.8)
    if level is not None:
        axes.axhline(level, color="0.5", linewidth=0.8, linestyle="--", label=f"goal: {level:g}")
    axes.set_xlim(left=0)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(axis="y", color="0.92")
    axes.set_axisbelow(True)
    axes.legend(frameon=False, loc="best")
    _tidy(axes)


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _legend(figure: Any) -> None:
    decoded = Line2D([], [], color=MASTER, linewidth=0.7, marker="|", markersize=12, linestyle="none")
    marks = [Patch(color=COMPUTE), Patch(color=ABANDON), Patch(color=IDLE), decoded]
    names = ["computed and used", "abandoned", "idle", "gradient decoded"]
    figure.legend(marks, names, loc="outside upper center", ncols=4, frameon=False, fontsize=9)


def _tidy(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _workers(reports: Sequence[Report]) -> int:
    return len(reports[0].arrivals)


def _begin(reports: Sequence[Report]) -> float:
    return reports[0].start


def _end(reports: Sequence[Report]) -> float:
    return reports[-1].start + reports[-1].time
