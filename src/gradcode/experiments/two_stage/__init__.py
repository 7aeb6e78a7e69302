"""Two-stage coding: mean times and work of all variants, three kinds of utilisation, sweeps, and trainings by radio.

Source: Wang et al. 2023 (ICDCS, arXiv 2205.07939), of which only abstracts were readable. Model, parameters and every
expected number are this project's own (two_stage.md: 8.2 and 4.5), computed apart from this code.
"""

from __future__ import annotations

from gradcode.experiments.comparison import Comparisons
from gradcode.experiments.registry import Request, experiment
from gradcode.experiments.two_stage.sweeps import sweeps
from gradcode.experiments.two_stage.times import check_exact, times
from gradcode.experiments.two_stage.training import training


@experiment(
    "two_stage",
    summary="two-stage coding: times and work of all variants, cyclic repetition and uncoded, utilisation, sweeps, and "
    "accuracy against time through a radio uplink",
    source="Wang et al. 2023 (arXiv 2205.07939), of which abstracts were read; expected numbers are this project's own "
    "(two_stage.md, 8.2)",
)
def two_stage(request: Request) -> Comparisons:
    """Writes its tables as CSV and Markdown, the sweeps and the training as PNG and SVG.

    Raises:
        GradcodeError: a file cannot be written.
    """
    found = Comparisons()
    check_exact(found)
    times(request, found)
    sweeps(request)
    training(request, found)
    found.write(request.output / "comparison")
    return found
