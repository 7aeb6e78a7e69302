"""Other laws of time: the spec's section 13, whose numbers are OURS, found apart from this code."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gradcode.delays import Pareto, Weibull
from gradcode.delays.law import Floats
from gradcode.experiments.block_coordinate.completion import likeliest, probability
from gradcode.experiments.block_coordinate.reported import (
    BY_FREQUENCY,
    BY_TIME,
    CYCLES,
    LARGE,
    MAXIMUM,
    OPTIMUM,
    PARTIAL,
    SAMPLES,
    SINGLE,
    Setting,
    first,
    second,
)
from gradcode.experiments.block_coordinate.runtime import best
from gradcode.experiments.comparison import Comparisons, write_table
from gradcode.experiments.pictures import blank, save
from gradcode.experiments.registry import Request
from gradcode.planning import block_coordinate as planning
from gradcode.planning.block_coordinate import Baseline

UNCODED, UNIFORM = "uncoded", "uniform blocks"
BASELINES: dict[str, Baseline] = {SINGLE: "single", UNCODED: "uncoded", PARTIAL: "partial", UNIFORM: "uniform"}
MEGA = 1e6


@dataclass(frozen=True)
class Case:
    """Expected in a setting: a value per method, the best levels, and blocks per method."""

    name: str
    setting: Setting
    values: dict[str, float]
    levels: dict[str, int]
    blocks: dict[str, str]
    bound: float = 0.0


PARETO = Pareto(shape=2.5, scale=500.0)
_METHODS = (OPTIMUM, BY_TIME, BY_FREQUENCY, SINGLE, UNCODED, PARTIAL, UNIFORM)


def _values(*millions: float) -> dict[str, float]:
    return dict(zip(_METHODS, (MEGA * value for value in millions), strict=True))


TIMES = (
    Case(
        "shifted exponential, N = 4",
        Setting(first(), 4),
        _values(256.2469, 279.8354, 268.9569, 300.0, 533.3333, 290.1787, 297.8858),
        {SINGLE: 3, PARTIAL: 3},
        {
            OPTIMUM: "4367.1 1658.4 1895.1 12079.4",
            BY_TIME: "6963.29 3072.04 3449.31 6515.36",
            BY_FREQUENCY: "5783.00 2750.55 3688.95 7777.50",
        },
        185.6878 * MEGA,
    ),
    Case(
        "shifted exponential, N = 20",
        Setting(first(), 20),
        _values(70.49445, 78.85300, 78.43846, 100.0, 182.3870, 140.7351, 145.0491),
        {SINGLE: 19, PARTIAL: 15},
        {
            OPTIMUM: "4783.7 756.3 423.2 303.9 246.2 214.6 196.8 187.5 184.4 186.3 "
            "193.0 205.1 223.6 250.8 290.7 351.3 449.0 625.0 1023.4 8905.5"
        },
        51.94890 * MEGA,
    ),
    Case(
        "Pareto, N = 4",
        Setting(PARETO, 4),
        _values(275.098, 275.4911, 278.8512, 333.8675, 333.8675, 346.0028, 350.994),
        {SINGLE: 0, PARTIAL: 1},
        {OPTIMUM: "13000 4022 1604 1374", BY_TIME: "12883.69 4294.56 1789.40 1032.35"},
        215.0723 * MEGA,
    ),
    Case(
        "Weibull, N = 10",
        Setting(Weibull(shape=1.5, scale=1000.0, shift=50.0), 10),
        _values(133.7532, 138.2484, 139.2549, 205.9184, 205.9184, 147.6772, 214.7528),
        {SINGLE: 0, PARTIAL: 9},
        {OPTIMUM: "10279.8 1080.5 652.0 506.9 451.3 443.1 475.6 567.0 801.2 4742.7"},
        98.2999 * MEGA,
    ),
)
_LIKELY = (MAXIMUM, BY_TIME, BY_FREQUENCY, LARGE, SINGLE, PARTIAL, UNCODED)
PROBABILITIES = (
    Case(
        "shifted exponential, N = 20",
        Setting(second(), 20, 40_000, 10**6.5),
        dict(zip(_LIKELY, (0.99070, 0.98632, 0.98470, 0.71155, 0.68723, 0.69171, 0.38358), strict=True)),
        {SINGLE: 19, PARTIAL: 15},
        {MAXIMUM: "13262 3318 1795 1234 958 803 709 650 616 599 597 608 634 676 741 839 990 1242 1750 7978"},
    ),
    Case(
        "shifted exponential, N = 4",
        Setting(first(), 4, 20_000, 2e8),
        dict(zip(_LIKELY, (0.51159, 0.33967, 0.38729, 0.21163, 0.45119, 0.33201, 0.07750), strict=True)),
        {SINGLE: 3, PARTIAL: 3},
        {MAXIMUM: "2959 1199 1277 14565"},
    ),
    Case(
        "Pareto, N = 8",
        Setting(PARETO, 8, 20_000, 2.4e8),
        dict(zip(_LIKELY, (0.95989, 0.91178, 0.88750, 0.95741, 0.75445, 0.70612, 0.75445), strict=True)),
        {SINGLE: 0, PARTIAL: 1},
        {MAXIMUM: "7102 4418 2406 1599 1192 968 862 1452"},
    ),
)
LARGE_AT = {6.50: 0.71155, 6.55: 0.8554, 6.60: 0.9420, 6.65: 0.9819, 6.70: 0.9957}
"""log10 t -> P(τ ≤ t) of x^(lg) at N = 20, L = 4e4 (section 13)."""


def laws(request: Request, found: Comparisons) -> None:
    """Expected runtimes: table, comparisons with section 13 and with draws, figure."""
    draws = 20_000 if request.quick else 250_000
    rows, shares = [], []
    for case in TIMES:
        request.tell(f"expected runtime: {case.name}, {draws} draws")
        values, levels, sizes = _times(case.setting)
        for method, expected in case.values.items():
            _millions(found, f"E[τ], {case.name}: {method}", expected, values[method])
        bound = planning.lower_bound(case.setting.law, case.setting.workers, case.setting.coordinates, SAMPLES, CYCLES)
        _millions(found, f"E[τ], {case.name}: lower bound of Jensen", case.bound, bound)
        _compare(found, "E[τ]", case, levels, sizes)
        setting, optimum = case.setting, best(case.setting)
        drawn = planning.monte_carlo(optimum.sizes, setting.law, SAMPLES, CYCLES, draws=draws)
        name, why = f"E[τ], {case.name}: optimum, by draws", "4 standard errors"
        found.add(name, optimum.value / MEGA, drawn.mean / MEGA, 4 * drawn.error / MEGA, "1e6 s", why)
        whole = planning.expected_runtime(optimum.shares * setting.coordinates, setting.law, SAMPLES, CYCLES)
        rivals = min(value for method, value in values.items() if method in BASELINES)
        rows.append(
            [
                case.name,
                *(f"{values[method] / MEGA:.4f}" for method in _METHODS),
                f"{bound / MEGA:.4f}",
                f"{optimum.bound / MEGA:.4f}",
                f"{drawn.mean / MEGA:.3f} ± {drawn.error / MEGA:.3f}",
                f"{drawn.error * np.sqrt(draws) / drawn.mean:.2f}",
                f"{1 - optimum.value / rivals:.1%}",
                f"{optimum.gap:.1e}",
                f"{optimum.value / whole - 1:.1e}",
            ]
        )
        shares.append({method: value / optimum.value for method, value in values.items()})
    header = ["setting (1e6 s)", *_METHODS, "bound of Jensen", "bound by planes", "optimum by draws", "sd / mean"]
    write_table(
        request.output / "laws", [*header, "less than the best baseline", "gap at most", "lost by rounding"], rows
    )
    _draw(request, shares)


def likelihoods(request: Request, found: Comparisons) -> None:
    """Completion probabilities: table, and comparisons with section 13."""
    rows = []
    for case in PROBABILITIES:
        request.tell(f"completion probability: {case.name}")
        values, levels, sizes = _probabilities(case.setting)
        for method, expected in case.values.items():
            name = f"P(τ ≤ t), {case.name}: {method} (ours)"
            found.add(name, expected, values[method], 1e-3, "", "1e-3")
        _compare(found, "P(τ ≤ t)", case, levels, sizes)
        rows.append([case.name, f"{case.setting.threshold:.4g}", *(f"{values[method]:.5f}" for method in _LIKELY)])
    for power, expected in LARGE_AT.items():
        setting = Setting(second(), 20, 40_000, 10**power)
        value = probability(setting, planning.by_large_threshold(20, 40_000))
        found.add(f"P(τ ≤ t), log10 t = {power}: {LARGE} (ours)", expected, value, 1e-3, "", "1e-3")
    write_table(request.output / "likelihoods", ["setting", "t (s)", *_LIKELY], rows)


def _millions(found: Comparisons, name: str, expected: float, value: float) -> None:
    found.add(f"{name} (ours)", expected / MEGA, value / MEGA, 1e-3 * expected / MEGA, "1e6 s", "1e-3 of it")


def _compare(
    found: Comparisons, quantity: str, case: Case, levels: dict[str, int | None], sizes: dict[str, Floats]
) -> None:
    """Best levels, and blocks. An optimum is flat: its blocks are known less well than its value."""
    for method, level in case.levels.items():
        own = levels[method]
        found.add(
            f"{quantity}, {case.name}: {method}, s (ours)",
            level,
            np.nan if own is None else own,
            0.0,
            "",
            "a whole number",
        )
    for method, text in case.blocks.items():
        far = float(np.abs(sizes[method] - np.array(text.split(), dtype=float)).max())
        loose = method in (OPTIMUM, MAXIMUM)
        tolerance, why = (1e-3 * case.setting.coordinates, "1e-3 of L") if loose else (0.01, "the digits given")
        found.add(
            f"{quantity}, {case.name}: blocks of {method}, farthest (ours)", 0.0, far, tolerance, "coordinates", why
        )


def _times(setting: Setting) -> tuple[dict[str, float], dict[str, int | None], dict[str, Floats]]:
    law, workers, coordinates = setting.law, setting.workers, setting.coordinates
    optimum = best(setting)
    sizes = {
        BY_TIME: planning.by_time(law, workers, coordinates),
        BY_FREQUENCY: planning.by_frequency(law, workers, coordinates),
    }
    values = {method: planning.expected_runtime(own, law, SAMPLES, CYCLES) for method, own in sizes.items()}
    levels: dict[str, int | None] = {}
    for method, name in BASELINES.items():
        values[method], levels[method], _ = planning.baseline_time(name, law, workers, coordinates, SAMPLES, CYCLES)
    return {OPTIMUM: optimum.value} | values, levels, sizes | {OPTIMUM: optimum.shares * coordinates}


def _probabilities(setting: Setting) -> tuple[dict[str, float], dict[str, int | None], dict[str, Floats]]:
    law, workers, coordinates, threshold = setting.law, setting.workers, setting.coordinates, setting.threshold
    likely = likeliest(setting)
    closed: dict[str, npt.NDArray[np.float64]] = {
        BY_TIME: planning.by_time(law, workers, coordinates),
        BY_FREQUENCY: planning.by_frequency(law, workers, coordinates),
        LARGE: planning.by_large_threshold(workers, coordinates),
    }
    values = {method: probability(setting, own) for method, own in closed.items()}
    levels: dict[str, int | None] = {}
    for method, name in BASELINES.items():
        values[method], levels[method], _ = planning.baseline_probability(
            name, law, workers, coordinates, threshold, SAMPLES, CYCLES
        )
    return {MAXIMUM: likely.value} | values, levels, {MAXIMUM: likely.shares * coordinates}


def _draw(request: Request, shares: list[dict[str, float]]) -> None:
    """Each method's expected runtime, the optimum's being 1."""
    figure = blank(8.5, 4.2)
    axes = figure.subplots()
    methods = [method for method in _METHODS if method != OPTIMUM]
    places = np.arange(len(methods))
    colours = ("#56B4E9", "#0072B2", "#D55E00", "#009E73")
    for place, (case, own, colour) in enumerate(zip(TIMES, shares, colours, strict=True)):
        values = [own[method] for method in methods]
        axes.barh(places + 0.2 * (place - 1.5), values, 0.18, color=colour, label=case.name)
    axes.axvline(1.0, color="black", linewidth=1.2)
    axes.set_yticks(places, methods)
    axes.invert_yaxis()
    axes.set_xlabel("expected runtime / that of the optimum")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize=9)
    save(request, "laws", figure)
