"""Every scheme and redundancy to one accuracy: one table, one picture."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from gradcode import codes, schemes
from gradcode.delays.law import Law
from gradcode.errors import GradcodeWarning
from gradcode.planning.lazy.complexity import Complexity, complexity
from gradcode.protocol import Scheme

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gradcode.training.quadratic import LinearObjective

HEADER = ("scheme", "iterations", "uploads", "downloads", "units")
MODES = ("coded", "switch", "wait_F")


def survey(
    objective: LinearObjective,
    laws: Mapping[str, Law],
    accuracy: float,
    redundancies: Sequence[int] = (2, 3, 4),
    step_size: float | None = None,
    *,
    xi: Mapping[str, float] | None = None,
    scale_with_load: bool = True,
    limit: int = 20_000,
) -> dict[str, Complexity]:
    """What each scheme takes to the accuracy, by its name; one worker per partition.

    Gradient coding and LAGC use the cyclic code that waits for N − r + 1 messages ("random"). Smoothness is that of the
    objective.

    Args:
        objective: K = N partitions.
        laws: of the time for one partition, by name.
        accuracy: of F(θ) − F*, in the objective's units.
        redundancies: r; groups only where r divides N.
        step_size: α; None: 1/L.
        xi: ξ of "LAG-WK", "LAG-PS", "LAGC", "G-LAG-WK" and "G-LAG-PS", where it is not 0.1, 1, 1, 0.1 and 0.1.
        scale_with_load: a worker takes ℓ·T for ℓ partitions; else T whatever it computes.
        limit: iterations after which to give up.
    """
    found: dict[str, Complexity] = {}
    for name, build in _builds(objective, redundancies, dict(xi or {})).items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", GradcodeWarning)  # few groups are part of the question
            scheme = build()
        found[name] = complexity(
            scheme, laws, accuracy, objective, step_size, scale_with_load=scale_with_load, limit=limit
        )
    return found


def _builds(
    objective: LinearObjective, redundancies: Sequence[int], xi: dict[str, float]
) -> dict[str, Callable[[], Scheme]]:
    workers = objective.partitions

    def constants(groups: int) -> list[float]:
        values: list[float] = objective.smoothness_by(groups).tolist()
        return values

    def weight(name: str) -> float:
        return xi.get(name, {"LAG-PS": 1.0, "LAGC": 1.0}.get(name, 0.1))

    def coded(redundancy: int) -> Scheme:
        code = codes.cyclic_repetition(workers, redundancy - 1, variant="random", dtype="float64")
        return schemes.coded(code)

    def lagc(redundancy: int, mode: str) -> Scheme:
        return schemes.lagc(
            workers,
            redundancy,
            mode,  # type: ignore[arg-type]
            xi=weight("LAGC"),
            smoothness=constants(workers),
            minibatches=False,
            variant="random",
            dtype="float64",
        )

    def glag(redundancy: int, side: str) -> Scheme:
        name = "G-LAG-WK" if side == "worker" else "G-LAG-PS"
        given = constants(workers // redundancy) if side == "server" else None
        return schemes.glag(
            workers,
            redundancy,
            side,  # type: ignore[arg-type]
            xi=weight(name),
            smoothness=given,
            minibatches=False,
        )

    whole = constants(workers)
    builds: dict[str, Callable[[], Scheme]] = {
        "GD": lambda: schemes.uncoded(workers),
        "LAG-WK": lambda: schemes.lag(workers, "worker", xi=weight("LAG-WK"), minibatches=False),
        "LAG-PS": lambda: schemes.lag(workers, "server", xi=weight("LAG-PS"), smoothness=whole, minibatches=False),
    }
    for r in redundancies:
        builds[f"GC({r})"] = lambda r=r: coded(r)  # type: ignore[misc]
        for mode in MODES:
            builds[f"LAGC({r}) {mode}"] = lambda r=r, mode=mode: lagc(r, mode)  # type: ignore[misc]
        if workers % r == 0:
            builds[f"Grouping({r})"] = lambda r=r: schemes.grouping(workers, r)  # type: ignore[misc]
            builds[f"G-LAG({r}) WK"] = lambda r=r: glag(r, "worker")  # type: ignore[misc]
            builds[f"G-LAG({r}) PS"] = lambda r=r: glag(r, "server")  # type: ignore[misc]
    return builds


def row(name: str, found: Complexity) -> list[str]:
    """Cells of a table, those of :data:`HEADER` and a clock for each law."""
    counts = [found.iterations, found.uploads, found.downloads, found.units]
    cells = [name, *map(str, counts), *(f"{seconds:.1f}" for seconds in found.clock.values())]
    return cells if found.reached else [*cells[:1], f"not in {found.iterations}", *cells[2:]]


_FAMILIES = {
    "GD": "#000000",
    "GC": "#999999",
    "Grouping": "#56B4E9",
    "LAG-WK": "#E69F00",
    "LAG-PS": "#D55E00",
    "LAGC coded": "#009E73",
    "LAGC switch": "#8FD175",
    "LAGC wait_F": "#C2B280",
    "G-LAG WK": "#CC79A7",
    "G-LAG PS": "#0072B2",
}


def pareto(found: Mapping[str, Complexity], law: str = "") -> Figure:
    """Messages against expected time: a circle per scheme, r in it, its area the partition gradients computed.

    Circles with a black rim are those that no other beats in messages, time and work at once.

    Args:
        found: of :func:`survey`.
        law: whose clock.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    points = {
        name: (own.clock[law], own.uploads + own.downloads, own.units) for name, own in found.items() if own.reached
    }
    figure = Figure(figsize=(8.6, 5.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    largest = max((units for _, _, units in points.values()), default=1)
    drawn: set[str] = set()
    for depth, (name, point) in enumerate(sorted(points.items(), key=lambda item: -item[1][2]), start=2):
        family, redundancy = _family(name)
        beaten = any(
            other != point and all(a <= b for a, b in zip(other, point, strict=True)) for other in points.values()
        )
        axes.scatter(
            *point[:2],
            s=60 + 900 * point[2] / largest,
            facecolor=_FAMILIES[family],
            edgecolor="white" if beaten else "black",
            linewidth=0.8 if beaten else 2.2,
            alpha=0.75 if beaten else 1.0,
            zorder=depth,
        )
        # What lies under a smaller point is hidden with its number.
        axes.annotate(redundancy, point[:2], ha="center", va="center", fontsize=7, color="white", zorder=depth)
        drawn.add(family)
    for family, colour in _FAMILIES.items():
        if family in drawn:
            axes.scatter([], [], s=60, color=colour, label=family)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(f"expected seconds to the accuracy{f', {law}' if law else ''}")
    axes.set_ylabel("uploads + downloads")
    axes.set_title("area: partition gradients computed; number: r; black rim: beaten by none", loc="left", fontsize=9)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure


def _family(name: str) -> tuple[str, str]:
    """ "LAGC(3) coded" -> ("LAGC coded", "3")."""
    base, _, rest = name.partition("(")
    redundancy, _, mode = rest.partition(")")
    return f"{base}{mode}", redundancy
