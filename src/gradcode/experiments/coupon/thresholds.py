"""How many workers the master waits for, in closed form and from draws (bcc.md section 7, its first two tables)."""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import TYPE_CHECKING

import numpy as np

from gradcode.codes.coupon import cover_probability, mean_threshold
from gradcode.experiments.comparison import Comparisons, write_table
from gradcode.experiments.pictures import blank, save
from gradcode.experiments.registry import Request
from gradcode.planning import coupon as planning
from gradcode.planning.coupon import Estimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SEED = 17


@dataclass(frozen=True)
class Row:
    """A setting of as many partitions as workers, and what is expected: closed forms, and a mean of draws."""

    partitions: int
    load: int
    batches: int
    mean: float
    drawn: float
    error: float
    if_covered: float
    cover: float
    cyclic: int
    bound: float

    def __str__(self) -> str:
        return f"m = n = {self.partitions}, r = {self.load}"


ROWS = (
    Row(50, 10, 5, 11.41667, 11.4190, 0.0158, 11.41356, 0.999929, 41, 5),
    Row(100, 10, 10, 29.28968, 29.333, 0.036, 29.26824, 0.999734, 91, 10),
    Row(50, 7, 8, 21.74286, 21.735, 0.028, 21.37416, 0.989935, 44, 7.14),
    Row(20, 5, 4, 8.33333, 8.3468, 0.0121, 8.13213, 0.987321, 16, 4),
    Row(12, 3, 4, 8.33333, 8.3341, 0.0120, 7.23233, 0.874759, 10, 4),
)


@dataclass(frozen=True)
class Subsets:
    """Random subsets: E K exactly, (mean, standard error) of draws, and m/r·ln m, where they are given."""

    partitions: int
    load: int
    mean: float
    drawn: tuple[float, float] | None = None
    approximation: float | None = None

    def __str__(self) -> str:
        return f"random subsets, m = {self.partitions}, r = {self.load}"


SUBSETS = (
    Subsets(50, 10, 20.8394, (20.82, 0.10), 19.56),
    Subsets(100, 10, 49.9446, (49.99, 0.22), 46.05),
    Subsets(20, 5, 13.2709),
    Subsets(12, 3, 11.6480),
)


