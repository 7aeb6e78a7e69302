"""Mean times and shares of good iterations of all schemes, workers alike and unequal (dynamic_clustering.md 6 and 8.2).

A number of 8.2 comes from one run of 4000 (alike) or 3000 iterations (unequal), which at high memory is worth few
independent ones. What is allowed is therefore four times √(v·T/T₀ + v/S), with v the variance of a mean over the S
runs of T iterations here and T₀ the length of the run there; where the runs differ in which worker is how slow, too,
four times √(v + v/S). Against exact values it is four times √(v/S).

Of shares the variance has a bound, which also holds where good or bad iterations are rare. States have the maximal
correlation m^d over d iterations, and so has what depends on the states of an iteration; what depends on the states of
two has m^(d − 1). So the variance of the mean share s of T·S iterations is at most s(1 − s)/(TS) times (1 + m)/(1 − m),
or 1 + 2/(1 − m) for GC-DC.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

import numpy as np

from gradcode.experiments.comparison import Comparisons, write_table
from gradcode.experiments.dynamic_clustering import exact
from gradcode.experiments.dynamic_clustering.setting import (
    CLUSTERS,
    SEED,
    Draws,
    N,
    Rows,
    by_flag,
    by_rank,
    counts,
    draw,
    home,
    plain,
    times,
)
from gradcode.experiments.registry import Request
from gradcode.protocol import Floats

SCHEMES = ("uncoded", "GC", "GC-SC", "GC-DC n=2", "GC-DC n=3", "GC-DC n=5", "genie")
EXPECTED: dict[tuple[int, float], tuple[float, ...]] = {
    (2, 0.0): (12.21, 22.00, 17.22, 17.34, 17.21, 17.36, 9.77),
    (2, 0.8): (12.19, 22.00, 17.13, 14.29, 13.75, 13.61, 9.67),
    (2, 0.95): (12.17, 21.96, 16.13, 10.98, 9.90, 9.85, 8.70),
    (3, 0.0): (12.21, 29.89, 9.88, 9.88, 9.83, 9.81, 3.64),
    (3, 0.8): (12.19, 29.68, 9.71, 5.67, 5.48, 5.43, 3.60),
    (3, 0.95): (12.17, 29.12, 9.81, 4.02, 3.94, 3.92, 3.52),
}
"""(load, memory) -> seconds, one for each of the schemes."""

EXACT = {("uncoded", 2): 12.184, ("GC", 2): 22.009, ("GC-SC", 2): 17.327, ("GC", 3): 29.806, ("GC-SC", 3): 9.884}
"""(scheme, load) -> seconds by integration; uncoded has no load."""

SHARES: dict[str, dict[int, float]] = {
    "GC": {2: 0.02431, 3: 0.09126},
    "GC-SC": {2: 0.21934, 3: 0.77060},
    "GC-DC n=5, m=0": {2: 0.2193, 3: 0.7706},
    "GC-DC n=5, m=0.8": {2: 0.4053, 3: 0.9266},
    "GC-DC n=5, m=0.95": {2: 0.5490, 3: 0.9782},
    "genie": {2: 0.61717, 3: 0.99606},
}
"""Share of good iterations in closed form, by load."""

UNEQUAL: dict[str, tuple[float | None, float | None]] = {
    "GC": (4.05, 31.4),
    "GC-SC": (3.75, 21.2),
    "flag n=2": (None, 17.0),
    "flag n=3": (None, 16.8),
    "flag n=5": (None, 16.6),
    "rank n=2": (3.56, 18.3),
    "rank n=3": (3.51, 16.6),
    "rank n=5": (3.52, 15.0),
    "flag+rank n=2": (None, None),
    "flag+rank n=3": (None, None),
    "flag+rank n=5": (None, None),
}
"""Seconds without spells, and with those of memory 0.8; ``flag`` without spells is GC-SC exactly."""

WHY = "4 standard errors, of both"
WHY_EXACT = "4 standard errors"


def check_exact(found: Comparisons) -> None:
    """Our closed forms and integrals against those given, to their digits."""
    for load in (2, 3):
        for name, wanted in SHARES.items():
            what = f"{name}, r={load}: share of good iterations in closed form"
            digits = 5.001e-6 if name in ("GC", "GC-SC", "genie") else 5.001e-5
            found.add(what, wanted[load], _share(name, load), digits, "", "the digits given")
    for (name, load), seconds in EXACT.items():
        what = f"{name}, r={load}: mean by integration"
        found.add(what, seconds, _mean(name, load), 5.01e-4, "s", "the digits given")


def _share(name: str, load: int) -> float:
    if name == "GC":
        return exact.share_plain(load)
    if name == "GC-SC":
        return exact.share_fixed(load)
    return exact.share_genie(load) if name == "genie" else exact.share_dynamic(load, float(name.split("m=")[1]))


def _mean(name: str, load: int) -> float:
    return exact.mean_fixed(load) if name == "GC-SC" else exact.mean_plain(1 if name == "uncoded" else load)


def alike(request: Request, found: Comparisons) -> None:
    """8.2's table, section 6's shares, and who is before whom."""
    runs, iterations = (10, 200) if request.quick else (24, 4000)
    lines = []
    for memory in (0.0, 0.8, 0.95):
        request.tell(f"workers alike, memory {memory:g}: {runs} runs of {iterations} iterations")
        seconds: dict[tuple[str, int], list[float]] = defaultdict(list)
        good: dict[tuple[str, int], list[float]] = defaultdict(list)
        for run in range(runs):
            drawn = draw(memory, iterations, np.random.default_rng([SEED, round(100 * memory), run]))
            rows = assignments(drawn)
            for load in (2, 3):
                seconds["uncoded", load].append(float(drawn.seconds.max(axis=1).mean()))
                seconds["GC", load].append(float(plain(drawn.seconds, load).mean()))
                good["GC", load].append(float((drawn.states.sum(axis=1) < load).mean()))
                for name, assigned in rows.items():
                    seconds[name, load].append(float(times(drawn.seconds, assigned, load).mean()))
                    good[name, load].append(float((counts(drawn.states, assigned).max(axis=1) < load).mean()))
        for load in (2, 3):
            setting = f"r={load}, m={memory:g}"
            line = [str(load), f"{memory:g}"]
            for name, expected in zip(SCHEMES, EXPECTED[load, memory], strict=True):
                own = np.array(seconds[name, load])
                found.add(f"{name}, {setting}: mean", expected, own.mean(), _both(own, iterations, 4000), "s", WHY)
                if (name, load) in EXACT or name == "uncoded":
                    what = f"{name}, {setting}: mean against the integral"
                    found.add(what, _mean(name, load), own.mean(), _allowed(own), "s", WHY_EXACT)
                if name in ("GC", "GC-SC", "GC-DC n=5", "genie"):
                    key = name if name != "GC-DC n=5" else f"GC-DC n=5, m={memory:g}"
                    shares = np.array(good[name, load])
                    share = _share(key, load)
                    spread = (3 - memory if name == "GC-DC n=5" else 1 + memory) / (1 - memory)
                    allowed = 4 * float(np.sqrt(share * (1 - share) * spread / (runs * iterations)))
                    what = f"{name}, {setting}: share of good iterations"
                    found.add(what, share, shares.mean(), allowed, "", "4 standard errors, of their bound")
                shown = "" if name == "uncoded" else f" ({np.mean(good[name, load]):.3f})"
                line += [f"{expected:.2f}", f"{own.mean():.2f} ± {_error(own):.2f}{shown}"]
            lines.append(line)
            _in_order({name: np.array(seconds[name, load]) for name in SCHEMES}, memory, setting, found)
    header = ["r", "memory", *(cell for name in SCHEMES for cell in (f"{name}: expected (s)", "found (s), share good"))]
    write_table(request.output / "times", header, lines)


def assignments(drawn: Draws) -> dict[str, Rows]:
    """Those of the clustered schemes, with the states of the iteration before, or for the genie the present ones."""
    rows = {"GC-SC": home(len(drawn.states))}
    rows |= {f"GC-DC n={number}": by_flag(drawn.before, number) for number in (2, 3, CLUSTERS)}
    return rows | {"genie": by_flag(drawn.states, CLUSTERS)}


def _in_order(seconds: dict[str, Floats], memory: float, setting: str, found: Comparisons) -> None:
    """8.2's acceptance: at memory 0 moving is neither good nor bad, beyond that each scheme is before the next one."""
    if memory == 0:
        difference = seconds["GC-DC n=5"] - seconds["GC-SC"]
        found.add(f"GC-DC n=5 − GC-SC, {setting}", 0.0, difference.mean(), _allowed(difference), "s", WHY_EXACT)
        return
    order = ("genie", "GC-DC n=5", "GC-DC n=2", "GC-SC", "GC")
    held = all(seconds[one].mean() < seconds[other].mean() for one, other in pairwise(order))
    found.add(f"genie < GC-DC n=5 < n=2 < GC-SC < GC, {setting}", 1, int(held), 0.0, "", "none")


