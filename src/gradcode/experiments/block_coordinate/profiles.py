"""Block sizes: the vectors that the authors stored, and the optimum (the spec's sections 12 and 13)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gradcode.experiments.block_coordinate.completion import likeliest
from gradcode.experiments.block_coordinate.reported import (
    BY_FREQUENCY,
    BY_TIME,
    COMPLETION,
    LARGE,
    OPTIMUM,
    RUNTIME,
    STORED,
)
from gradcode.experiments.block_coordinate.runtime import best, exact, unit
from gradcode.experiments.block_coordinate.sweeps import COLOURS
from gradcode.experiments.comparison import Comparisons, write_table
from gradcode.experiments.pictures import blank, save
from gradcode.experiments.registry import Request
from gradcode.planning import block_coordinate as planning

SETTING, LIKELY = RUNTIME[0].settings[1], COMPLETION[0].settings[1]
AUTHORS = 2.8757  # U of the authors' stored "optimum" (OURS, section 13)


def profiles(request: Request, found: Comparisons) -> None:
    """Table and figure of all blocks at N = 20."""
    request.tell("block sizes at N = 20")
    law, workers, coordinates = SETTING.law, SETTING.workers, SETTING.coordinates
    ours = {
        BY_TIME: planning.by_time(law, workers, coordinates),
        BY_FREQUENCY: planning.by_frequency(law, workers, coordinates),
        LARGE: planning.by_large_threshold(workers, sum(STORED[LARGE])),
    }
    rounded: dict[str, npt.NDArray[np.intp]] = {method: planning.round_sizes(sizes) for method, sizes in ours.items()}
    for method, sizes in rounded.items():
        differing = int((sizes != STORED[method]).sum())
        found.add(f"blocks, N = 20: {method}, entries that differ", 0, differing, 0.0, "", "whole numbers")
    value = exact(SETTING, STORED[OPTIMUM])
    found.add("runtime U of the stored optimum, N = 20 (ours)", AUTHORS, value, 1e-3 * AUTHORS, "", "1e-3 of it")
    optimum, likely = best(SETTING), likeliest(LIKELY)
    request.tell(
        "not judged: the stored optimum's blocks, which are not converged: "
        f"U = {value:.4f}, ours {optimum.value / unit(SETTING):.4f}; both are in profiles"
    )
    columns = {f"{method}, stored": np.array(sizes) for method, sizes in STORED.items()}
    columns |= {f"{method}, ours": sizes for method, sizes in rounded.items()}
    columns |= {"optimum, ours": optimum.sizes, "likeliest (L = 4e4), ours": likely.sizes}
    header = ["stragglers tolerated", *columns]
    rows = ([str(level), *(str(sizes[level]) for sizes in columns.values())] for level in range(workers))
    write_table(request.output / "profiles", header, rows)
    _draw(request, rounded, optimum.sizes, likely.sizes)


def _draw(
    request: Request,
    rounded: dict[str, npt.NDArray[np.intp]],
    optimum: npt.NDArray[np.intp],
    likely: npt.NDArray[np.intp],
) -> None:
    """Shares of the coordinates: rings are stored, lines ours."""
    figure = blank(11, 4.6)
    left, right = figure.subplots(1, 2, sharey=True)
    levels = np.arange(len(optimum))
    for method in (OPTIMUM, BY_TIME, BY_FREQUENCY):
        stored, own = np.array(STORED[method]), optimum if method == OPTIMUM else rounded[method]
        colour = COLOURS[method]
        left.plot(levels, stored / stored.sum(), "o", color=colour, markerfacecolor="none", label=f"{method}, stored")
        left.plot(levels, own / own.sum(), "-", color=colour, label=f"{method}, ours")
    left.set_title("expected runtime, L = 20,000", loc="left", fontsize=10, fontweight="bold")
    stored, colour = np.array(STORED[LARGE]), COLOURS[LARGE]
    right.plot(levels, stored / stored.sum(), "o", color=colour, markerfacecolor="none", label=f"{LARGE}, stored")
    right.plot(levels, rounded[LARGE] / stored.sum(), "-", color=colour, label=f"{LARGE}, ours")
    right.plot(levels, likely / likely.sum(), "-", color="black", label="likeliest, ours")
    right.set_title("completion probability, L = 40,000, t = 10^6.5", loc="left", fontsize=10, fontweight="bold")
    left.set_ylabel("share of the coordinates")
    for axes in (left, right):
        axes.set_yscale("log")
        axes.set_xlabel("stragglers that the block tolerates")
        axes.set_xticks(levels[::2])
        axes.legend(frameon=False, fontsize=8)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    save(request, "profiles", figure)
