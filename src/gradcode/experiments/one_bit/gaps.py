"""Gaps of all methods in both settings, and the conclusions drawn from them (one_bit.md 13.2).

How large a gap is depends on the drawn problem far more than on the draws of a training, and the same for all methods:
ratios of gaps on the same problems are the steadier numbers, and both are compared.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from math import log, log10
from typing import TYPE_CHECKING

import numpy as np

from gradcode.compression import RandomK
from gradcode.compression.sparse import SEED_BITS
from gradcode.experiments.comparison import Comparisons, shown, write_table
from gradcode.experiments.one_bit.methods import METHODS, A, B, Best, Setting, best
from gradcode.experiments.pictures import blank, save
from gradcode.experiments.registry import Request

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GAPS: dict[str, dict[str, tuple[float, float | None]]] = {
    "A": {
        "SGC float": (1.22, 0.55),
        "1-bit linf": (1.75, 0.39),
        "1-bit l2": (8.46, 1.3),
        "uncoded float": (1.28, 0.58),
        "uncoded 1-bit linf": (4.06, 0.78),
        "uncoded 1-bit l2": (47.9, 9.8),
        "COCO-EF sign": (1.29, 0.58),
        "sign without feedback": (8.47, 7.4),
        "COCO-EF top-K": (1.37, 0.62),
        "random-K": (2.02, 1.1),
    },
    "B": {
        "SGC float": (0.0019, None),
        "1-bit linf": (0.044, None),
        "1-bit l2": (0.155, None),
        "uncoded float": (0.0104, None),
        "uncoded 1-bit linf": (0.164, None),
        "uncoded 1-bit l2": (0.480, None),
        "COCO-EF sign": (0.0025, None),
        "sign without feedback": (2.33, None),
        "COCO-EF top-K": (0.0038, None),
        "top-K without feedback": (3.08, None),
        "random-K": (0.104, None),
    },
}
"""Setting -> method -> the expected gap, and its ± where one is given."""

CONCLUSIONS: dict[str, tuple[str, str, dict[str, float]]] = {
    "coding shrinks the 1-bit gap, linf": ("uncoded 1-bit linf", "1-bit linf", {"A": 2.3, "B": 3.8}),
    "coding shrinks the 1-bit gap, l2": ("uncoded 1-bit l2", "1-bit l2", {"A": 5.7, "B": 3.1}),
    "linf beats l2": ("1-bit l2", "1-bit linf", {"A": 4.8, "B": 3.6}),
    "feedback shrinks the gap of signs": ("sign without feedback", "COCO-EF sign", {"A": 6, "B": 900}),
    "COCO-EF sign above SGC": ("COCO-EF sign", "SGC float", {"A": 1.06, "B": 1.27}),
}
"""How many times the first method's gap is the second's."""

BITS: dict[str, dict[str, int]] = {
    "A": {
        "SGC float": 3200,
        "1-bit linf": 132,
        "1-bit l2": 132,
        "uncoded float": 3200,
        "uncoded 1-bit linf": 132,
        "uncoded 1-bit l2": 132,
        "COCO-EF sign": 260,
        "sign without feedback": 260,
        "COCO-EF top-K": 390,
        "top-K without feedback": 390,
        "random-K": 320,
    },
    "B": {"COCO-EF sign": 52},
}
"""Of an uplink message."""


def gaps(request: Request, found: Comparisons) -> None:
    """All methods at their best step sizes; where it must be quick, setting B on fewer problems."""
    complete: dict[Setting, dict[str, Best]] = {}
    for setting, number in ((B, 3),) if request.quick else ((A, 3), (B, 8)):
        complete[setting] = {}
        for name, method in METHODS.items():
            request.tell(f"setting {setting.name}: {name}, {number} problems")
            complete[setting][name] = best(setting, method, range(number), coarse=request.quick)
        _judge(request, found, setting, complete[setting])
        _ratios(request, found, setting, complete[setting])
    for letter, own in BITS.items():
        for name, wanted in own.items():
            setting = A if letter == "A" else B
            _bits(found, setting, name, wanted)
    _table(request, complete)
    save(request, "gaps", _figure(complete))


def rounding(*given: float) -> float:
    """How much a product or quotient of these may be off, as a share of it: each is right to half its last digit."""
    return sum(0.5 * 10.0 ** int(Decimal(str(value)).as_tuple().exponent) / value for value in given)


def few_problems(request: Request, spreads: Iterable[float]) -> float:
    """The least spread to reckon with: where few problems must do, one's own says little, so that of all together."""
    return float(np.sqrt(np.mean(np.square(list(spreads))))) if request.quick else 0.0


def compare_ratio(
    found: Comparisons, what: str, wanted: float, own: float, spread: float, seeds: tuple[int, int], rounded: float
) -> None:
    """Compares in powers of ten.

    Args:
        found: gets the comparison.
        what: names it.
        wanted, own: the numbers.
        spread: of one problem, as a share.
        seeds: problems that ``wanted`` and ``own`` are means over.
        rounded: :func:`rounding` of ``wanted``.
    """
    tolerance = (4 * spread * np.sqrt(sum(1 / number for number in seeds)) + rounded) / log(10)
    why = f"4 standard errors of {seeds[0]} and {seeds[1]} problems, spread as ours, and the digits given"
    what = f"{what}: {shown(own)}, expected {shown(wanted)}"
    found.add(what, 0.0, log10(own / wanted), tolerance, "powers of 10", why)