def unequal(request: Request, found: Comparisons) -> None:
    """The heterogeneous check: shifts from 0.5 to 2, load 2, without and with spells of memory 0.8."""
    runs, iterations = (8, 80) if request.quick else (16, 3000)
    lines = {name: [name] for name in UNEQUAL}
    for column, spells in enumerate((False, True)):
        request.tell(
            f"unequal workers, {'with' if spells else 'without'} spells: {runs} runs of {iterations} iterations"
        )
        seconds: dict[str, list[float]] = defaultdict(list)
        for run in range(runs):
            rng = np.random.default_rng([SEED, 7, column, run])
            drawn = draw(0.8, iterations, rng, rng.permutation(np.linspace(0.5, 2.0, N)))
            if not spells:
                drawn = Draws(
                    np.zeros_like(drawn.states),
                    np.zeros_like(drawn.before),
                    drawn.seconds / np.where(drawn.states, 10.0, 1.0),
                )
            seconds["GC"].append(float(plain(drawn.seconds, 2).mean()))
            ways = {"GC-SC": home(iterations)}
            for number in (2, 3, CLUSTERS):
                ways[f"flag n={number}"] = by_flag(drawn.before, number)
                ways[f"rank n={number}"] = by_rank(drawn.seconds, number, weight=1.0)
                ways[f"flag+rank n={number}"] = by_rank(drawn.seconds, number, 1.0, drawn.before)
            for name, rows in ways.items():
                seconds[name].append(float(times(drawn.seconds, rows, 2).mean()))
        what = f"unequal workers, {'memory 0.8' if spells else 'no spells'}"
        for name, expected in UNEQUAL.items():
            own, wanted = np.array(seconds[name]), expected[column]
            if wanted is not None:
                found.add(f"{name}, {what}: mean", wanted, own.mean(), _both(own, 1, 1), "s", WHY)
            lines[name] += ["" if wanted is None else f"{wanted:.2f}", f"{own.mean():.2f} ± {_error(own):.2f}"]
        if not spells:
            away = np.abs(np.array(seconds["flag n=5"]) - seconds["GC-SC"]).max()
            found.add(f"flag n=5 − GC-SC, {what}", 0.0, float(away), 0.0, "s", "none")
    header = ["scheme", "no spells: expected (s)", "found (s)", "memory 0.8: expected (s)", "found (s)"]
    write_table(request.output / "unequal", header, lines.values())


def _error(means: Floats) -> float:
    return float(means.std(ddof=1) / np.sqrt(len(means)))


def _allowed(means: Floats) -> float:
    return 4 * _error(means)


def _both(means: Floats, iterations: int, there: int) -> float:
    return float(4 * np.sqrt(means.var(ddof=1) * (iterations / there + 1 / len(means))))
