"""Expected runtimes against N, µ and L (the spec's section 12)."""

from __future__ import annotations

from functools import lru_cache

import numpy.typing as npt

from gradcode.experiments.block_coordinate.reported import (
    BY_FREQUENCY,
    BY_TIME,
    CYCLES,
    HALF,
    LAYERED,
    OPTIMUM,
    PARTIAL,
    RUNTIME,
    SAMPLES,
    SINGLE,
    Setting,
    Sweep,
)
from gradcode.experiments.block_coordinate.sweeps import HEADER, NONE, Cell, Cells, judge, legend, panel
from gradcode.experiments.comparison import Comparisons, write_table
from gradcode.experiments.pictures import blank, save
from gradcode.experiments.registry import Request
from gradcode.planning import block_coordinate as planning
from gradcode.planning.block_coordinate import Baseline, Optimum

BASELINES: dict[str, Baseline] = {SINGLE: "single", PARTIAL: "partial", LAYERED: "layered"}
NOT_CONVERGED = "theirs stops above the optimum; exact: its end, run again"
TIES = "its linear program has many optima; ours: one of them"


def runtime(request: Request, found: Comparisons) -> None:
    """Three sweeps: table, comparisons, figure."""
    figure = blank(11.5, 4.6)
    rows: list[tuple[str, ...]] = []
    for axes, sweep in zip(figure.subplots(1, 3), RUNTIME, strict=True):
        request.tell(f"expected runtime against {sweep.what}")
        cells = _cells(sweep, request.quick)
        rows += judge(
            request, found, "runtime U", sweep, cells, lambda value: 0.01 * value, "1 %: theirs is from draws"
        )
        panel(axes, sweep, cells, "U = E[τ]·N / (M·b) / 1e7")
        axes.set_ylim(bottom=0)
    legend(figure, list(RUNTIME[0].reported))
    write_table(request.output / "runtime", HEADER, rows)
    save(request, "runtime", figure)


def unit(setting: Setting) -> float:
    """Seconds of U = 1."""
    return SAMPLES * CYCLES / setting.workers * 1e7


@lru_cache
def best(setting: Setting) -> Optimum:
    """The optimum, computed once."""
    return planning.optimal(setting.law, setting.workers, setting.coordinates, SAMPLES, CYCLES)


def exact(setting: Setting, sizes: npt.ArrayLike) -> float:
    """U of block sizes."""
    return planning.expected_runtime(sizes, setting.law, SAMPLES, CYCLES) / unit(setting)


def _cells(sweep: Sweep, quick: bool) -> Cells:
    steps = 500 if sweep.what == "N" else 150  # as in the authors' scripts
    return {
        method: [
            _cell(method, value, setting, steps, 1_000 if quick else 10_000)
            for value, setting in zip(reported, sweep.settings, strict=True)
        ]
        for method, reported in sweep.reported.items()
    }


def _cell(method: str, reported: float, setting: Setting, steps: int, batch: int) -> Cell:
    law, workers, coordinates = setting.law, setting.workers, setting.coordinates
    if method == OPTIMUM:
        again = planning.subgradient(law, workers, coordinates, steps=steps, batch=batch)
        return Cell(reported, exact(setting, again.sizes), best(setting).value / unit(setting), NOT_CONVERGED)
    if method in (BY_TIME, BY_FREQUENCY):
        closed = planning.by_time if method == BY_TIME else planning.by_frequency
        return Cell(reported, exact(setting, closed(law, workers, coordinates)))
    if method == HALF:
        ours = exact(setting, planning.layered_sizes(workers, coordinates, coordinates // 2))
        return Cell(reported, NONE, ours, TIES)
    value = planning.baseline_time(BASELINES[method], law, workers, coordinates, SAMPLES, CYCLES).value
    return Cell(reported, value / unit(setting))
