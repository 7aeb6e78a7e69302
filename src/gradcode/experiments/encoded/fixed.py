"""The same stragglers for ever: least squares on what is left, over many sets of stragglers, and descent to them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gradcode import delays, solvers
from gradcode.codes.encoders import Encoder, Replication
from gradcode.codes.encoders import spectra as encoder_spectra
from gradcode.experiments.comparison import Comparisons, write_table
from gradcode.experiments.encoded.problems import COLOURS, ENCODERS, WORKERS, Problem, small, solve
from gradcode.experiments.encoded.scale import Scale
from gradcode.experiments.encoded.spread import WHY, tolerance
from gradcode.experiments.pictures import blank, save
from gradcode.experiments.registry import Request
from gradcode.protocol import Floats

if TYPE_CHECKING:
    from matplotlib.figure import Figure

K = 12
SUBSETS = 300
CHECKED = 40  # of them, for fact 2
WORST = {"hadamard": 1.096, "gaussian": 1.225, "replication": 1.181, "uncoded": 1.169}
"""The largest f/f* over 300 subsets, of one draw (OURS)."""


def worst_sets(request: Request, scale: Scale, found: Comparisons) -> None:
    """f(w_A)/f* over random sets A of 12 of 16 workers, beside κ_A; then gradient descent under the worst of them."""
    draws, rng = scale.fixed, np.random.default_rng(23)
    request.tell(f"fixed stragglers: {draws} draws of {SUBSETS} subsets, {K} of {WORKERS}")
    ratios = {name: np.empty((draws, SUBSETS)) for name in WORST}
    beyond = 0.0
    for draw in range(draws):
        problem = small(rng)
        for name in WORST:
            encoder = ENCODERS[name](len(problem.targets), rng)
            sets = np.sort(rng.random((SUBSETS, WORKERS)).argsort(axis=1)[:, :K], axis=1)
            own = ratios[name][draw] = _ratios(problem, encoder, sets)
            if name in ("hadamard", "gaussian"):  # of the others' rows some are missing altogether
                spectra = encoder_spectra(encoder, WORKERS, sets[:CHECKED].tolist())
                beyond = max(beyond, float((own[:CHECKED] * spectra[:, 0] / spectra[:, -1]).max()))
            if draw < scale.adversarial:
                descended = _descent(problem, encoder, sets[own.argmax()].tolist())
                what = f"adversarial stragglers, {name}, draw {draw + 1}: f/f* of gradient descent"
                found.add(what, own.max(), descended, 1e-4, "", "least squares on the same rows; 120 steps")
    lines = []
    for name, expected in WORST.items():
        own = ratios[name].max(axis=1)
        allowed = tolerance(own, 5e-4)
        item = found.add(
            f"fixed stragglers, {name}: worst f/f*", expected, float(own.mean()), allowed, "", f"{WHY}; digits"
        )
        lines.append(
            [
                name,
                f"{expected:.3f}",
                f"{own.mean():.3f} ± {own.std(ddof=1):.3f}",
                "yes" if item.agrees else "NO",
                f"{np.median(ratios[name]):.3f}",
                f"{own.max():.3f}",
            ]
        )
    what = "fixed stragglers: largest (f/f*)/κ, or 1, which fact 2 allows"
    found.add(what, 1.0, max(1.0, beyond), 1e-9, "", "rounding")
    header = ["placement", "worst f/f*: expected", "ours ± s.d.", "agrees", "median", f"worst of {draws} draws"]
    write_table(request.output / "fixed", header, lines)
    save(request, "fixed", _figure(ratios))


def _ratios(problem: Problem, encoder: Encoder, sets: npt.NDArray[np.int64]) -> Floats:
    """f/f* of least squares on the rows of each set of workers (sets, k); of two copies of a row one counts."""
    parts = WORKERS // encoder.copies if isinstance(encoder, Replication) else WORKERS
    member = np.zeros((len(sets), parts))
    member[np.arange(len(sets))[:, None], sets % parts] = 1
    rows, aims = encoder.apply(problem.features), encoder.apply(problem.targets)
    blocks = encoder.blocks(WORKERS)[:parts]
    hessians = np.einsum("sb,bij->sij", member, [rows[own].T @ rows[own] for own in blocks])
    slopes = member @ np.array([rows[own].T @ aims[own] for own in blocks])
    solutions = np.linalg.solve(hessians, slopes[:, :, None])[:, :, 0]
    residuals = solutions @ problem.features.T - problem.targets
    found: Floats = (residuals**2).sum(axis=1) / (2 * len(problem.targets) * problem.best)
    return found


def _descent(problem: Problem, encoder: Encoder, workers: list[int]) -> float:
    """f/f* after 120 steps in which the others never answer."""
    silent = delays.slow(delays.Deterministic(1.0), {i: np.inf for i in range(WORKERS) if i not in workers})
    found = solve(partial(solvers.gradient_descent, steps=120), problem.placed(encoder, K), silent, 0)
    return float(found.values[-1]) / problem.best


def _figure(ratios: dict[str, Floats]) -> Figure:
    """How many sets of stragglers are how bad; dots and rings: the worst of 300, found in each draw and expected."""
    figure = blank(8, 4.4)
    axes = figure.subplots()
    for place, (name, own) in enumerate(ratios.items()):
        values = np.sort(own.ravel())[::-1]
        share = np.arange(1, len(values) + 1) / len(values)
        axes.plot(values - 1, share, color=COLOURS[name], linewidth=1.8, label=name)
        height = 1.25 ** (1.5 - place) / SUBSETS  # side by side
        axes.plot(own.max(axis=1) - 1, np.full(len(own), height), ".", color=COLOURS[name], alpha=0.7)
        axes.plot(WORST[name] - 1, height, "o", color=COLOURS[name], markersize=11, markerfacecolor="none")
    axes.set_yscale("log")
    axes.set_xlabel("f/f* − 1 of least squares on the rows of 12 of 16 workers")
    axes.set_ylabel("share of sets that are worse")
    axes.set_title("dots: the worst of 300 sets in each draw; rings: expected", loc="left", fontsize=9)
    axes.set_xlim(left=0)
    axes.legend(frameon=False)
    axes.grid(color="0.93")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure
