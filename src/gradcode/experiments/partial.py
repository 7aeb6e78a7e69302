"""Partial stragglers with whole gradients against whole workers: completion times, and errors at given times.

Source: Ramamoorthy, Meng, Girimaji 2024, of which the abstract and the authors' simulation notebook with stored results
were read (the project's block_coordinate.md, section 15). What is reported are means of 1000 or 2000 runs on one graph
and, for random orders, one draw of the order, both unknown: they can agree only within what those leave open. Ours are
means over several graphs and orders. The rows called own runs are OURS, computed apart from this code. What the errors
of whole workers are is not said: least squares of fixed sums give them (OURS to have found by trying).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from gradcode import schemes
from gradcode.codes import chunks
from gradcode.experiments.comparison import Comparisons, shown, write_table
from gradcode.experiments.pictures import blank, save
from gradcode.experiments.registry import Request, experiment
from gradcode.protocol import Floats
from gradcode.schemes.partial import completion

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEGREE = 8
METHODS = ("whole worker", "partial, best order", "partial, random order")
GRID = tuple(range(3, 25, 3))
"""Seconds at which the errors were taken."""

Graph = Literal["cyclic", "graph"]
Positions = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Times:
    """A row of completion times: means over ``runs`` runs, rounded up to whole seconds as the notebook's grid does.

    ``reported`` is by ``METHODS``; ``spread`` says how far the reported numbers' last digits go.
    """

    name: str
    graph: Graph
    parts: int
    failed: int
    runs: int
    reported: tuple[float, ...]
    workers: int = 200
    degree: int = DEGREE
    rounded: bool = True
    spread: float = 5e-4


TIMES = (
    Times("cyclic 200, ℓ = 1", "cyclic", 1, 7, 1000, (6.000, 2.772, 3.274)),
    Times("graph 200, ℓ = 1", "graph", 1, 7, 2000, (6.606, 2.856, 3.437)),
    Times("graph 200, ℓ = 2", "graph", 2, 6, 2000, (9.539, 4.433, 5.198)),
    Times("graph 200, ℓ = 3", "graph", 3, 5, 2000, (12.651, 6.390, 7.361)),
    # A stored file, of runs without failed workers by its numbers; how many is not said.
    Times("stored cyclic file, ℓ = 1", "cyclic", 1, 0, 1000, (5.594, 2.553, 3.189)),
    Times("stored cyclic file, ℓ = 2", "cyclic", 2, 0, 1000, (8.257, 3.924, 4.836)),
    Times("stored cyclic file, ℓ = 3", "cyclic", 3, 0, 1000, (10.973, 5.654, 6.754)),
    Times("own runs: cyclic 200, ℓ = 1", "cyclic", 1, 7, 20_000, (5.89, 2.75), spread=5e-3),
    Times("own runs: cyclic 200, ℓ = 1, continuous", "cyclic", 1, 7, 20_000, (5.39, 2.26), rounded=False, spread=5e-3),
    Times("own runs: cyclic 20, δ = 4, ℓ = 1", "cyclic", 1, 3, 20_000, (4.575, 2.872), 20, 4),
    Times("own runs: cyclic 20, δ = 4, ℓ = 1, continuous", "cyclic", 1, 3, 20_000, (4.075, 2.372), 20, 4, False),
)


@dataclass(frozen=True)
class Errors:
    """A row of errors on a graph, 1000 runs, at ``GRID`` or its beginning; ``zero``: below 1e-14 from there on."""

    workers: int
    parts: int
    method: int
    reported: tuple[float, ...]
    zero: bool = False


ERRORS = (
    Errors(200, 1, 0, (5.88, 3.45, 2.23, 1.51, 1.07, 0.784, 0.594, 0.471)),
    Errors(200, 1, 1, (0.111,), zero=True),
    Errors(200, 1, 2, (0.374, 0.008), zero=True),
    Errors(200, 2, 1, (1.48, 0.0314), zero=True),
    Errors(200, 2, 2, (2.12, 0.117, 0.006)),
    Errors(200, 3, 1, (4.34, 0.538, 0.0461, 0.008, 0.001)),
    Errors(200, 3, 2, (5.07, 0.991, 0.114, 0.01, 0.001, 0.001)),
    Errors(300, 1, 0, (7.19, 4.20, 2.68, 1.80, 1.23, 0.881, 0.646, 0.493)),
    Errors(300, 1, 1, (0.170,)),
    Errors(300, 2, 1, (1.76,)),
    Errors(300, 3, 1, (5.16,)),
    Errors(300, 1, 2, (0.537,)),
    Errors(300, 2, 2, (2.56,)),
    Errors(300, 3, 2, (6.09,)),
)
ERROR_RUNS = 1000


@dataclass(frozen=True)
class Mean:
    """Of D draws (graph and order) with n runs each: the mean, and what a single number reported may be away from it.

    ``within`` is the variance of a run, ``between`` that of the draws' own means.
    """

    value: float
    within: float
    between: float
    draws: int
    runs: int

    @classmethod
    def of(cls, values: Floats) -> Mean:
        """``values``: (draws, runs)."""
        draws, runs = values.shape
        within = float(values.var(axis=1, ddof=1).mean())
        between = max(0.0, float(values.mean(axis=1).var(ddof=1)) - within / runs)
        return cls(float(values.mean()), within, between, draws, runs)

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        return float(np.sqrt(self.between / self.draws + self.within / (self.draws * self.runs)))

    def tolerance(self, runs: int, spread: float, expected: float = 0.0) -> float:
        """4 standard deviations of a mean of ``runs`` runs of one draw from ours, and the rounding of its digits.

        ``expected`` is that of a root of a number of missing finishers, 1 at least where it is not 0: such a run's
        variance is at least m − m², also where none of ours, or of theirs, had any.
        """
        rare = max(expected, self.value)
        within = max(self.within, rare - rare**2)
        return 4 * float(np.sqrt(self.error**2 + self.between + within / runs)) + spread


@experiment(
    "partial",
    summary="partial stragglers with whole gradients: completion times and errors against whole workers",
    source="Ramamoorthy, Meng, Girimaji 2024: the authors' notebook's stored outputs; own runs are OURS",
)
def run(request: Request) -> Comparisons:
    """Writes into ``request.output``: comparison, times, errors as CSV and Markdown; errors as PNG and SVG.

    Raises:
        GradcodeError: a file cannot be written.
    """
    found = Comparisons()
    pool = Pool(20 if request.quick else 40, np.random.default_rng(15))
    _orders(request, found, pool)
    _times(request, found, pool)
    _errors(request, found, pool)
    found.write(request.output / "comparison")
    return found


class Pool:
    """Draws of graphs and orders, made once each, and the generator of all that is random."""

    def __init__(self, draws: int, rng: np.random.Generator) -> None:
        self.draws, self.rng = draws, rng
        self._made: dict[tuple[Graph, int, int], list[list[Positions]]] = {}

    def orders(self, graph: Graph, workers: int, degree: int) -> list[list[Positions]]:
        """Of every draw the positions by ``METHODS``: of whole workers the last one for every chunk."""
        key = graph, workers, degree
        if key not in self._made:
            self._made[key] = [self._draw(*key) for _ in range(self.draws)]
        return self._made[key]

    def _draw(self, graph: Graph, workers: int, degree: int) -> list[Positions]:
        held = chunks.cyclic_assignment(workers, degree)
        if graph == "graph":
            held = chunks.random_regular_assignment(workers, degree, self.rng)
        return [np.where(held, degree, 0), chunks.matching_order(held), chunks.random_order(held, self.rng)]


def paces(rng: np.random.Generator, runs: int, workers: int, failed: int) -> Floats:
    """(runs, N) seconds per chunk: exponential of mean 1; ``failed`` workers of each run never finish."""
    pace = rng.exponential(1.0, (runs, workers))
    gone = np.argsort(rng.random((runs, workers)), axis=1)[:, :failed]
    np.put_along_axis(pace, gone, np.inf, axis=1)
    return pace


def finishers(pace: Floats, order: Positions, times: Sequence[float]) -> Positions:
    """(runs, T, K) workers that have finished each chunk at each of the times."""
    held = order > 0
    holders = np.nonzero(held.T)[1].reshape(order.shape[1], -1)
    ends = pace[:, holders] * np.take_along_axis(order.T, holders, axis=1)
    return np.stack([(ends <= time).sum(axis=2) for time in times], axis=1)


def root_deficit(counts: Positions, parts: int) -> Floats:
    """sqrt(Σ_i max(ℓ − |S_i|, 0)) over the last axis: the error of the coefficients, exactly, with probability 1."""
    deficit: Floats = np.sqrt(np.maximum(parts - counts, 0).sum(axis=-1))
    return deficit


def least_squares_error(pace: Floats, held: npt.NDArray[np.bool_], times: Sequence[float]) -> Floats:
    """(runs, T) min_x ‖A_Sᵀ x − 1‖₂: every worker that has finished everything sends the plain sum of its chunks.

    The residual is the limit of λ(A_Sᵀ A_S + λ)⁻¹ 1 for small λ, here to about five digits.
    """
    shift, matrix = 1e-9, held.astype(np.float64)
    load, size = int(held[0].sum()), held.shape[1]
    errors = np.empty((len(pace), len(times)))
    for run, own in enumerate(pace):
        whole = [matrix[own * load <= time] for time in times]
        grams = np.stack([rows.T @ rows for rows in whole]) + shift * np.eye(size)
        residual = shift * np.linalg.solve(grams, np.ones((len(times), size, 1)))
        errors[run] = np.linalg.norm(residual[:, :, 0], axis=1)
    return errors


def _orders(request: Request, found: Comparisons, pool: Pool) -> None:
    """Sums of positions, what is left to do in vain, and that least squares leave what they are said to."""
    request.tell("orders of chunks, and the least squares")
    rng, best, sums, worst = pool.rng, [], [], []
    for _, matched, random in pool.orders("graph", 200, DEGREE):
        best.append(matched.sum(axis=0).max())
        sums.append(random.sum(axis=0).max())
        worst.append((chunks.worst_case(matched).max(), chunks.worst_case(random).max()))
    found.add("graph 200: largest sum of positions, best order", 36, max(best), 0.0, "", "none")
    spread = 4 * float(np.std(sums, ddof=1) / np.sqrt(len(sums)))
    why = "51 to 55 are reported, and 4 standard errors"
    found.add("graph 200: largest sum of positions, random order", 53, float(np.mean(sums)), 2 + spread, "", why)
    vain = 192 * DEGREE + DEGREE * (DEGREE - 1) // 2
    found.add("graph 200: Q_max, best order, from the formula", vain, worst[0][0], 0.0, "chunks", "none")
    lines = [["best", str(max(best)), str(max(own for own, _ in worst))]]
    lines.append(["random", f"{np.mean(sums):.1f}", f"{np.mean([own for _, own in worst]):.1f}"])
    write_table(request.output / "orders", ["order", "largest sum of positions", "Q_max for one copy"], lines)
    away, decoding = 0.0, 0.0
    for parts in (1, 2, 3):
        pace = paces(rng, 4, 200, DEGREE - 1)
        shared = chunks.steady_matrix(matched > 0, parts, rng)
        for time in (3, 6, 12, 24):
            for own in pace:
                finished = (matched > 0) & (own[:, None] * np.maximum(matched, 1) <= time)
                solved = chunks.coefficients(finished, shared)
                away = max(away, abs(solved.residual - float(root_deficit(finished.sum(axis=0), parts))))
                if finished.sum(axis=0).min() >= parts:
                    decoding = max(decoding, float(solved.deviation.max()))
    why = "rounding in float64, amplified by the random matrix"
    found.add("graph 200: least squares' residual − sqrt(Σ max(ℓ − |S|, 0))", 0.0, away, 1e-7, "", why)
    found.add("graph 200: coefficients' error with ℓ finishers of every chunk", 0.0, decoding, 1e-9, "", why)


def _times(request: Request, found: Comparisons, pool: Pool) -> None:
    runs, lines = 100 if request.quick else 1000, []
    for row in TIMES:
        request.tell(f"completion times: {row.name}, {pool.draws} draws of {runs} runs")
        values = np.empty((len(row.reported), pool.draws, runs))
        for draw, orders in enumerate(pool.orders(row.graph, row.workers, row.degree)):
            pace = paces(pool.rng, runs, row.workers, row.failed)
            for method, order in enumerate(orders[: len(row.reported)]):
                own = completion(pace, order, row.parts)
                values[method, draw] = np.ceil(own) if row.rounded else own
        for name, expected, drawn in zip(METHODS, row.reported, values, strict=False):
            mean = Mean.of(drawn)
            what = f"{row.name}: {name}"
            item = found.add(
                f"time, {what}",
                expected,
                mean.value,
                mean.tolerance(row.runs, row.spread),
                "",
                f"4 s.e. of {row.runs} runs",
            )
            lines.append(_line(what, expected, mean, item.tolerance, item.agrees))
    scheme = schemes.partial(200, DEGREE, 2)
    pace = paces(pool.rng, 50, 200, DEGREE - 2)
    apart = scheme.duration(pace[:, :, None], np.zeros_like(pace)) / completion(pace, scheme.order, 2) - 1
    found.add("schemes.partial's duration / closed form − 1", 0.0, float(np.abs(apart).max()), 1e-12, "", "rounding")
    write_table(request.output / "times", HEADER, lines)


HEADER = ["setting", "reported", "ours", "tolerance", "agrees"]


def _line(name: str, expected: float, mean: Mean, tolerance: float, agrees: bool) -> list[str]:
    ours = f"{shown(mean.value)} ± {mean.error:.1g}"
    return [name, shown(expected), ours, f"{tolerance:.2g}", "yes" if agrees else "NO"]


def _errors(request: Request, found: Comparisons, pool: Pool) -> None:
    curves: dict[tuple[int, int, int], Floats] = {}
    lines = []
    means = dict(_error_means(request, pool))
    for row in ERRORS:
        zeros = len(GRID) - len(row.reported) if row.zero else 0
        curves[row.workers, row.parts, row.method] = np.array(row.reported)
        for time, expected in zip(GRID, (*row.reported, *[0.0] * zeros), strict=False):
            mean = means[row.workers, row.parts, row.method][GRID.index(time)]
            digits = 5e-4 if expected < 1 else 5e-3
            what = f"graph {row.workers}, ℓ = {row.parts}, {METHODS[row.method]}, T = {time}"
            item = found.add(
                f"error, {what}",
                expected,
                mean.value,
                mean.tolerance(ERROR_RUNS, digits, expected),
                "",
                f"4 s.e. of {ERROR_RUNS} runs",
            )
            lines.append(_line(what, expected, mean, item.tolerance, item.agrees))
    order = pool.orders("cyclic", 200, DEGREE)[0][1]
    cyclic = root_deficit(finishers(paces(pool.rng, 2000 if request.quick else 20_000, 200, 7), order, [3]), 1)
    mean = Mean(float(cyclic.mean()), float(cyclic.var(ddof=1)), 0.0, 1, cyclic.size)
    why = "4 standard errors, of both"
    tolerance = 4 * float(np.hypot(0.003, mean.error))
    item = found.add("error, own runs: cyclic 200, ℓ = 1, best order, T = 3", 0.118, mean.value, tolerance, "", why)
    lines.append(_line(item.name.removeprefix("error, "), item.expected, mean, tolerance, item.agrees))
    write_table(request.output / "errors", HEADER, lines)
    save(request, "errors", _figure(curves, means))


Setting = tuple[int, int, int]
"""Workers, parts, method."""


def _error_means(request: Request, pool: Pool) -> Iterator[tuple[Setting, list[Mean]]]:
    """For every setting the errors at ``GRID``."""
    runs = 50 if request.quick else 500
    fewer = 3 if request.quick else 25  # a system of equations for each
    for workers in (200, 300):
        request.tell(f"errors: graph {workers}, {pool.draws} draws of {runs} runs")
        drawn = pool.orders("graph", workers, DEGREE)
        values = np.empty((3, 2, len(GRID), pool.draws, runs))
        whole = np.empty((len(GRID), pool.draws, fewer))
        for draw, (last, *orders) in enumerate(drawn):
            pace = paces(pool.rng, runs, workers, DEGREE - 1)
            whole[:, draw] = least_squares_error(pace[:fewer], last > 0, GRID).T
            for method, order in enumerate(orders):
                counts = finishers(pace, order, GRID)
                for parts in (1, 2, 3):
                    values[parts - 1, method, :, draw] = root_deficit(counts, parts).T
        yield (workers, 1, 0), [Mean.of(own) for own in whole]
        for parts in (1, 2, 3):
            for method in (1, 2):
                yield (workers, parts, method), [Mean.of(own) for own in values[parts - 1, method - 1]]


def _figure(reported: dict[Setting, Floats], means: dict[Setting, list[Mean]]) -> Figure:
    """Error against time, a column per ℓ and a row per graph: lines are ours, circles reported."""
    figure = blank(11, 6.6)
    panels = figure.subplots(2, 3, sharex=True, sharey="row")
    colours = ("#D55E00", "#0072B2", "#009E73")
    for row, workers in enumerate((200, 300)):
        for column, parts in enumerate((1, 2, 3)):
            axes = panels[row, column]
            for method, (name, colour) in enumerate(zip(METHODS, colours, strict=True)):
                if (workers, parts, method) not in means:
                    continue
                ours = [mean.value or np.nan for mean in means[workers, parts, method]]
                axes.plot(GRID, ours, color=colour, label=name)
                own = reported.get((workers, parts, method), np.zeros(0))
                axes.plot(GRID[: len(own)], own, "o", color=colour, markerfacecolor="none", label=f"{name}: reported")
            axes.set_yscale("log")
            axes.set_ylim(bottom=1e-4)
            axes.set_title(f"graph {workers}, ℓ = {parts}", loc="left", fontsize=10, fontweight="bold")
            for side in ("top", "right"):
                axes.spines[side].set_visible(False)
            if row:
                axes.set_xlabel("time (mean seconds per chunk)")
        panels[row, 0].set_ylabel("error of the coefficients")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    return figure
