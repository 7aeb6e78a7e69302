"""Dynamic clustering: mean times and good iterations of all schemes, what regrouping does, loss against the clock.

Source: Buyukates, Ozfatura, Ulukus, Gündüz, "Gradient Coding with Dynamic Clustering for Straggler-Tolerant Distributed
Learning", arXiv 2103.01206. No figure, table or parameter of the paper was readable: the model and every expected
number are this project's (dynamic_clustering.md: closed forms in section 6, one simulated run per number in 8.2).
"""

from __future__ import annotations

from gradcode.experiments.comparison import Comparisons
from gradcode.experiments.dynamic_clustering.times import alike, check_exact, unequal
from gradcode.experiments.dynamic_clustering.workers import workers
from gradcode.experiments.registry import Request, experiment


@experiment(
    "dynamic_clustering",
    summary="clusters formed anew in every iteration: mean times, good iterations, who moves, loss against the clock",
    source="Buyukates, Ozfatura, Ulukus, Gündüz 2021 (arXiv 2103.01206); expected numbers are OURS",
)
def run(request: Request) -> Comparisons:
    """Writes into ``request.output``: comparison, times, unequal, workers and training as CSV and Markdown, stragglers
    and training as PNG and SVG.

    Raises:
        GradcodeError: a file cannot be written.
    """
    from gradcode.experiments.dynamic_clustering.training import training

    found = Comparisons()
    check_exact(found)
    alike(request, found)
    unequal(request, found)
    workers(request, found)
    training(request, found)
    found.write(request.output / "comparison")
    return found
