"""Communication-efficient codes: rounding of all constructions, times per iteration, loss against numbers sent.

Source: Ye, Abbe, "Communication-Computation Efficient Gradient Coding", arXiv 1802.03475. Its tables could not be read;
it reports running times on Amazon EC2 (32 % below uncoded, 23 % below codes for stragglers only), which cannot be
compared without its machines. Every expected number is MEASURED in the project's communication_efficient.md (tables 9.2
and 9.3, section 6), apart from this code; the constants of the model of time are known at second hand.
"""

from __future__ import annotations

from gradcode.experiments.communication_efficient.errors import exactness, scaling
from gradcode.experiments.communication_efficient.times import times
from gradcode.experiments.comparison import Comparisons
from gradcode.experiments.registry import Request, experiment


@experiment(
    "communication_efficient",
    summary="communication-efficient codes: rounding of all constructions, times, loss against numbers sent",
    source="Ye, Abbe 2018 (arXiv 1802.03475); expected numbers are OURS",
)
def run(request: Request) -> Comparisons:
    """Writes into ``request.output``: comparison, exactness, scaling, times and training as CSV and Markdown, and
    training as PNG and SVG.

    Raises:
        GradcodeError: a file cannot be written.
    """
    from gradcode.experiments.communication_efficient.training import training

    found = Comparisons()
    exactness(request, found)
    scaling(request, found)
    times(request, found)
    training(request, found)
    found.write(request.output / "comparison")
    return found
