"""How long planning takes, and how good the screened choice is.

    python benchmarks/planning.py [--edges 100] [--workers 100] [--check 12] [--systems 3]

Heterogeneous systems: no two workers and no two links are alike. Reported are the seconds of ``plan`` with both
objectives, and of one exact pair; then, on smaller systems (``--check`` edge nodes with as many workers), the value of
the screened choice over the best of all pairs, every one of them integrated.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any, get_args

import numpy as np

from gradcode.planning.hierarchical import Edge, System, Tail, Worker, expected_time, plan


def heterogeneous(edges: int, workers: int, seed: int) -> System:
    rng = np.random.default_rng(seed)

    def edge() -> Edge:
        own = [Worker(*rng.uniform([0.005, 10.0, 0.02, 0.0], [0.02, 100.0, 0.08, 0.4])) for _ in range(workers)]
        return Edge(tuple(own), *rng.uniform([0.05, 0.0], [0.3, 0.3]))

    return System(tuple(edge() for _ in range(edges)), edges * workers)


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edges", type=int, default=100)
    parser.add_argument("--workers", type=int, default=100)
    parser.add_argument("--check", type=int, default=12)
    parser.add_argument("--systems", type=int, default=3)
    given = parser.parse_args()
    system = heterogeneous(given.edges, given.workers, seed=0)
    print(f"{given.edges} edge nodes x {given.workers} workers, {int(system.feasible.sum())} feasible pairs")
    tails: tuple[Tail, ...] = get_args(Tail)
    for tail in tails:
        mean, seconds = timed(lambda tail=tail: plan(system, "mean", tail))
        print(f"{tail:5s}  mean   {seconds:7.2f} s  choice {mean.choice}, value {mean.value:.4f} s")
        exact, seconds = timed(lambda tail=tail: plan(system, "exact", tail))
        print(f"{tail:5s}  exact  {seconds:7.2f} s  choice {exact.choice}, value {exact.value:.4f} s")
        _, seconds = timed(lambda tail=tail, pair=exact.choice: expected_time(system, *pair, tail))
        print(f"{tail:5s}  one exact pair {seconds:5.2f} s")
    for seed in range(given.systems):
        small = heterogeneous(given.check, given.check, seed)
        for tail in tails:
            chosen, screened = timed(lambda small=small, tail=tail: plan(small, "exact", tail))
            pairs = np.argwhere(small.feasible).tolist()
            every, enumerated = timed(
                lambda small=small, tail=tail, pairs=pairs: [expected_time(small, *pair, tail) for pair in pairs]
            )
            print(
                f"{given.check} x {given.check}, system {seed}, {tail:5s}: choice {chosen.choice}, "
                f"{chosen.value / min(every) - 1:.1e} above the best; {screened:.2f} s, all pairs {enumerated:.2f} s"
            )


if __name__ == "__main__":
    main()