def thresholds(request: Request, found: Comparisons) -> None:
    """E K with and without a limit to the workers, P(cover), and what the others wait for."""
    draws = 20_000 if request.quick else 100_000
    rng = np.random.default_rng([SEED, 0])
    lines = []
    for row in ROWS:
        request.tell(f"workers waited for: {row}, {draws} draws")
        batches = -(-row.partitions // row.load)
        unlimited = planning.draw_thresholds(batches, None, draws, rng)
        limited = planning.draw_thresholds(batches, row.partitions, draws, rng)
        free, bound = Estimate.of(unlimited), Estimate.of(limited)
        found.add(f"{row}: batches", row.batches, batches, 0.0, "", "none")
        digits = "the digits given"
        closed = mean_threshold(batches)
        found.add(f"{row}: E K", row.mean, closed, 5.001e-6, "workers", digits)
        spread = 4 * float(np.hypot(free.error, row.error))
        found.add(f"{row}: E K, drawn", row.drawn, free.mean, spread, "workers", "4 standard errors of both")
        found.add(f"{row}: E K, drawn, from its closed form", closed, free.mean, 4 * free.error, "workers", "4 s.e.")
        fourth = float(np.mean((unlimited - free.mean) ** 4))
        variance, drawn = planning.threshold_variance(batches), float(unlimited.var(ddof=1))
        spread = 4 * float(np.sqrt((fourth - drawn**2) / draws))
        found.add(f"{row}: Var K, drawn, from its closed form", variance, drawn, spread, "", "4 s.e.")
        if_covered = planning.mean_threshold_if_covered(batches, row.partitions)
        found.add(f"{row}: E[K | covered]", row.if_covered, if_covered, 5.001e-6, "workers", digits)
        found.add(f"{row}: E[K | covered], drawn", row.if_covered, bound.mean, 4 * bound.error, "workers", "4 s.e.")
        cover = cover_probability(row.partitions, batches)
        found.add(f"{row}: P(cover)", row.cover, cover, 5.001e-7, "", digits)
        spread = 4 * float(np.sqrt(cover * (1 - cover) / draws))
        found.add(f"{row}: P(cover), drawn", row.cover, bound.covered, spread, "", "4 s.e. of a share")
        cyclic = planning.cyclic_repetition(row.partitions, row.partitions, row.load).mean_threshold
        found.add(f"{row}: cyclic repetition waits for", row.cyclic, cyclic, 0.0, "workers", "none")
        lower = planning.lower_bound(row.partitions, row.load)
        found.add(f"{row}: lower bound m/r", row.bound, lower, 5.001e-3, "workers", digits)
        lines.append(
            [
                f"{row.partitions}, {row.load}",
                str(batches),
                f"{closed:.5f}",
                f"{free.mean:.3f} ± {free.error:.3f}",
                f"{if_covered:.5f}",
                f"{bound.mean:.3f} ± {bound.error:.3f}",
                f"{cover:.6f}",
                f"{cyclic:.0f}",
                _dealt(row),
                f"{lower:.2f}",
            ]
        )
    header = ["m = n, r", "B", "E K", "drawn", "E[K given cover]", "drawn", "P(cover)", "cyclic", "dealt out", "m/r"]
    write_table(request.output / "thresholds", header, lines)
    save(request, "thresholds", _figure(rng, draws))


def subsets(request: Request, found: Comparisons) -> None:
    """E K of random subsets, whose workers send each result by itself."""
    draws = 300 if request.quick else 10_000
    rng = np.random.default_rng([SEED, 1])
    lines = []
    for row in SUBSETS:
        request.tell(f"{row}, {draws} draws")
        exact = planning.subsets_mean_threshold(row.partitions, row.load)
        drawn = Estimate.of(planning.draw_subset_thresholds(row.partitions, row.load, draws, rng))
        found.add(f"{row}: E K", row.mean, exact, 5.001e-5, "workers", "the digits given")
        found.add(f"{row}: E K, drawn, from its exact value", exact, drawn.mean, 4 * drawn.error, "workers", "4 s.e.")
        if row.drawn is not None:
            spread = 4 * float(np.hypot(drawn.error, row.drawn[1]))
            found.add(f"{row}: E K, drawn", row.drawn[0], drawn.mean, spread, "workers", "4 standard errors of both")
        near = row.partitions / row.load * log(row.partitions)
        if row.approximation is not None:
            found.add(f"{row}: m/r·ln m", row.approximation, near, 5.001e-3, "workers", "the digits given")
        batched = mean_threshold(-(-row.partitions // row.load))
        lines.append(
            [
                f"{row.partitions}, {row.load}",
                f"{exact:.4f}",
                f"{drawn.mean:.3f} ± {drawn.error:.3f}",
                f"{near:.2f}",
                f"{row.load * exact:.1f}",
                f"{batched:.1f}",
            ]
        )
    header = ["m, r", "E K", "drawn", "m/r·ln m", "vectors received", "vectors received with batches"]
    write_table(request.output / "subsets", header, lines)


def _dealt(row: Row) -> str:
    """What fractional repetition waits for on average, where the sizes allow it (OURS to compare with)."""
    if row.partitions % row.load:
        return ""
    return f"{planning.fractional_repetition(row.partitions, row.partitions, row.load).mean_threshold:.2f}"


def _figure(rng: np.random.Generator, draws: int) -> Figure:
    """P(K ≤ k): lines in closed form, dots from draws."""
    from gradcode.reporting.plots import LINES

    figure = blank(11, 4.2)
    for axes, row in zip(figure.subplots(1, 2, sharey=True), ROWS, strict=False):
        n, load = row.partitions, row.load
        methods = (
            planning.fractional_repetition(n, n, load),
            planning.batched_coupon(n, n, load),
            planning.random_subsets(n, n, load),
            planning.cyclic_repetition(n, n, load),
        )
        for method, colour in zip(methods, LINES[1:], strict=False):
            name = {"fractional repetition": "fractional repetition (dealt out)"}.get(method.name, method.name)
            below = np.cumsum(method.probabilities)
            axes.step(np.arange(1, n + 1), below, where="post", color=colour, label=name)
        drawn = planning.draw_thresholds(row.batches, n, draws, rng)
        every = np.arange(row.batches, n + 1, max(1, n // 25))
        shares = [(drawn[np.isfinite(drawn)] <= k).mean() for k in every]
        axes.plot(every, shares, "o", markersize=3.5, color=LINES[2], label="batched coupon, drawn")
        axes.axvline(n / load, color="#333333", linestyle=":", label="lower bound m/r")
        axes.set_title(str(row), loc="left", fontsize=10, fontweight="bold")
        axes.set_xlabel("workers that have answered, k")
        axes.set_xlim(0, n)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        if row is ROWS[0]:
            axes.set_ylabel("P(the gradient is there)")
            figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    return figure
