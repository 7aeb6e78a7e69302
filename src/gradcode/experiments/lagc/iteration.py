"""Expected time of one iteration (lagc.md 9.2): closed forms beside the expected numbers and draws of the schemes."""

from __future__ import annotations

import numpy as np

from gradcode import codes, schemes
from gradcode.experiments.comparison import Comparisons, write_table
from gradcode.experiments.lagc.problems import LAWS
from gradcode.experiments.registry import Request
from gradcode.planning import lazy
from gradcode.protocol import Scheme

WORKERS = 12
# Law, r: GC(r) and Grouping(r).
EXPECTED: dict[tuple[str, int], tuple[float, float]] = {
    ("exponential", 1): (3.10321, 3.10321),
    ("exponential", 2): (4.20642, 2.45000),
    ("exponential", 3): (4.80963, 2.08333),
    ("exponential", 4): (5.07951, 1.83333),
    ("exponential", 6): (4.91926, 1.50000),
    ("Pareto 2.5", 1): (4.06399, 4.06399),
    ("Pareto 2.5", 2): (4.87679, 3.37590),
    ("Pareto 2.5", 3): (5.85215, 4.01513),
    ("Pareto 2.5", 4): (6.76248, 4.83969),
    ("Pareto 1.2", 1): (44.404, 44.404),
    ("Pareto 1.2", 2): (14.8013, 6.58159),
    ("Pareto 1.2", 3): (12.9512, 5.71277),
    ("Pareto 1.2", 4): (12.4715, 6.06105),
}
# n selected voters, n = 1 to 4: LAG, and G-LAG with r = 3.
SELECTED: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "exponential": ((1.0, 1.5, 1.83333, 2.08333), (1.0, 1.5, 1.83333, 2.08333)),
    "Pareto 2.5": ((1.66667, 2.08333, 2.40385, 2.67094), (3.46154, 3.70879, 3.88129, 4.01513)),
}


def times(request: Request, found: Comparisons) -> None:
    """The table, and both kinds of selected voters."""
    draws = 4_000 if request.quick else 20_000
    request.tell(f"time of an iteration, {draws} draws")
    lines = []
    for (law, r), expected in EXPECTED.items():
        own = (lazy.coded(LAWS[law], WORKERS, r), lazy.grouped(LAWS[law], WORKERS // r, r))
        kinds = (_coded(r), schemes.grouping(WORKERS, r))
        cells = [law, str(r)]
        for name, wanted, closed, scheme in zip(("GC", "Grouping"), expected, own, kinds, strict=True):
            digits = 0.6 * 10.0 ** -(3 if wanted == 44.404 else 4 if wanted > 10 else 5)
            found.add(f"{name}({r}), {law}: closed form", wanted, closed, digits, "", "the digits given")
            mean, error = _drawn(scheme, law, draws, r)
            cells += [f"{wanted:g}", f"{closed:.5f}", f"{mean:.4f} ± {error:.4f}"]
            # β(n − k + 1) must be above 2, or the variance is infinite and the error means nothing.
            if not (law == "Pareto 1.2" and r == 1):
                found.add(f"{name}({r}), {law}: drawn", wanted, mean, 4 * error, "", "4 standard errors")
        lines.append(cells)
    header = ["law", "r"]
    for name in ("GC", "Grouping"):
        header += [f"{name}: expected", f"{name}: closed form", f"{name}: drawn"]
    write_table(request.output / "iteration", header, lines)
    for law, (lag, glag) in SELECTED.items():
        for n, (one, group) in enumerate(zip(lag, glag, strict=True), 1):
            one_time, group_time = lazy.slowest(LAWS[law], n), lazy.grouped(LAWS[law], n, 3)
            found.add(f"LAG, {n} selected, {law}", one, one_time, 6e-6, "", "the digits given")
            found.add(f"G-LAG(3), {n} selected, {law}", group, group_time, 6e-6, "", "the digits given")


def _coded(redundancy: int) -> Scheme:
    return schemes.coded(codes.cyclic_mds(WORKERS, redundancy - 1, dtype="float64", max_error=float("inf")))


def _drawn(scheme: Scheme, law: str, draws: int, seed: int) -> tuple[float, float]:
    """Mean of ``duration``, and its standard error."""
    rng = np.random.default_rng([seed, list(LAWS).index(law)])
    unit = LAWS[law].sample(rng, (draws, WORKERS))
    times = scheme.duration(unit[:, :, None], np.zeros(unit.shape))
    return float(times.mean()), float(times.std(ddof=1) / draws**0.5)
