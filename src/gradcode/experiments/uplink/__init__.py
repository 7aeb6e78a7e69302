"""The fair uplink: by itself, and under the replies of a training.

Nothing of Wang et al. 2023 but abstracts could be read. Expected numbers are this project's own.
"""

from __future__ import annotations

from gradcode.experiments.comparison import Comparisons
from gradcode.experiments.registry import Request, experiment
from gradcode.experiments.uplink.alone import alone
from gradcode.experiments.uplink.loop import loop


@experiment(
    "uplink",
    summary="the fair Lyapunov uplink: utility and backlog as V grows, bounds in every slot, baselines when congested, "
    "and schemes whose replies share it",
    source="Wang et al. 2023 (arXiv 2205.07939), of which abstracts were read; expected numbers are this project's own "
    "(two_stage.md, 8.3)",
)
def uplink(request: Request) -> Comparisons:
    """Writes tradeoff, baselines, loop, harvesting and comparison as CSV and Markdown, the trade-off as PNG and SVG.

    Raises:
        GradcodeError: a file cannot be written.
    """
    found = Comparisons()
    alone(request, found)
    loop(request, found)
    found.write(request.output / "comparison")
    return found
