"""Hierarchical gradient coding against its baselines: time per iteration, training curves, messages at the master.

Source: Tang, Li, Chen, Chen 2024 (arXiv 2406.10831), of which only the abstract could be read. The runtime model, the
baselines and their names are RECONSTRUCTED; both systems and every expected number are OURS (the project's
hierarchical.md, sections 6, 7 and 9.3), computed apart from this code. None of them is the paper's.
"""

from __future__ import annotations

from gradcode.experiments.comparison import Comparisons
from gradcode.experiments.hierarchical.times import choices, times
from gradcode.experiments.registry import Request, experiment


@experiment(
    "hierarchical",
    summary="edge nodes between workers and master: hierarchical gradient coding against its baselines",
    source="Tang, Li, Chen, Chen 2024 (arXiv 2406.10831); systems, baselines and expected numbers are OURS",
)
def run(request: Request) -> Comparisons:
    """Writes into ``request.output``: comparison, times, messages and training as CSV and Markdown; times, training and
    a map of E[T] over all tolerances per setting as PNG and SVG.

    Raises:
        DataError: ``request.data`` holds no data set that can be read.
        GradcodeError: a file cannot be written.
    """
    from gradcode.experiments.curves import Task
    from gradcode.experiments.hierarchical.training import curves

    found = Comparisons()
    tasks = [Task.of(None)] + ([Task.of(request.data)] if request.data else [])
    times(request, found)
    choices(request, found)
    for task in tasks:
        curves(request, found, task)
    found.write(request.output / "comparison")
    return found
