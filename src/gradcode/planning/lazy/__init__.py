"""Lazy aggregation, grouping and gradient coding on one footing: messages, work and time to an accuracy.

    found = complexity(schemes.glag(12, 3, "server", ...), {"exponential": Exponential(1.0)}, 1e-8, objective)
    found.iterations, found.uploads, found.downloads, found.units, found.clock

``survey`` does it for every scheme and redundancy, ``pareto`` draws it. Source: Zhang and Simeone 2021, whose unified
analysis of the three measures this follows; its body could not be read, and the closed forms are DERIVED (lagc.md 6).
"""

from gradcode.planning.lazy.closed import coded, grouped, quickest, slowest, unequal, wait_f
from gradcode.planning.lazy.complexity import Complexity, complexity, minimum
from gradcode.planning.lazy.survey import HEADER, pareto, row, survey

__all__ = [
    "HEADER",
    "Complexity",
    "coded",
    "complexity",
    "grouped",
    "minimum",
    "pareto",
    "quickest",
    "row",
    "slowest",
    "survey",
    "unequal",
    "wait_f",
]
