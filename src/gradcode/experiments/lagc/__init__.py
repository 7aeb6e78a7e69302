"""Lazy aggregation, grouping and gradient coding: Zhang and Simeone 2021 on the problems that lagc.md gives.

No figure or table of the paper could be read. Every expected number is this project's own, computed apart from this
code; the orderings of the paper's abstract are looked at as findings.
"""

from __future__ import annotations

from gradcode.experiments.comparison import Comparisons
from gradcode.experiments.curves import one_thread
from gradcode.experiments.lagc import iteration, sensitivity, totals
from gradcode.experiments.lagc.curves import tension
from gradcode.experiments.lagc.problems import real_data
from gradcode.experiments.registry import Request, experiment


@experiment(
    "lagc",
    summary="lazy aggregation, grouping and gradient coding: messages, work and time to an accuracy; tension curves",
    source="Zhang and Simeone 2021 (arXiv 1905.09148), none of whose numbers could be read; expected numbers are this "
    "project's own (lagc.md)",
)
def lagc(request: Request) -> Comparisons:
    """Runs it; see :func:`gradcode.experiments.registry.experiment`."""
    found = Comparisons()
    real = real_data(request.data)  # before anything is computed: it says which file is missing
    with one_thread():
        iteration.times(request, found)
        tension(request, totals.to_accuracy(request, found))
        sensitivity.weights(request, found)
        sensitivity.problems(request, found, real)
    found.write(request.output / "comparison")
    return found
