"""Replicated self-scheduling: mean time over mean fluid bound, its limits, and the simulated cluster event by event.

A method of our own: no paper is reproduced. Every expected number is the project's own simulation, made apart from this
code (self_scheduling.md). In the table of models A to D it had 300 draws. Allowed are, as it says, 5 % for A, B and
r = 3, which a quick run may miss by four standard errors of its own. For all else it is four standard errors
√(e² + v²), and the digits given: e is that of ours, v that of the expected number, which is given or else taken from
the spread of ours. Ratios are of means, and their standard errors by the delta method. r = 1 in C has no variance, so
that its standard error says little.

Three readings. A worker that is late (D) takes nothing until it is there: with this, and no other, N = 20, D, r = 3 has
the expected 1.38, 1.52 and 1.46. The exact gradient code is cyclic: worker i ends its s + 1 shares at D_i + (s + 1)X_i,
N − s are waited for, and nothing is added for its message; one notice more would agree as well. A random placement is
not one but ten, each with a tenth of the draws.
"""

from __future__ import annotations

from gradcode.experiments.comparison import Comparisons
from gradcode.experiments.registry import Request, experiment
from gradcode.experiments.self_scheduling.events import events, worked_example
from gradcode.experiments.self_scheduling.times import limits, times


@experiment(
    "self_scheduling",
    summary="self-scheduling beside the fluid bound and exact codes, its limits, and event by event on a cluster",
    source="a method of this project; expected numbers are its own simulation (self_scheduling.md)",
)
def self_scheduling(request: Request) -> Comparisons:
    """Writes comparison, times and limits as CSV and Markdown, the limits as PNG and SVG.

    Raises:
        GradcodeError: a file cannot be written.
    """
    found = Comparisons()
    worked_example(found)
    events(request, found)
    times(request, found)
    limits(request, found)
    found.write(request.output / "comparison")
    return found
