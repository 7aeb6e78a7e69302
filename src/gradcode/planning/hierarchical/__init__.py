"""Hierarchical gradient coding: the time of an iteration, and the choice of the two tolerances.

    system = System.from_toml("system.toml")
    chosen = plan(system, objective="exact")      # edge_stragglers, worker_stragglers, value, table, ...
    code = chosen.code()

Source: Tang, Li, Chen, Chen, "Design and Optimization of Hierarchical Gradient Coding for Distributed Learning at Edge
Devices", arXiv 2406.10831. Its body could not be read: the runtime model, the algorithm JNCSS and its bound are
RECONSTRUCTED from the abstract and from summaries by others; ``objective="exact"`` and all parameters are OURS.

The paper's letters: edges n, workers under edge i m_i, all workers M, partitions K, tolerances s_e and s_w, load D.
"""

from gradcode.planning.hierarchical.baselines import BASELINES, Baseline, Relay, baseline_time
from gradcode.planning.hierarchical.choice import Objective, Plan, error_bound, plan
from gradcode.planning.hierarchical.expected import expected_time
from gradcode.planning.hierarchical.picture import heat_map
from gradcode.planning.hierarchical.sampling import Estimate, monte_carlo
from gradcode.planning.hierarchical.system import (
    Edge,
    System,
    Tail,
    Worker,
    homogeneous_system,
    two_types_system,
)

__all__ = [
    "BASELINES",
    "Baseline",
    "Edge",
    "Estimate",
    "Objective",
    "Plan",
    "Relay",
    "System",
    "Tail",
    "Worker",
    "baseline_time",
    "error_bound",
    "expected_time",
    "heat_map",
    "homogeneous_system",
    "monte_carlo",
    "plan",
    "two_types_system",
]
