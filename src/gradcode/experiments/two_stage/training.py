"""Accuracy against time with the uplink in the loop, where the messages of all workers share a slow radio.

OURS throughout: the paper's networks, data and baselines could not be read, and no number here is compared with its.
Softmax regression on scikit-learn's digits by plain SGD; a seed fixes start, samples, delays and channel, the same for
all schemes. A partition takes 10 ms and an exponential part of 1 ms on average, ten times as much on a tenth of the
workers (the law of 8.2): so four of them take 44 ms, or 440, while a message, the gradient in float64 of 5.2 kB, takes
some 0.2 s over the fair uplink. T₁ is that of 8.2 and the time that sending takes. "Learned" are the scheme's own
defaults, which find T₁ and speeds from when messages come. Intervals are 95 % t-intervals of means over seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import stats

from gradcode.experiments.comparison import Comparisons, write_table
from gradcode.experiments.curves import Task
from gradcode.experiments.pictures import blank, save
from gradcode.experiments.registry import Request
from gradcode.experiments.two_stage.setting import N
from gradcode.experiments.two_stage.trials import (
    ALL,
    CYCLIC,
    FRESH,
    IGNORE,
    LAW,
    METHODS,
    UNCODED,
    Trial,
    sorted_by_class,
    trial,
)
from gradcode.experiments.two_stage.uplinks import APART, METRES, controllers, fair
from gradcode.network import Controller, FairUplink
from gradcode.protocol import Floats

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WAIT = 6.5
"""T₁ of 8.2, by the rule "shift" for messages that take no time, in units of the law."""
SORTED = f"fair, {APART[0]:g} to {APART[-1]:g} m, a digit each"
GOAL = 0.9
FRACTIONS = (0.25, 0.5, 1.0)
"""Of the time of the quickest training, at which accuracies are compared."""
PARTS = ("s per iteration", "before its last message", "computing that", "sending that")
SHARES = ("useful / started", "busy / all time", "messages used / sent")
RADIO = ("channels used", "mW per worker", "mJ left", "largest queue (kB)")

Trials = Sequence[Trial]
"""One of each seed."""


class Scale(NamedTuple):
    """How much is run."""

    seeds: int
    iterations: int


class Setting(NamedTuple):
    """An uplink, the data of a seed, and what is tried there."""

    controller: Controller
    task: Callable[[int], Task]
    methods: tuple[str, ...] = tuple(METHODS)


def training(request: Request, found: Comparisons) -> None:
    """Tables accuracy, iterations and differences, and a figure."""
    scale, digits = Scale(2, 3) if request.quick else Scale(5, 60), Task.of(None)
    settings = {
        f"{name}, {METRES:g} m": Setting(controller, lambda seed: digits, tuple(METHODS) if whole else (FRESH, IGNORE))
        for name, (controller, whole) in controllers().items()
    }
    settings[SORTED] = Setting(fair(APART), lambda seed: sorted_by_class(digits, seed))
    trials = {}
    for name, setting in settings.items():
        trials[name] = _trials(request, name, setting, scale)
        _check(name, setting.controller, trials[name], found)
    rows = (_row(name, method, own) for name, of in trials.items() for method, own in of.items())
    write_table(request.output / "iterations", ["uplink", "scheme", *PARTS, *SHARES, *RADIO], rows)
    whole = {name: of for name, of in trials.items() if len(of) == len(METHODS)}
    write_table(request.output / "accuracy", *_accuracy(whole))
    write_table(request.output / "differences", *_differences(whole))
    save(request, "training", _figure(whole))
    if not request.quick:  # two seeds say too little
        _check_differences(whole, found)


def _trials(request: Request, name: str, setting: Setting, scale: Scale) -> dict[str, Trials]:
    """By method; where T₁ is not learned, it is what the rule "shift" says and the time that sending takes.

    The latter is its mean where as many messages are waited for as stage 1 has, two slowest being ignored.
    """

    def run(method: str, wait: float = math.inf) -> Trials:
        request.tell(f"through the uplink: {name}, {method}: {scale.seeds} seeds of {scale.iterations} iterations")
        return [
            trial(setting.task(seed), METHODS[method](wait), setting.controller, seed, scale.iterations)
            for seed in range(scale.seeds)
        ]

    plain = run(IGNORE)
    wait = WAIT * LAW.unit + float(np.mean([own.parts[-1] for own in plain]))
    return {method: plain if method == IGNORE else run(method, wait) for method in setting.methods}


# Checks: what follows from how schemes and controllers are made


def _check(name: str, controller: Controller, trials: Mapping[str, Trials], found: Comparisons) -> None:
    """Also that exact gradients are those of plain training, and no others are, and that the uplink only takes time."""
    losses = {method: np.array([run.curve.losses for run in own]) for method, own in trials.items()}
    for method, own in trials.items():
        what, reports = f"{name}, {method}", [report for run in own for report in run.curve.reports]
        _check_uplink(what, controller, own, found)
        wanted = 0 if method == IGNORE else len(reports)
        found.add(f"{what}: exact gradients", wanted, sum(report.exact for report in reports), 0.0, "", "none")
        if method != IGNORE and UNCODED in trials:
            away = float(np.abs(losses[method] / losses[UNCODED] - 1).max())
            found.add(f"{what}: largest relative distance to uncoded's test loss", 0.0, away, 1e-9, "", "rounding")
        if not method.startswith("two-stage"):  # whose stage 2 depends on what comes when
            early = sum(report.time < report.order_statistic for report in reports)
            found.add(f"{what}: iterations quicker than without uplink", 0, early, 0.0, "", "none")
        if method == UNCODED:
            useful, _, used = np.array([run.utilisation for run in own]).min(axis=0)
            found.add(f"{what}: least useful / started", 1.0, useful, 0.0, "", "none")
            found.add(f"{what}: least messages used / sent", 1.0, used, 1e-9, "", "rounding")


def _check_uplink(what: str, controller: Controller, own: Trials, found: Comparisons) -> None:
    """Nothing admitted is lost, nobody spends energy that is not there, and the fair uplink keeps within its bounds."""
    lost = max(abs(run.lost) for run in own)
    found.add(f"{what}: bytes admitted, but neither served nor waiting", 0.0, lost, 1e-6, "bytes", "rounding")
    seen = [run.uplink["controller"] for run in own]
    margin = min(0.0, *(min(state["margin"]) for state in seen))
    found.add(f"{what}: energy spent that was not there", 0.0, -margin, 1e-15, "J", "rounding")
    if isinstance(controller, FairUplink):
        bounds = np.array([controller.data_bound, controller.virtual_bound, controller.energy_bound]) * (1 + 1e-12)
        broken = sum(np.count_nonzero(np.array(state["most"]) > bounds) for state in seen)
        found.add(f"{what}: queues that ever broke the bounds of Q, Z and E", 0, int(broken), 0.0, "", "none")
        radio = controller.radio
        short = sum(np.count_nonzero(np.array(state["least"]) <= radio.power_max * radio.slot) for state in seen)
        found.add(f"{what}: workers that sent with E ≤ p_max·τ", 0, int(short), 0.0, "", "none")


def _check_differences(trials: Mapping[str, Mapping[str, Trials]], found: Comparisons) -> None:
    """Differences with the same seeds, whose interval must lie above 0."""

    def check(what: str, differences: Floats) -> None:
        mean, half = interval(differences)
        found.add(what, 1, float(mean - half > 0), 0.0, "", "95 % t-interval of paired differences (OURS)")

    for name, of in trials.items():
        useful = {method: np.array([run.utilisation[0] for run in own]) for method, own in of.items()}
        for method in (FRESH, ALL):
            check(f"{name}: {method} has more useful / started than {CYCLIC}", useful[method] - useful[CYCLIC])
    heard = np.array([run.heard for run in trials[SORTED][IGNORE]])
    check(f"{SORTED}, {IGNORE}: the nearest worker's data counts more than the farthest's", heard[:, 0] - heard[:, -1])


# Tables and the figure


def interval(values: Floats, confidence: float = 0.95) -> tuple[Floats, Floats]:
    """(...) mean and half the width of the t-interval of (seeds, ...)."""
    number = len(values)
    quantile = stats.t.ppf((1 + confidence) / 2, number - 1)
    return values.mean(axis=0), quantile * values.std(axis=0, ddof=1) / np.sqrt(number)


def _cell(values: Sequence[float] | Floats, digits: int = 3) -> str:
    mean, half = interval(np.asarray(values))
    return f"{mean:.{digits}f} ± {half:.{digits}f}"


def _shortest(of: Mapping[str, Trials]) -> float:
    """Seconds after which the first training of all has ended."""
    return min(run.curve.times[-1] for own in of.values() for run in own)


def _accuracy(trials: Mapping[str, Mapping[str, Trials]]) -> tuple[list[str], list[list[str]]]:
    """Test accuracies, seconds to one of them, and how often the nearest and the farthest worker were heard."""
    lines = []
    for name, of in trials.items():
        times = np.array(FRACTIONS) * _shortest(of)
        for method, own in of.items():
            at = np.array([run.accuracy(times) for run in own]).T
            reached = np.array([run.curve.reached(GOAL) for run in own])
            never = np.isnan(reached).sum()
            heard = np.array([run.heard for run in own]).T
            lines.append(
                [
                    *(name, method, f"{times[-1]:.1f}"),
                    *(_cell(values) for values in at),
                    _cell([run.curve.accuracies[-1] for run in own]),
                    f"not in {never} of {len(own)} seeds" if never else _cell(reached, 1),
                    *(_cell(heard[worker], 2) for worker in (0, -1)),
                ]
            )
    header = ["uplink", "scheme", "quickest's end, t (s)", *(f"accuracy at {share:g} t" for share in FRACTIONS)]
    return [*header, "at the end", f"seconds to {GOAL}", "worker 0 heard", f"worker {N - 1} heard"], lines


def _differences(trials: Mapping[str, Mapping[str, Trials]]) -> tuple[list[str], list[list[str]]]:
    """What one scheme has more than another with the same seeds, which vary less than both."""
    pairs = [(method, other) for method in (FRESH, ALL) for other in (CYCLIC, UNCODED)] + [(IGNORE, UNCODED)]
    lines = []
    for name, of in trials.items():
        for method, other in pairs:
            both = list(zip(of[method], of[other], strict=True))
            seconds = _cell([own.seconds - run.seconds for own, run in both])
            final = _cell([own.curve.accuracies[-1] - run.curve.accuracies[-1] for own, run in both])
            lines.append([name, method, other, seconds, final])
    return ["uplink", "scheme", "less this one", "s per iteration", "accuracy at the end"], lines


def _row(name: str, method: str, own: Trials) -> list[str]:
    """Mean time of an iteration, its parts, three kinds of utilisation, and what became of the radio."""
    exact = np.array([[run.seconds, *run.parts, *run.utilisation, run.channels_used] for run in own])
    coarse = np.array([[1e3 * run.watts, 1e3 * run.left, run.largest_queue / 1e3] for run in own])
    return [name, method, *(_cell(values) for values in exact.T), *(_cell(values, 1) for values in coarse.T)]


def _figure(trials: Mapping[str, Mapping[str, Trials]]) -> Figure:
    """Test accuracy against time, a panel per setting: means over seeds, and their intervals as bands.

    Where T₁ is learned is left out.
    """
    from gradcode.reporting.plots import LINES

    figure = blank(12, 4.2)
    panels = figure.subplots(1, len(trials), sharey=True)
    for axes, (name, of) in zip(panels, trials.items(), strict=True):
        times = np.linspace(0.0, _shortest(of), 300)
        for method, colour in zip((FRESH, ALL, CYCLIC, UNCODED, IGNORE), LINES, strict=False):
            mean, half = interval(np.array([run.accuracy(times) for run in of[method]]))
            axes.plot(times, mean, color=colour, linewidth=1.6, label=method)
            axes.fill_between(times, mean - half, mean + half, color=colour, alpha=0.18, linewidth=0)
        axes.set_title(name, loc="left", fontsize=10, fontweight="bold")
        axes.set_xlabel("simulated time (s)")
        axes.set_xlim(0, times[-1])
        axes.grid(axis="y", color="0.93")
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    panels[0].set_ylim(0.5, 1)
    panels[0].set_ylabel("test accuracy")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=5, frameon=False)
    return figure
