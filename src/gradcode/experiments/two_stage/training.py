"""Accuracy against time with the uplink in the loop, where the messages of all workers share a slow radio.

OURS throughout: the paper's networks, data and baselines could not be read, and no number here is compared with its.
Softmax regression on scikit-learn's digits by plain SGD; a seed fixes start, samples, delays and channel, the same for
all schemes. A partition takes 10 ms and an exponential part of 1 ms on average, ten times as much on a tenth of the
workers (the law of 8.2): so four of them take 44 ms, or 440, while a message, the gradient in float64 of 5.2 kB, takes
some 0.2 s over the fair uplink. T₁ follows the rule "quantile", which learns from when messages come and so allows for
the uplink. Intervals are 95 % t-intervals of means over seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import stats

from gradcode.experiments.comparison import Comparisons, write_table
from gradcode.experiments.curves import Task
from gradcode.experiments.pictures import blank, save
from gradcode.experiments.registry import Request
from gradcode.experiments.two_stage.setting import N
from gradcode.experiments.two_stage.trials import CYCLIC, IGNORE, METHODS, Trial, sorted_by_class, trial
from gradcode.experiments.two_stage.uplinks import APART, METRES, controllers, fair
from gradcode.network import Controller, FairUplink
from gradcode.protocol import Floats

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GOAL = 0.9
FRACTIONS = (0.25, 0.5, 1.0)
"""Of the time of the quickest training, at which accuracies are compared."""
APART_NAME = f"fair, {APART[0]:g} to {APART[-1]:g} m, a digit each"
CONTROLLED = "two-stage, fresh"
"""The scheme that all controllers are tried with."""
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
    """An uplink, and the data of a seed."""

    controller: Controller
    task: Callable[[int], Task]


def training(request: Request, found: Comparisons) -> None:
    """Tables accuracy and iterations, and a figure."""
    scale = Scale(2, 3) if request.quick else Scale(5, 60)
    digits = Task.of(None)
    others = controllers()
    settings = {
        f"{name}, {METRES:g} m": Setting(others.pop(name), lambda seed: digits)
        for name in ("fair, V = 20", "max-weight")
    }
    settings[APART_NAME] = Setting(fair(APART), lambda seed: sorted_by_class(digits, seed))
    trials: dict[str, dict[str, Trials]] = {}
    for name, setting in settings.items():
        trials[name] = {method: _trials(request, name, setting, method, scale) for method in METHODS}
        _check(name, setting.controller, trials[name], found)
    rows = [(name, method, own) for name, of in trials.items() for method, own in of.items()]
    for name, controller in others.items():
        own = _trials(request, name, Setting(controller, lambda seed: digits), CONTROLLED, scale)
        _check_uplink(f"{name}, {CONTROLLED}", controller, own, found)
        rows.append((f"{name}, {METRES:g} m", CONTROLLED, own))
    write_table(request.output / "accuracy", *_accuracy(trials))
    header = ["uplink", "scheme", *PARTS, *SHARES, *RADIO]
    write_table(request.output / "iterations", header, (_row(*row) for row in rows))
    save(request, "training", _figure(trials))
    if not request.quick:  # two seeds say too little
        _check_differences(trials, found)


def _trials(request: Request, name: str, setting: Setting, method: str, scale: Scale) -> Trials:
    request.tell(f"through the uplink: {name}, {method}: {scale.seeds} seeds of {scale.iterations} iterations")
    return [
        trial(setting.task(seed), METHODS[method](), setting.controller, seed, scale.iterations)
        for seed in range(scale.seeds)
    ]


# Checks: what follows from how schemes and controllers are made


def _check(name: str, controller: Controller, trials: Mapping[str, Trials], found: Comparisons) -> None:
    losses = {method: np.array([run.curve.losses for run in own]) for method, own in trials.items()}
    for method, own in trials.items():
        what, reports = f"{name}, {method}", [report for run in own for report in run.curve.reports]
        _check_uplink(what, controller, own, found)
        wanted = 0 if method == IGNORE else len(reports)
        found.add(f"{what}: exact gradients", wanted, sum(report.exact for report in reports), 0.0, "", "none")
        if method != IGNORE:
            away = float(np.abs(losses[method] / losses["uncoded"] - 1).max())
            found.add(f"{what}: largest relative distance to uncoded's test loss", 0.0, away, 1e-9, "", "rounding")
        if not method.startswith("two-stage"):  # whose stage 2 depends on what comes when
            early = sum(report.time < report.order_statistic for report in reports)
            found.add(f"{what}: iterations quicker than without uplink", 0, early, 0.0, "", "none")
    shares = np.array([run.utilisation for run in trials["uncoded"]])
    found.add(f"{name}, uncoded: least useful / started", 1.0, float(shares[:, 0].min()), 0.0, "", "none")
    found.add(f"{name}, uncoded: least messages used / sent", 1.0, float(shares[:, 2].min()), 1e-9, "", "rounding")


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
    """Differences between schemes with the same seeds, whose interval must lie on one side of 0."""
    why = "95 % t-interval of paired differences (OURS)"
    for name, of in trials.items():
        useful = {method: np.array([run.utilisation[0] for run in own]) for method, own in of.items()}
        for method in ("two-stage, fresh", "two-stage, all"):
            mean, half = interval(useful[method] - useful[CYCLIC])
            what = f"{name}: {method} has more useful / started than {CYCLIC}"
            found.add(what, 1, float(mean - half > 0), 0.0, "", why)
    final = {method: np.array([run.curve.accuracies[-1] for run in own]) for method, own in trials[APART_NAME].items()}
    mean, half = interval(final["uncoded"] - final[IGNORE])
    found.add(f"{APART_NAME}: {IGNORE} ends less accurate than uncoded", 1, float(mean - half > 0), 0.0, "", why)


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
            heard = np.array([np.mean([note.heard for note in run.notes], axis=0) for run in own]).T
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


def _row(name: str, method: str, own: Trials) -> list[str]:
    """Mean time of an iteration, its parts, three kinds of utilisation, and what became of the radio."""
    exact = np.array([[run.seconds, *run.parts, *run.utilisation, run.channels_used] for run in own])
    coarse = np.array([[1e3 * run.watts, 1e3 * run.left, run.largest_queue / 1e3] for run in own])
    return [name, method, *(_cell(values) for values in exact.T), *(_cell(values, 1) for values in coarse.T)]


def _figure(trials: Mapping[str, Mapping[str, Trials]]) -> Figure:
    """Test accuracy against time, a panel per setting: means over seeds, and their intervals as bands."""
    from gradcode.reporting.plots import LINES

    figure = blank(12, 4.2)
    panels = figure.subplots(1, len(trials), sharey=True)
    for axes, (name, of) in zip(panels, trials.items(), strict=True):
        times = np.linspace(0.0, _shortest(of), 300)
        for (method, own), colour in zip(of.items(), LINES, strict=False):
            mean, half = interval(np.array([run.accuracy(times) for run in own]))
            axes.plot(times, mean, color=colour, linewidth=1.6, label=method)
            axes.fill_between(times, mean - half, mean + half, color=colour, alpha=0.18, linewidth=0)
        axes.set_title(name, loc="left", fontsize=10, fontweight="bold")
        axes.set_xlabel("simulated time (s)")
        axes.set_xlim(0, times[-1])
        axes.grid(axis="y", color="0.93")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    panels[0].set_ylim(0, 1)
    panels[0].set_ylabel("test accuracy")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=5, frameon=False)
    return figure
