"""Two-stage coding: mean times and work of all variants, redundancy, three kinds of utilisation, and sweeps.

Source: Wang et al. 2023 (ICDCS, arXiv 2205.07939), of which only abstracts were readable. Model, parameters and every
expected number are this project's own (two_stage.md: 8.2 and 4.5), computed apart from this code.
"""

from __future__ import annotations

from gradcode.experiments.comparison import Comparisons
from gradcode.experiments.registry import Request, experiment
from gradcode.experiments.two_stage.sweeps import sweeps
from gradcode.experiments.two_stage.times import check_exact, times


@experiment(
    "two_stage",
    summary="two-stage coding: times and work of all variants, cyclic repetition and uncoded, utilisation, sweeps",
    source="Wang et al. 2023 (arXiv 2205.07939), of which abstracts were read; expected numbers are this project's own "
    "(two_stage.md, 8.2)",
)
def two_stage(request: Request) -> Comparisons:
    """Writes comparison, times, partitions, utilisation and sweeps as CSV and Markdown, the sweeps as PNG and SVG.

    Raises:
        GradcodeError: a file cannot be written.
    """
    found = Comparisons()
    check_exact(found)
    times(request, found)
    sweeps(request)
    found.write(request.output / "comparison")
    return found
