"""How long the best blocks take to find, how near they provably are, and the paper's method in the same time.

    python benchmarks/block_coordinate.py [--workers 20 50 200] [--repeat 3]

The paper's setting: shifted exponential times (rate 1e-3, shift 50), 2e4 coordinates, 50 samples, 1 cycle. U is
E[tau]·N/(M·b)/1e7, as in the paper's figures. Times are medians, on the threads that NumPy takes; the figure in the
project's documentation is for OMP_NUM_THREADS=1. The subgradient method draws 1e4 times per step, as the authors do,
and is read off at the last step that ended within the time of ``optimal``.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from gradcode import delays
from gradcode.planning import block_coordinate as blocks

LAW = delays.ShiftedExponential(shift=50.0, rate=1e-3)
COORDINATES, SAMPLES, CYCLES = 20_000, 50, 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[20, 50, 200])
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    print("    N  optimal (s)  evaluations      gap        U  E[tau] (ms)  subgradient: U in the same time  after 500")
    for workers in arguments.workers:
        taken = []
        for _ in range(arguments.repeat):
            start = time.perf_counter()
            best = blocks.optimal(LAW, workers, COORDINATES, SAMPLES, CYCLES)
            taken.append(time.perf_counter() - start)
        seconds = float(np.median(taken))
        start = time.perf_counter()
        blocks.expected_runtime(best.sizes, LAW, SAMPLES, CYCLES)
        once = time.perf_counter() - start
        descent = blocks.subgradient(LAW, workers, COORDINATES)
        last = int(np.searchsorted(descent.seconds, seconds, side="right")) - 1
        unit = workers / (SAMPLES * CYCLES) / 1e7
        same, end = (blocks.expected_runtime(descent.iterates[k], LAW, SAMPLES, CYCLES) * unit for k in (last, -1))
        print(
            f"{workers:5d} {seconds:12.2f} {best.evaluations:12d} {best.gap:8.1e} {best.value * unit:8.4f} "
            f"{once * 1e3:12.1f} {same:24.4f} ({last} steps) {end:10.4f}"
        )


if __name__ == "__main__":
    main()
