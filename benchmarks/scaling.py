"""How the master's own time per iteration grows with the number of workers N and of coordinates L.

    python benchmarks/scaling.py [--part workers|length|both] [--workers 8 16 ... 1024] [--lengths 1e4 ... 1e8]

No gradient is computed: the rows hold numbers from the start, and replies come in random order, with other stragglers
in every iteration. What is timed is what the master does: it starts the scheme, books replies one by one until the
scheme says that they can be decoded, finds the decoding weights, and adds up the rows. Beside each time stands its
ratio to reading all rows once (``torch.sum``), measured in turns in the same run, which up to some 10 MB reads the
caches; below each table the slope of log time over log N or L: 1 is linear.

Codes tolerate ``--stragglers`` of any N workers; a code whose constructor refuses a size is left out there.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from gradcode import codes, schemes
from gradcode.clusters.arena import Arena, Region
from gradcode.clusters.driver import Ledger, Standing, iterate
from gradcode.protocol import Combination, Iteration, Reply

STEPS = ("start", "replies", "decode")  # decode: weights and weighted sum


def constructors(stragglers: int) -> dict[str, Callable[[int], Any]]:
    return {
        "uncoded": schemes.uncoded,
        "fractional repetition": lambda n: schemes.coded(codes.fractional_repetition(n, stragglers)),
        "cyclic repetition": lambda n: schemes.coded(codes.cyclic_repetition(n, stragglers, rng=0)),
        "cyclic MDS": lambda n: schemes.coded(codes.cyclic_mds(n, stragglers)),
    }


class Master:
    """Runs iterations of one scheme on rows that are there already."""

    def __init__(self, scheme: Any, rows: torch.Tensor, out: torch.Tensor) -> None:
        self.scheme, self.rows, self.out = scheme, rows, out
        self.partitions = int(scheme.partitions)
        self.target = Combination(dict.fromkeys(range(self.partitions), 1.0))
        self.sizes = np.full(self.partitions, 16)
        self.number = 0

    def iteration(self, rng: np.random.Generator) -> tuple[float, ...]:
        """Seconds of the steps of one iteration, and the number of replies that it took."""
        workers = self.scheme.workers
        iteration = Iteration(self.number, self.number, self.target, tuple(range(workers)), self.sizes)
        self.number += 1
        start = time.perf_counter()
        ledger = Ledger(workers, iteration, 1, self.scheme.layout.slots, Standing())
        driver = iterate(self.scheme, ledger)
        orders = next(driver).orders
        started = time.perf_counter()
        replies = [
            Reply(order, self.rows[order.row], 0.0, np.zeros((len(order.combination), 1)))
            for order in (orders[index] for index in rng.permutation(len(orders)))
        ]
        begin = time.perf_counter()
        taken = 0
        try:
            for reply in replies:
                taken += 1
                driver.send(reply)
        except StopIteration:
            pass
        arrived = time.perf_counter()
        self.scheme.gradient(self.rows, self.out)
        end = time.perf_counter()
        return started - start, arrived - begin, end - arrived, taken


def measure(masters: dict[str, Master], rows: torch.Tensor, iterations: int) -> dict[str, np.ndarray]:
    """name -> (iterations, 5): seconds of the three steps, replies, and of reading the rows once, in turns."""
    rng = np.random.default_rng(0)
    taken: dict[str, list[tuple[float, ...]]] = {name: [] for name in masters}
    for iteration in range(iterations + 1):
        for name, master in masters.items():
            steps = master.iteration(rng)
            start = time.perf_counter()
            torch.sum(rows)
            if iteration:  # the first one warms up
                taken[name].append((*steps, time.perf_counter() - start))
    return {name: np.array(values) for name, values in taken.items()}


def arrays(count: int, length: int) -> tuple[Arena, torch.Tensor, torch.Tensor]:
    """Rows and a result in shared memory, as the local cluster has them."""
    arena = Arena({"rows": Region((count, length), torch.float32), "out": Region((length,), torch.float32)})
    arena["rows"].fill_(0.5)
    arena["out"].fill_(0.0)
    return arena, arena["rows"], arena["out"]


def report(name: str, by_size: dict[float, np.ndarray], symbol: str) -> dict[str, Any]:
    """Prints one scheme's table."""
    print(f"\n{name}")
    heading = f"       {symbol}  replies     start   replies    decode     total  total/read (range of the middle half)"
    print(f"{heading}    µs per reply")
    totals, ratios = [], []
    for size, values in by_size.items():
        steps, replies, read = values[:, :3], values[:, 3], values[:, 4]
        total = steps.sum(1)
        ratio = total / read
        low, high = np.quantile(ratio, [0.25, 0.75])
        totals.append(float(np.median(total)))
        ratios.append(float(np.median(ratio)))
        print(
            f"{size:8g}  {np.median(replies):7.0f}  "
            + "  ".join(f"{np.median(column) * 1e3:8.3f}" for column in steps.T)
            + f"  {totals[-1] * 1e3:8.3f}  {ratios[-1]:10.3f} ({low:.3f} to {high:.3f})"
            + f"{np.median(values[:, 1] / replies) * 1e6:18.1f}"
        )
    sizes = list(by_size)
    slopes = {}
    if len(sizes) > 1:
        for number, step in enumerate((*STEPS, "total")):
            times = [np.median(v[:, number] if number < 3 else v[:, :3].sum(1)) for v in by_size.values()]
            slopes[step] = float(np.polyfit(np.log(sizes), np.log(times), 1)[0])
        last = np.log(totals[-1] / totals[-2]) / np.log(sizes[-1] / sizes[-2])
        print("   slope  " + ", ".join(f"{step} {slope:.2f}" for step, slope in slopes.items()), end="")
        print(f"; of the total between the last two sizes {last:.2f}")
    return {"scheme": name, "over": symbol, "sizes": sizes, "total": totals, "ratio": ratios, "slopes": slopes}


