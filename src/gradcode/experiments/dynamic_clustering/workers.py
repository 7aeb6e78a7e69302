"""What regrouping costs and does: memory, workers that move, stragglers per cluster before and after."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gradcode import codes, schemes
from gradcode.experiments.comparison import Comparisons, write_table
from gradcode.experiments.dynamic_clustering.setting import (
    CLUSTERS,
    SEED,
    N,
    by_flag,
    counts,
    draw,
    home,
    moved,
)
from gradcode.experiments.pictures import blank, save
from gradcode.experiments.registry import Request
from gradcode.protocol import Floats
from gradcode.schemes.clustered.regrouping import Storage

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MEMORY, LOAD = 0.8, 2
STORAGES: tuple[Storage, ...] = ("cluster", "slot")
SIZE = N // CLUSTERS


def workers(request: Request, found: Comparisons) -> None:
    """A table and a figure, at memory 0.8 and load 2."""
    iterations = 30 if request.quick else 1500
    request.tell(f"stragglers per cluster and workers that move: {iterations} iterations")
    drawn = draw(MEMORY, iterations, np.random.default_rng([SEED, 3]))
    shares = {"at home": _histogram(counts(drawn.states, home(iterations)))}
    lines = [["at home", "", str(LOAD), "0", *(f"{share:.3f}" for share in shares["at home"])]]
    for number in (2, 3, CLUSTERS):
        for storage in STORAGES:
            rows = by_flag(drawn.before, number, storage)
            name = f"n={number}, {storage}"
            shares[name] = _histogram(counts(drawn.states, rows))
            memory = schemes.clustered(
                codes.clustered(N, CLUSTERS, LOAD - 1, variant="random"), number, storage=storage
            ).memory
            found.add(
                f"{name}: mini-batches a worker holds", number * (LOAD if storage == "slot" else SIZE), memory, 0.0
            )
            figures = [f"{share:.3f}" for share in shares[name]]
            lines.append([f"n={number}", storage, str(memory), f"{moved(rows):.2f}", *figures])
    header = ["candidates", "storage", "mini-batches held", "workers that move per iteration"]
    header += [f"clusters with {stragglers} stragglers" for stragglers in range(SIZE + 1)]
    write_table(request.output / "workers", header, lines)
    chosen = ("at home", "n=2, slot", "n=2, cluster", f"n={CLUSTERS}, cluster")
    save(request, "stragglers", _figure({name: shares[name] for name in chosen}))


def _histogram(stragglers: np.ndarray) -> Floats:
    """(l + 1,) shares of clusters with 0, …, l stragglers."""
    return np.bincount(stragglers.ravel(), minlength=SIZE + 1) / stragglers.size


def _figure(shares: dict[str, Floats]) -> Figure:
    figure = blank(7, 3.6)
    axes = figure.subplots()
    width = 0.8 / len(shares)
    for place, (name, own) in enumerate(shares.items()):
        axes.bar(np.arange(SIZE + 1) + (place - (len(shares) - 1) / 2) * width, own, width, label=name)
    axes.axvline(LOAD - 0.5, color="0.5", linestyle=":", linewidth=1)
    axes.set_xlabel(f"stragglers in a cluster of {SIZE}; beyond the dotted line it holds everybody up")
    axes.set_ylabel("share of clusters")
    axes.legend(frameon=False)
    return figure
