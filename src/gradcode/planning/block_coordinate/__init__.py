"""Block coordinate gradient coding: coordinates in blocks that tolerate more and more stragglers, of the best sizes.

    law = delays.ShiftedExponential(shift=50.0, rate=1e-3)      # seconds per cycle
    best = optimal(law, workers=20, coordinates=20_000, samples=50, cycles=1)
    best.sizes, best.value, best.gap                            # coordinates per level, seconds, how far it can be off
    expected_runtime(round_sizes(by_time(law, 20, 20_000)), law, samples=50, cycles=1)

Every worker works off the coordinates in the same order, block 0 first, and sends each block when it is ready: a block
that tolerates n stragglers costs n + 1 shards of the data and is known when N − n workers have sent it. So the work of
slow workers counts as far as they get.

Sources: Wang, Cui, Li, Zou, Xiong, "Optimization-based Block Coordinate Gradient Coding for Mitigating Partial
Stragglers in Distributed Learning", arXiv 2206.02450 (and GLOBECOM 2021, arXiv 2109.08933), whose abstracts could be
read, and the authors' code. What a docstring calls RECONSTRUCTED is derived from the model; OURS is what we chose.

The paper's letters: M samples, b cycles, L coordinates, x_n the size of block n, S_n its load, T_(k) the time of the
k-th fastest worker, κ = M·b/N, τ the time of an iteration, t a threshold for it.
"""

from gradcode.planning.block_coordinate.baselines import (
    BASELINES,
    Baseline,
    Compared,
    baseline_probability,
    baseline_time,
    layered_sizes,
)
from gradcode.planning.block_coordinate.closed import by_frequency, by_large_threshold, by_time, lower_bound
from gradcode.planning.block_coordinate.completion import Likely, completion_probability, most_likely
from gradcode.planning.block_coordinate.descent import Descent, subgradient
from gradcode.planning.block_coordinate.expected import expected_maximum, expected_runtime, monte_carlo
from gradcode.planning.block_coordinate.model import loads, runtime, sizes_of, tolerances
from gradcode.planning.block_coordinate.network import NetworkPlan, for_network, network_runtime
from gradcode.planning.block_coordinate.optimum import Optimum, optimal
from gradcode.planning.block_coordinate.patterns import cardinality, draw_patterns, pattern_count
from gradcode.planning.block_coordinate.rounding import round_sizes
from gradcode.planning.block_coordinate.simplex import project

__all__ = [
    "BASELINES",
    "Baseline",
    "Compared",
    "Descent",
    "Likely",
    "NetworkPlan",
    "Optimum",
    "baseline_probability",
    "baseline_time",
    "by_frequency",
    "by_large_threshold",
    "by_time",
    "cardinality",
    "completion_probability",
    "draw_patterns",
    "expected_maximum",
    "expected_runtime",
    "for_network",
    "layered_sizes",
    "loads",
    "lower_bound",
    "monte_carlo",
    "most_likely",
    "network_runtime",
    "optimal",
    "pattern_count",
    "project",
    "round_sizes",
    "runtime",
    "sizes_of",
    "subgradient",
    "tolerances",
]