def over_workers(sizes: list[int], length: int, stragglers: int, iterations: int) -> list[dict[str, Any]]:
    print(f"Over the number of workers N: {length:,} coordinates, {stragglers} stragglers tolerated; milliseconds")
    found: dict[str, dict[float, np.ndarray]] = {}
    for workers in sizes:
        arena, rows, out = arrays(workers, length)
        masters = {}
        for name, construct in constructors(stragglers).items():
            try:
                masters[name] = Master(construct(workers), rows, out)
            except ValueError as refusal:
                reason = str(refusal).split(". ")[0]
                print(f"  {name} for N={workers} left out: {reason}")
        for name, values in measure(masters, rows, iterations).items():
            found.setdefault(name, {})[workers] = values
        arena.close()
        del rows, out, masters, arena
    return [report(name, by_size, "N") for name, by_size in found.items()]


def over_length(sizes: list[float], workers: int, stragglers: int, iterations: int) -> list[dict[str, Any]]:
    print(f"\nOver the number of coordinates L: {workers} workers, {stragglers} stragglers tolerated; milliseconds")
    found: dict[str, dict[float, np.ndarray]] = {}
    for length in sizes:
        arena, rows, out = arrays(workers, int(length))
        masters = {name: Master(construct(workers), rows, out) for name, construct in constructors(stragglers).items()}
        times = iterations if length < 1e7 else max(5, iterations // 4)
        for name, values in measure(masters, rows, times).items():
            found.setdefault(name, {})[length] = values
        arena.close()
        del rows, out, masters, arena
    return [report(name, by_size, "L") for name, by_size in found.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["workers", "length", "both"], default="both")
    parser.add_argument("--workers", type=int, nargs="+", default=[8, 16, 32, 64, 128, 256, 512, 1024])
    parser.add_argument("--lengths", type=float, nargs="+", default=[1e4, 1e5, 1e6, 1e7, 1e8])
    parser.add_argument("--length", type=int, default=100_000, help="coordinates where N varies")
    parser.add_argument("--rows", type=int, default=8, help="workers where L varies")
    parser.add_argument("--stragglers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the master")
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--json", help="a file for the figures")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    results = []
    if arguments.part != "length":
        results += over_workers(arguments.workers, arguments.length, arguments.stragglers, arguments.iterations)
    if arguments.part != "workers":
        results += over_length(arguments.lengths, arguments.rows, arguments.stragglers, arguments.iterations)
    if arguments.json:
        with open(arguments.json, "w") as file:  # noqa: PTH123
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
