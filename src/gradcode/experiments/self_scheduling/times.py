"""The tables of the specification, the order of events at equal times, and its limits (self_scheduling.md)."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np

from gradcode import schemes
from gradcode.experiments.comparison import Comparisons, write_table
from gradcode.experiments.pictures import blank, save
from gradcode.experiments.registry import Request
from gradcode.experiments.self_scheduling.setting import NOTICE, Draws, Ratio

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CODE, RANDOM = "best exact code", "r=3 random"
COLUMNS = (CODE, "r=1", "r=2", "r=3", RANDOM)
EXPECTED: dict[tuple[int, float], dict[str, str]] = {
    (6, NOTICE): {
        "A": "2.9 2.1 1.30 1.21 1.21",
        "B": "2.2 2.8 1.32 1.24 1.23",
        "C": "3.3 5.1 1.47 1.24 1.22",
        "D": "2.1 3.0 1.46 1.23 1.23",
    },
    (20, NOTICE): {
        "A": "4.3 2.8 1.55 1.38 1.32",
        "B": "2.8 3.2 1.45 1.35 1.32",
        "C": "8.0 10.5 1.94 1.50 1.40",
        "D": "3.9 5.8 1.98 1.44 1.43",
    },
    (8, NOTICE): {"A": "- - 1.37 1.25 -", "B": "- - 1.36 1.27 -", "C": "- - 1.60 1.29 -", "D": "- - 1.55 1.24 -"},
    (8, 0.0005): {"A": "- - 1.29 - -", "B": "- - 1.25 - -", "C": "- - 1.50 - -", "D": "- - 1.42 - -"},
}
"""Workers and seconds of a notice -> model -> time over fluid, of 300 draws, by ``COLUMNS``."""

LONGER = "3.30 1.38 1.21"
"""N = 6, D, of 6000 draws: r = 1, 2, 3."""

ORDERS = {"low index first": "1.38", "jittered": "1.46", "high index first": "1.52"}
"""N = 20, D, r = 3: who is first where workers end at the same time."""

LIMITS: dict[str, dict[int, str]] = {
    "Weibull": {
        4: "2.59 2.47 1.264(.002) 1.187(.001)",
        12: "4.81 3.95 1.624(.006) 1.377(.002)",
        32: "7.23 5.19 1.941(.011) 1.571(.005)",
    },
    "Gilbert-Elliott": {
        4: "2.79 5.12 1.733(.033) 1.244(.005)",
        12: "8.86 8.04 3.109(.066) 1.729(.034)",
        32: "16.5 9.04 4.513(.068) 2.386(.053)",
    },
}
"""Law -> N -> time over fluid, of 1000 draws or more, by ``COLUMNS``; some with their standard errors."""

WHY = "4 standard errors, of both, and the digits given"
WITHIN = "5 %"
WITHIN_QUICKLY = "5 %, and 4 standard errors of few draws"


class Given(NamedTuple):
    """A number of the specification: half a unit of its last digit, and its standard error where that is given."""

    value: float
    rounding: float
    error: float | None

    @classmethod
    def read(cls, text: str) -> Self:
        """From "2.9" or "1.264(.002)"."""
        number, _, error = text.rstrip(")").partition("(")
        return cls(float(number), 0.5 * 10.0 ** -len(number.partition(".")[2]), float(error) if error else None)

    def spread(self, found: Ratio, draws: int) -> float:
        """Four standard errors of both; without one of its own, that of so many draws like ours."""
        error = found.error(draws) if self.error is None else self.error
        return 4 * float(np.hypot(error, found.error())) + self.rounding


def ratio(draws: Draws, column: str, notice: float = NOTICE) -> Ratio:
    """Time over fluid of one of ``COLUMNS``."""
    if column == CODE:
        return draws.exact_code()
    replication = int(column.removeprefix("r=")[0])
    return draws.self_scheduling(replication, "random" if column == RANDOM else "cyclic", notice=notice)


def within(given: Given, found: Ratio, quick: bool) -> tuple[float, str]:
    """5 %; few draws are allowed their own error besides."""
    tolerance = 0.05 * given.value
    return (tolerance + 4 * found.error(), WITHIN_QUICKLY) if quick else (tolerance, WITHIN)


def allowed(model: str, column: str, given: Given, found: Ratio, quick: bool, draws: int = 300) -> tuple[float, str]:
    """By how much a number of models A to D, of so many draws, may be missed, and why."""
    if model in "AB" or column.startswith("r=3"):
        return within(given, found, quick)
    return given.spread(found, draws), WHY


def times(request: Request, found: Comparisons) -> None:
    """Models A to D."""
    samples = 300 if request.quick else 10_000
    lines = []
    for (workers, notice), rows in EXPECTED.items():
        request.tell(f"{workers} workers, a notice of {1e3 * notice:g} ms: {samples} draws of A to D")
        for model, wanted in rows.items():
            draws = Draws.of(model, workers, samples, seed=0)
            line = [str(workers), f"{1e3 * notice:g}", model, f"{draws.fluid.mean():.4f}"]
            for column, text in zip(COLUMNS, wanted.split(), strict=True):
                if text == "-":
                    line += ["", ""]
                    continue
                given, own = Given.read(text), ratio(draws, column, notice)
                tolerance, why = allowed(model, column, given, own, request.quick)
                name = f"{model}, N={workers}, notice {1e3 * notice:g} ms: {column}"
                found.add(name, given.value, own.value, tolerance, "", why)
                line += [text, str(own)]
            lines.append(line)
    header = ["workers", "notice (ms)", "model", "mean fluid bound (s)"]
    header += [f"{column}: {what}" for column in COLUMNS for what in ("expected", "found")]
    write_table(request.output / "times", header, lines)
    _everything(request, found)
    _orders(request, found)


def _everything(request: Request, found: Comparisons) -> None:
    """Every worker holds everything, m = 20, a notice takes no time: 1.01 to 1.06."""
    samples = 40 if request.quick else 2000
    request.tell(f"every worker holds everything: {samples} draws of A to D")
    for workers in (6, 20):
        for model in "ABCD":
            own = Draws.of(model, workers, samples, seed=1).self_scheduling(workers, micro=20, notice=0.0)
            why = "1.01 to 1.06, their digits, and 4 standard errors"
            what = f"{model}, N={workers}: r=N, m=20, no notice"
            found.add(what, 1.035, own.value, 0.03 + 4 * own.error(), "", why)


def _orders(request: Request, found: Comparisons) -> None:
    """Model D, where many workers end at the same time, on more draws and by who is first then."""
    samples = 300 if request.quick else 10_000
    request.tell(f"model D by the order of events: {samples} draws")
    draws = Draws.of("D", 6, samples, seed=2)
    for column, given in zip(("r=1", "r=2", "r=3"), map(Given.read, LONGER.split()), strict=True):
        own = ratio(draws, column)
        tolerance, why = allowed("D", column, given, own, request.quick, 6000)
        found.add(f"D, N=6, 6000 draws: {column}", given.value, own.value, tolerance, "", why)
    equal, jittered = (Draws.of("D", 20, samples, seed=3, jitter=jitter) for jitter in (False, True))
    low = schemes.self_scheduling(20, 3, ahead=0)
    # The same placement with the workers numbered the other way round.
    high = schemes.SelfScheduling([[(worker - step) % 20 for step in range(3)] for worker in range(20)], ahead=0)
    means = {
        "low index first": equal.ratio(equal.run(low)),
        "high index first": equal.ratio(equal.run(high)),
        "jittered": jittered.ratio(jittered.run(low)),
    }
    for name, given in zip(ORDERS, map(Given.read, ORDERS.values()), strict=True):
        tolerance, why = within(given, means[name], request.quick)
        found.add(f"D, N=20, {name}: r=3", given.value, means[name].value, tolerance, "", why)
    held = all(means[one].value < means[other].value for one, other in pairwise(ORDERS))
    found.add("D, N=20: low index first < jittered < high index first", 1, int(held), 0.0, "", "none")


def limits(request: Request, found: Comparisons) -> None:
    """Weibull times, and a quarter of the workers ten times slower."""
    samples = 300 if request.quick else 10_000
    lines, means = [], dict[tuple[str, int, str], Ratio]()
    for law, rows in LIMITS.items():
        for workers, wanted in rows.items():
            request.tell(f"limits: {law}, {workers} workers: {samples} draws")
            draws = Draws.of(law, workers, samples, seed=0)
            line = [law, str(workers)]
            for column, text in zip(COLUMNS, wanted.split(), strict=False):
                given, own = Given.read(text), ratio(draws, column)
                means[law, workers, column] = own
                found.add(f"{law}, N={workers}: {column}", given.value, own.value, given.spread(own, 1000), "", WHY)
                line += [text, str(own)]
            lines.append(line)
    header = ["law", "workers", *(f"{column}: {what}" for column in COLUMNS[:4] for what in ("expected", "found"))]
    write_table(request.output / "limits", header, lines)
    save(request, "limits", _figure(means))


def _figure(means: dict[tuple[str, int, str], Ratio]) -> Figure:
    """Time over fluid against N; circles are expected."""
    figure = blank(9, 3.8)
    colours = ("#D55E00", "#E69F00", "#0072B2", "#009E73")
    for axes, (law, rows) in zip(figure.subplots(1, 2, sharey=True), LIMITS.items(), strict=True):
        wanted = [[Given.read(text).value for text in row.split()] for row in rows.values()]
        for column, colour, expected in zip(COLUMNS, colours, zip(*wanted, strict=True), strict=False):
            axes.plot([*rows], [means[law, workers, column].value for workers in rows], color=colour, label=column)
            axes.plot([*rows], expected, "o", color=colour, markerfacecolor="none")
        axes.set_title(law, loc="left", fontsize=10, fontweight="bold")
        axes.set_xlabel("workers")
        axes.set_xticks([*rows])
        axes.set_yscale("log")
        axes.set_yticks([1, 2, 5, 10, 20], ["1", "2", "5", "10", "20"])
        axes.axhline(1, color="0.5", linewidth=1)
    figure.axes[0].set_ylabel("mean time / mean fluid bound")
    figure.axes[0].legend(frameon=False, fontsize="small")
    return figure
