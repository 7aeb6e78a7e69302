"""Equiangular frames, and what is left of the spectrum when workers are missing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from gradcode.codes import encoders
from gradcode.experiments.comparison import Comparisons, shown, write_table
from gradcode.experiments.encoded.problems import WORKERS
from gradcode.experiments.encoded.scale import Scale
from gradcode.experiments.encoded.spread import WHY, tolerance
from gradcode.experiments.pictures import blank, save
from gradcode.experiments.registry import Request
from gradcode.protocol import Floats

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Make = Callable[[], encoders.Encoder]
Draw = Callable[[np.random.Generator], encoders.Encoder]

FRAMES: dict[str, tuple[Make, int, int, float]] = {
    "steiner v = 4": (lambda: encoders.steiner(6), 16, 6, 1 / 3),
    "steiner v = 8": (lambda: encoders.steiner(28), 64, 28, 1 / 7),
    "paley q = 13": (lambda: encoders.paley(7), 14, 7, 0.277350),
    "paley q = 61": (lambda: encoders.paley(31), 62, 31, 0.128037),
}

DRAWN: dict[str, Draw] = {
    "hadamard": lambda rng: encoders.hadamard(128, rng=rng),
    "haar": lambda rng: encoders.haar(128, rng=rng),
    "gaussian": lambda rng: encoders.gaussian(128, rng=rng),
    "steiner v = 16, natural": lambda rng: encoders.steiner(120, shuffle=False),
    "paley q = 241, natural": lambda rng: encoders.paley(121, shuffle=False),
}
EXPECTED: dict[int, tuple[tuple[float, float, float], ...]] = {
    14: ((0.169, 1.143, 0.750), (0, 1.143, 0.762), (0.051, 3.178, 0), (0, 1.143, 0.758), (0.034, 1.143, 0.750)),
    12: ((0.071, 1.333, 0.500), (0, 1.333, 0.556), (0.027, 3.368, 0), (0, 1.333, 0.550), (0.0015, 1.333, 0.500)),
    10: ((0.021, 1.600, 0.250), (0, 1.600, 0.380), (0.009, 3.750, 0), (0, 1.600, 0.375), (0, 1.600, 0.250)),
    8: ((0, 2.000, 0), (0, 2.000, 0.239), (0, 4.053, 0), (0, 2.000, 0.233), (0, 2.000, 0.006)),
}
"""k -> smallest eigenvalue, largest, share at 1/η, of one draw of 100 subsets (OURS)."""
WHAT = ("smallest", "largest", "share at 1/η")
SUBSETS = 100
WITHIN = 1e-9  # of 1/η, to count as at it


def frames(request: Request, scale: Scale, found: Comparisons) -> None:
    """Sizes and coherence of the equiangular tight frames."""
    lines = []
    for name, (make, rows, columns, coherence) in FRAMES.items():
        matrix = make().matrix
        gram = matrix @ matrix.T
        others = np.abs(gram[~np.eye(len(matrix), dtype=bool)])
        welch = float(np.sqrt((rows - columns) / (columns * (rows - 1))))
        for what, expected, own in (("rows", rows, matrix.shape[0]), ("columns", columns, matrix.shape[1])):
            found.add(f"{name}: {what}", expected, own, 0.0, "", "none")
        found.add(f"{name}: coherence", coherence, float(others.max()), 5e-7, "", "the digits given")
        away = float(max(np.abs(others - welch).max(), np.abs(np.diag(gram) - 1).max()))
        found.add(f"{name}: largest distance to the Welch bound", 0.0, away, 1e-12, "", "rounding")
        lines.append([name, f"{rows} × {columns}", f"{rows / columns:.4f}", f"{others.max():.6f}", f"{away:.1e}"])
    write_table(request.output / "frames", ["frame", "size", "β", "coherence", "distance to the Welch bound"], lines)


def spectrum(request: Request, scale: Scale, found: Comparisons) -> None:
    """The smallest and largest eigenvalue over random subsets, and how many lie at 1/η."""
    draws, rng = scale.spectra, np.random.default_rng(19)
    lines, curves = [], dict[tuple[str, int], Floats]()
    for place, (name, draw) in enumerate(DRAWN.items()):
        request.tell(f"spectra: {name}, {draws} draws of {SUBSETS} subsets")
        made = [draw(rng) for _ in range(draws)]
        for k, expected in EXPECTED.items():
            numbers, unclear = np.empty((draws, 3)), 0.0
            for number, encoder in enumerate(made):
                subsets = [rng.choice(WORKERS, k, replace=False).tolist() for _ in range(SUBSETS)]
                values = encoders.spectra(encoder, WORKERS, subsets)
                away = np.abs(values - WORKERS / k)
                numbers[number] = values.min(), values.max(), (away < WITHIN).mean()
                unclear = max(unclear, float((away < 1e3 * WITHIN).mean() - (away < WITHIN).mean()))
                curves[name, k] = values
            line = [name, str(k)]
            for what, wanted, own in zip(WHAT, expected[place], numbers.T, strict=True):
                allowed, why = tolerance(own, 5e-5 if 0 < wanted < 0.01 else 5e-4), f"{WHY}; digits"
                if what == WHAT[2] and unclear:
                    allowed, why = allowed + unclear, f"{WHY}; digits; eigenvalues within 1e-6 but not 1e-9 of 1/η"
                name_of_it = f"spectrum, {name}, k = {k}: {what}"
                item = found.add(name_of_it, wanted, float(own.mean()), allowed, "", why)
                line += [shown(wanted), f"{own.mean():.4f} ± {own.std(ddof=1):.4f}", "yes" if item.agrees else "NO"]
            lines.append(line)
    header = ["encoder", "k of 16"]
    for what in WHAT:
        header += [f"{what}: expected", f"{what}: ours ± s.d.", "agrees"]
    write_table(request.output / "spectra", header, lines)
    save(request, "spectra", _figure(curves))


def _figure(curves: dict[tuple[str, int], Floats]) -> Figure:
    """Eigenvalues in order, a panel per k: lines are means over subsets, shades from the smallest to the largest."""
    figure = blank(11, 7)
    panels = figure.subplots(2, 2, sharex=True)
    colours = ("#0072B2", "#E69F00", "#CC79A7", "#009E73", "#D55E00")
    for axes, k in zip(panels.flat, EXPECTED, strict=True):
        for (name, own), colour in zip(((n, curves[n, k]) for n in DRAWN), colours, strict=True):
            place = np.linspace(0, 1, own.shape[1])
            style = "--" if name.startswith("paley") else "-"  # it lies on hadamard's
            axes.plot(place, own.mean(axis=0), style, color=colour, linewidth=1.8, label=name)
            axes.fill_between(place, own.min(axis=0), own.max(axis=0), color=colour, alpha=0.15, linewidth=0)
        axes.axhline(1.0, color="0.4", linewidth=0.8, linestyle=":")
        axes.set_title(f"{k} of {WORKERS} workers: 1/η = {WORKERS / k:.3f}", loc="left", fontsize=10, fontweight="bold")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 4.2)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    for axes in panels[1]:
        axes.set_xlabel("rank of the eigenvalue, as a share of n")
    for axes in panels[:, 0]:
        axes.set_ylabel("eigenvalue of $E_A$")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=5, frameon=False)
    return figure