def _judge(request: Request, found: Comparisons, setting: Setting, complete: dict[str, Best]) -> None:
    least = few_problems(request, (complete[name].spread() for name in GAPS[setting.name]))
    for name, (wanted, error) in GAPS[setting.name].items():
        own, what = complete[name], f"{setting.name}, {name}: gap"
        if error is None:
            spread, seeds = max(least, own.spread()), (setting.drawn, len(own.gaps))
            compare_ratio(found, what, wanted, own.gap, spread, seeds, rounding(wanted))
        else:
            found.add(what, wanted, own.gap, 4 * np.hypot(error, own.error), "", "4 combined standard errors")


def _ratios(request: Request, found: Comparisons, setting: Setting, complete: dict[str, Best]) -> None:
    expected = GAPS[setting.name]
    sgc = "SGC float"
    compared = {
        f"{name} over {sgc}": (name, sgc, gap / expected[sgc][0], rounding(gap, expected[sgc][0]))
        for name, (gap, _) in expected.items()
        if name not in (sgc, "COCO-EF sign")
    }
    for what, (above, below, by) in CONCLUSIONS.items():
        compared[what] = above, below, by[setting.name], rounding(by[setting.name])
    least = few_problems(request, (complete[above].spread(complete[below]) for above, below, *_ in compared.values()))
    lines = []
    for what, (above, below, wanted, rounded) in compared.items():
        high, low = complete[above], complete[below]
        ratio, spread, seeds = high.gap / low.gap, high.spread(low), (setting.drawn, len(low.gaps))
        compare_ratio(found, f"{setting.name}, {what}", wanted, ratio, max(least, spread), seeds, rounded)
        lines.append([what, shown(wanted), shown(ratio), f"{spread:.2f}"])
    header = ["ratio of gaps", "expected", "found", "relative spread of one problem"]
    write_table(request.output / f"ratios-{setting.name}", header, lines)


def _bits(found: Comparisons, setting: Setting, name: str, wanted: int) -> None:
    method, why, seed = METHODS[name], "none", 0
    if isinstance(method.compressor, RandomK):
        seed, why = SEED_BITS, f"none; without the {SEED_BITS} bits of the seed, which gradcode sends and counts"
    found.add(f"{setting.name}, {name}: bits", wanted, method.bits(setting.coordinates) - seed, 0.0, "bits", why)


def _table(request: Request, complete: dict[Setting, dict[str, Best]]) -> None:
    header, lines = ["method"], {name: [name] for name in METHODS}
    for setting, runs in complete.items():
        header += [f"{setting.name}: {what}" for what in ("expected", "gap", "γL", "bits per message")]
        for name, own in runs.items():
            wanted, error = GAPS[setting.name].get(name, (None, None))
            lines[name] += [
                "" if wanted is None else shown(wanted) + ("" if error is None else f" ± {shown(error)}"),
                f"{own.gap:.3g} ± {own.error:.2g}",
                f"{own.step:g}{'/√(t + 1)' if own.decaying else ''}",
                f"{METHODS[name].bits(setting.coordinates):g}",
            ]
    write_table(request.output / "gaps", header, lines.values())


SHOWN: dict[str, tuple[str, str]] = {
    "SGC float": ("#000000", "-"),
    "uncoded float": ("#000000", ":"),
    "1-bit linf": ("#0072B2", "-"),
    "uncoded 1-bit linf": ("#0072B2", ":"),
    "1-bit l2": ("#56B4E9", "-"),
    "uncoded 1-bit l2": ("#56B4E9", ":"),
    "COCO-EF sign": ("#D55E00", "-"),
    "sign without feedback": ("#D55E00", "--"),
    "COCO-EF top-K": ("#009E73", "-"),
    "top-K without feedback": ("#009E73", "--"),
    "random-K": ("#CC79A7", "-"),
    "random-K differences": ("#CC79A7", "--"),
    "GD without stragglers": ("#999999", "-"),
}
"""Method -> colour, and line: dotted uncoded, dashed with another memory."""


def _figure(complete: dict[Setting, dict[str, Best]]) -> Figure:
    """F − F*, mean over the problems, against iterations and against bits."""
    figure = blank(11, 0.9 + 3.9 * len(complete))
    panels = figure.subplots(len(complete), 2, sharey="row", squeeze=False)
    for (by_iteration, by_bits), (setting, runs) in zip(panels, complete.items(), strict=True):
        for name, own in runs.items():
            colour, line = SHOWN[name]
            chosen = np.unique(np.geomspace(1, setting.iterations, 120).astype(int))
            gap, sent = own.curves.mean(axis=0)[chosen], own.messages * METHODS[name].bits(setting.coordinates)
            style = {"color": colour, "linestyle": line, "linewidth": 1.5, "label": name}
            by_iteration.plot(chosen, gap, **style)
            by_bits.plot(sent[chosen], gap, **style)
        for axes, what in ((by_iteration, "iterations"), (by_bits, "bits sent to the master")):
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_ylim(bottom=min(gap for gap, _ in GAPS[setting.name].values()) / 4)
            axes.set_xlabel(what)
            axes.set_title(f"setting {setting.name}", fontsize="medium")
            for side in ("top", "right"):
                axes.spines[side].set_visible(False)
        by_iteration.set_ylabel("F − F*")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=5, frameon=False)
    return figure
