"""Block coordinate gradient coding: what its authors plotted, the same evaluated exactly, and the optimum.

Source: Wang, Cui, Li, Zou, Xiong 2023 (arXiv 2206.02450) and GLOBECOM 2021 (arXiv 2109.08933), of which only the
abstracts could be read, and the authors' code, whose plotted arrays and stored vectors are what is called *reported*.
What is called *ours* (the project's block_coordinate.md, section 13) was computed apart from this code, and is not the
authors'.
"""

from __future__ import annotations

from gradcode.experiments.block_coordinate.completion import completion
from gradcode.experiments.block_coordinate.convergence import convergence
from gradcode.experiments.block_coordinate.laws import laws, likelihoods
from gradcode.experiments.block_coordinate.profiles import profiles
from gradcode.experiments.block_coordinate.runtime import runtime
from gradcode.experiments.comparison import Comparisons
from gradcode.experiments.registry import Request, experiment


@experiment(
    "block",
    summary="blocks of coordinates that tolerate more and more stragglers: runtime, completion probability, profiles",
    source="Wang, Cui, Li, Zou, Xiong 2023 (arXiv 2206.02450): plotted arrays of their code; section 13's are OURS",
)
def run(request: Request) -> Comparisons:
    """Writes into ``request.output``: comparison, runtime, completion, profiles, laws, likelihoods and convergence as
    CSV and Markdown; all but comparison and likelihoods as PNG and SVG, too. ``request.data`` is not used.

    A number that the authors plotted and that cannot be had again is in the tables, with the reason, and is told;
    it is not compared.
    """
    found = Comparisons()
    runtime(request, found)
    completion(request, found)
    profiles(request, found)
    laws(request, found)
    likelihoods(request, found)
    convergence(request, found)
    found.write(request.output / "comparison")
    return found
