"""Encoded optimisation: spectra of encoders, and solvers on encoded data against replicated and uncoded ones.

Source: Karakus, Sun, Diggavi, Yin 2017 (NeurIPS) and 2019 (JMLR, arXiv 1803.05397), of which the abstracts were read.
None of their numbers could be; every expected number is OURS (the project's encoded_optimization.md, section 6),
computed apart from this code. None of them is the papers'.
"""

from __future__ import annotations

from gradcode.experiments.comparison import Comparisons
from gradcode.experiments.encoded.scale import FULL, QUICK, Scale
from gradcode.experiments.registry import Request, experiment


@experiment(
    "encoded",
    summary="encoded data and coordinates with the k fastest workers: spectra, neighbourhoods, worst cases, times",
    source="Karakus, Sun, Diggavi, Yin 2017, 2019 (arXiv 1803.05397); settings and expected numbers are OURS",
)
def run(request: Request) -> Comparisons:
    """Writes into ``request.output``: comparison, frames, spectra, fixed, neighbourhoods, lasso, coordinates and times
    as CSV and Markdown; spectra, fixed, neighbourhoods, coordinates and times as PNG and SVG.

    Raises:
        GradcodeError: a file cannot be written.
    """
    return measured(request, QUICK if request.quick else FULL)


def measured(request: Request, scale: Scale) -> Comparisons:
    """The experiment at another scale."""
    from gradcode.experiments.curves import one_thread
    from gradcode.experiments.encoded.descent import coordinate_descent
    from gradcode.experiments.encoded.fixed import worst_sets
    from gradcode.experiments.encoded.spectra import frames, spectrum
    from gradcode.experiments.encoded.stragglers import neighbourhoods
    from gradcode.experiments.encoded.times import times

    found = Comparisons()
    with one_thread():
        for part in (frames, spectrum, worst_sets, neighbourhoods, coordinate_descent, times):
            part(request, scale, found)
    found.write(request.output / "comparison")
    return found
