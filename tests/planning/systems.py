"""Systems to try."""

from __future__ import annotations

import numpy as np

from gradcode.planning.hierarchical import Edge, System, Worker


def heterogeneous(edges: int, workers: int, seed: int) -> System:
    """No two workers and no two links alike."""
    rng = np.random.default_rng(seed)

    def worker() -> Worker:
        c, rate, attempt, failure = rng.uniform([0.005, 10.0, 0.02, 0.0], [0.02, 100.0, 0.08, 0.4])
        return Worker(c, rate, attempt, failure)

    each = [Edge(tuple(worker() for _ in range(workers)), *rng.uniform([0.05, 0.0], [0.3, 0.3])) for _ in range(edges)]
    return System(tuple(each), edges * workers)


def uneven() -> System:
    """Edge nodes of 1, 2 and 4 workers, with no random part, no link, or no failure here and there."""
    fast, slow = Worker(0.1, 5.0, 0.3, 0.5), Worker(0.2, attempt=0.1, failure=0.2)
    return System(
        (
            Edge((Worker(0.3, 2.0),), 0.5, 0.1),
            Edge((fast, slow), 0.0, 0.0),
            Edge((fast, Worker(0.15, 20.0, 0.2), slow, Worker(0.0, 1.0)), 0.2, 0.6),
        ),
        14,
    )
