"""How long until the objective is near its optimum, under several laws of delays.

Settings and readings are OURS; there are no expected numbers. Computing takes 20 ms for a sixteenth of the data, so
twice as long for workers with redundant data; how late a reply is does not depend on its worker's load.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from gradcode import delays, solvers
from gradcode.delays import Delays
from gradcode.delays.law import Source
from gradcode.experiments.comparison import Comparisons, write_table
from gradcode.experiments.encoded.asynchronous import Course, asynchronous
from gradcode.experiments.encoded.problems import COLOURS, ENCODERS, REDUNDANCY, WORKERS, Problem, Solver, ridge, solve
from gradcode.experiments.encoded.scale import Scale
from gradcode.experiments.pictures import blank, save
from gradcode.experiments.registry import Request

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COMPUTE = 0.02
"""Seconds for a sixteenth of the data."""
QUICK = delays.Exponential(10.0)
LAWS: dict[str, Source] = {
    "exponential": QUICK,
    "Pareto": delays.Pareto(1.5, 0.1 / 3),
    "bimodal": delays.Bernoulli(delays.ShiftedExponential(0.04, 100.0), 0.1, 11.0),
    "a quarter 8 times as slow": delays.slow(QUICK, dict.fromkeys(range(4), 8.0)),
    "a quarter lost": delays.slow(QUICK, dict.fromkeys(range(4), np.inf)),
    "two pairs lost": delays.slow(QUICK, dict.fromkeys((0, 1, 8, 9), np.inf)),
}
"""Replies are 0.1 s late on average, but for those of slow workers. A pair are the two with the same replica."""
K = 12
STALENESS = 4
TARGETS = (0.1, 0.01, 0.003)
"""f/f* − 1."""
METHODS: dict[str, tuple[str, int]] = {
    "wait for all": ("uncoded", WORKERS),
    "uncoded": ("uncoded", K),
    "replication": ("replication", K),
    "hadamard": ("hadamard", K),
    "hadamard, L-BFGS": ("hadamard", K),
}


def times(request: Request, scale: Scale, found: Comparisons) -> None:
    """Seconds until f/f* − 1 is below each target, and where it ends: its mean over the last quarter of the steps."""
    courses: dict[tuple[str, str], list[Course]] = {}
    for law in LAWS:
        request.tell(f"time to target: {law} delays, {scale.timed} seeds of {scale.paced} steps")
        for seed in range(scale.timed):
            for method, course in _courses(law, seed, scale.paced).items():
                courses.setdefault((law, method), []).append(course)
    lines = []
    for (law, method), own in courses.items():
        pace = np.mean([course.clock[-1] / (len(course.clock) - 1) for course in own])
        end = np.mean([course.values[-len(course.values) // 4 :].mean() for course in own])
        reached = [_shown(np.array([_time_to(course, target) for course in own])) for target in TARGETS]
        lines.append([law, method, f"{pace:.3f}", *reached, f"{end:.4f}"])
    header = [
        "delays",
        "method",
        "seconds per step",
        *(f"seconds to {target:g}" for target in TARGETS),
        "f/f* − 1 at the end",
    ]
    write_table(request.output / "times", header, lines)
    save(request, "times", _figure({key: own[0] for key, own in courses.items()}))


def _courses(law: str, seed: int, steps: int) -> dict[str, Course]:
    """Every method on the same data; f/f* − 1 against seconds."""
    rng = np.random.default_rng([37, seed])
    problem = ridge(rng)
    made = {name: build(len(problem.targets), rng) for name, build in ENCODERS.items()}
    found: dict[str, Course] = {}
    for method, (placement, k) in METHODS.items():
        if law.endswith("lost") and k == WORKERS:
            continue  # it would wait for ever
        load = 1 if placement == "uncoded" else REDUNDANCY
        late = Delays(delays.Deterministic(load * COMPUTE), LAWS[law])
        solution = solve(_solver(method, steps), problem.placed(made[placement], k), late, seed)
        found[method] = _relative(problem, Course(solution.clock, solution.values))
    seconds = max(course.clock[-1] for method, course in found.items() if method != "wait for all")
    table = Delays(delays.Deterministic(COMPUTE), LAWS[law]).table(WORKERS, seed)
    rate = 0.5 / problem.uncoded.smoothness()  # a full one oscillates at this staleness
    found["asynchronous"] = _relative(problem, asynchronous(problem, table, STALENESS, rate, seconds))
    return found


def _solver(method: str, steps: int) -> Solver:
    if method.endswith("L-BFGS"):
        return partial(solvers.lbfgs, steps=steps // 3)
    return partial(solvers.gradient_descent, steps=steps)


def _relative(problem: Problem, course: Course) -> Course:
    return Course(course.clock, course.values / problem.best - 1)


def _time_to(course: Course, target: float) -> float:
    below = np.flatnonzero(course.values <= target)
    return float(course.clock[below[0]]) if len(below) else np.inf


def _shown(seconds: np.ndarray) -> str:
    """The median; never: not in half of the seeds."""
    median = np.median(seconds)
    return f"{median:.1f}" if np.isfinite(median) else "never"


def _figure(courses: dict[tuple[str, str], Course]) -> Figure:
    """f/f* − 1 against simulated seconds, a panel per law of delays."""
    figure = blank(12, 7)
    panels = figure.subplots(2, 3, sharey=True)
    colours = {**COLOURS, "wait for all": "#000000", "hadamard, L-BFGS": "#56B4E9", "asynchronous": "#E69F00"}
    for axes, law in zip(panels.flat, LAWS, strict=True):
        own = {method: course for (name, method), course in courses.items() if name == law}
        for method, course in own.items():
            axes.plot(course.clock, np.maximum(course.values, 1e-6), color=colours[method], linewidth=1.5, label=method)
        others = [course for method, course in own.items() if method not in ("wait for all", "asynchronous")]
        axes.set_xlim(0, min(course.clock[-1] for course in others) * 0.4)
        axes.set_yscale("log")
        axes.set_ylim(1e-4, 50)
        axes.set_title(law, loc="left", fontsize=10, fontweight="bold")
        axes.grid(axis="y", color="0.93")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    for axes in panels[1]:
        axes.set_xlabel("simulated time (s)")
    for axes in panels[:, 0]:
        axes.set_ylabel("f/f* − 1")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=6, frameon=False)
    return figure
