"""What an iteration costs on each cluster beside its computing, and where the time goes.

    python benchmarks/clusters.py overhead [--workers 4 8] [--lengths 1e4 1e5 1e6 1e7] [--output DIR] [--json FILE]
    python benchmarks/clusters.py minimal [--sizes 1e5 1e6 1e7] [--json FILE]

``overhead``: the simulated, the local and the Ray cluster take turns in blocks of iterations of uncoded training
without delays. A gradient is one pass over the parameters, so that what remains is overhead. An iteration's time on the
wall is cut into

    broadcast  until the orders are out (on Ray, the parameters are in the object store)
    compute    the CPU time of the gradients, shared by this machine's cores
    wait       what else passes until the last worker has ended: orders on their way, waiting for a core
    return     until the master has the last reply in its row, examined
    decode     adding up the rows, filling p.grad
    step       the optimizer's

Workers measure the CPU time of their gradients themselves, as a statistic. The ends of broadcast, wait and return are
those of :class:`gradcode.protocol.Outcome` (``sending``, ``last``, ``time``), of which reports have the sum only.

``minimal``: see ``benchmarks/minimal_ray.py``.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

import gradcode
from gradcode import schemes
from gradcode.clusters.ray_connection import connection
from gradcode.protocol import Block, Cluster, Floats, Iteration, Outcome, Scheme
from minimal_ray import compare

PHASES = ("broadcast", "compute", "wait", "return", "decode", "step")
COLOURS = ("#0072B2", "#E69F00", "#D9D9D9", "#56B4E9", "#009E73", "#CC79A7")
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Half:
    """½‖θ‖² over ``length`` coordinates, the same on every partition: the gradient is θ. No loss is computed.

    An objective of one's own for a session; its second statistic is the CPU time of a gradient, in seconds.
    """

    buffers, statistics, iterations = 0, 2, 1
    itemsize, dtype = 4, torch.float32
    separable = False

    def __init__(self, length: int, partitions: int) -> None:
        self.length, self.partitions = length, partitions
        self.model = nn.ParameterList([torch.ones(length)])
        self.trainable = list(self.model.parameters())

    # The master's side

    def epoch(self, number: int) -> tuple[int, int]:
        return number, 0

    def place(self, parameters: Tensor, buffers: Tensor) -> None:
        parameters.copy_(self.trainable[0].data)
        self.trainable[0].data = parameters

    def split(self, flat: Tensor) -> list[Tensor]:
        return [flat[: self.length]]

    def store_buffers(self, buffers: Tensor) -> None:
        """There are none."""

    load_buffers = store_buffers

    def used(self, statistics: Floats) -> npt.NDArray[np.bool_]:
        return np.ones(1, dtype=np.bool_)

    def fingerprint(self) -> dict[str, object]:
        return {"length": self.length}

    def sizes(self, number: int) -> npt.NDArray[np.int64]:
        return np.ones(self.partitions, dtype=np.int64)

    # The worker's side

    def copy(self) -> Self:
        return self

    def bind(self, parameters: Tensor, buffers: Tensor, worker: int) -> None:
        self._theta = parameters

    def rebind(self, parameters: Tensor, buffers: Tensor) -> None:
        self._theta = parameters

    def refresh(self) -> None:
        """Parameters are read where they lie."""

    def prepare(self, number: int) -> None:
        """Nothing is gained by computing partitions together."""

    def accumulate(
        self, number: int, partition: int, coefficient: float, out: Tensor, first: bool, block: Block | None = None
    ) -> Floats:
        began = time.thread_time()
        start, stop = block or (0, self.length)
        part, into = self._theta[start:stop], out[start:stop]
        if first:
            torch.mul(part, coefficient / self.partitions, out=into)
        else:
            into.add_(part, alpha=coefficient / self.partitions)
        return np.array([0.0, time.thread_time() - began])

    def finish(self, out: Tensor) -> None:
        """Every coordinate was written."""


class Training:
    """A session whose iterations are cut into phases."""

    def __init__(self, cluster: Cluster, length: int) -> None:
        self.cores = 1 if isinstance(cluster, gradcode.SimulatedCluster) else min(CORES, cluster.workers)
        self.reports: list[gradcode.Report] = []
        self._run = cluster.run
        cluster.run = self._watched_run  # type: ignore[method-assign]
        self.session = gradcode.Session.of(
            Half(length, cluster.workers),
            schemes.uncoded(cluster.workers),
            cluster,
            listeners=[self.reports.append],
        )
        self.optimizer = torch.optim.SGD(self.session.model.parameters(), lr=1e-3)

    def _watched_run(self, scheme: Scheme, iteration: Iteration) -> Outcome:
        began = time.monotonic()
        outcome = self._run(scheme, iteration)
        self._ended = time.monotonic()
        # A simulated iteration's time is virtual; a real one begins when late news of the one before is taken in.
        simulated = isinstance(self.session.cluster, gradcode.SimulatedCluster)
        self._ordered = (began if simulated else self._ended - outcome.time) + outcome.sending
        self._last, self._cpu = outcome.last, float(outcome.statistics[1])
        return outcome

    def iteration(self) -> list[float]:
        """Seconds of each phase; their sum is the time on the wall."""
        (step,) = self.session.epoch()
        begin = time.monotonic()
        step.backward()
        filled = time.monotonic()
        self.optimizer.step()
        self.optimizer.zero_grad()
        stepped = time.monotonic()
        until_last = self._last - self._ordered
        compute = min(until_last, self._cpu * self.session.cluster.workers / self.cores)
        return [
            self._ordered - begin,
            compute,
            until_last - compute,
            self._ended - self._last,
            filled - self._ended,
            stepped - filled,
        ]


def kinds(workers: int) -> dict[str, Cluster]:
    return {
        "simulated": gradcode.SimulatedCluster(workers),
        "local": gradcode.LocalCluster(workers),
        "ray": gradcode.RayCluster(workers),
    }


def measure(workers: int, length: int, rounds: int, iterations: int) -> dict[str, npt.NDArray[np.float64]]:
    """cluster -> (rounds, iterations, phases), seconds; the clusters take turns."""
    with ExitStack() as stack:
        trainings = {name: Training(cluster, length) for name, cluster in kinds(workers).items()}
        for training in trainings.values():
            stack.enter_context(training.session)
        found: dict[str, list[list[list[float]]]] = {name: [] for name in trainings}
        for number in range(-1, rounds):  # the first one warms up
            for name in list(trainings) if number % 2 else reversed(trainings):
                block = [trainings[name].iteration() for _ in range(iterations if number >= 0 else 3)]
                if number >= 0:
                    found[name].append(block)
    return {name: np.array(blocks) for name, blocks in found.items()}


def typical(iterations: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Mean phases, (phases,), of the half of the iterations that were neither the quickest nor the slowest."""
    quarter = len(iterations) // 4
    order = np.argsort(iterations.sum(1))
    return iterations[order[quarter : len(order) - quarter]].mean(0)


def overhead(workers: Sequence[int], lengths: Sequence[float], rounds: int, iterations: int) -> list[dict[str, Any]]:
    """Measures and prints; Ray is connected already. Phases are means over the middle half of the iterations."""
    results = []
    print(f"Time per iteration in milliseconds; {CORES} cores, load average {os.getloadavg()[0]:.1f}")
    print(" N      L  cluster    " + "".join(f"{phase:>10}" for phase in (*PHASES, "total")) + "   total / local")
    for number in workers:
        for length in lengths:
            times = iterations if length < 1e6 else max(5, iterations // (2 if length < 1e7 else 4))
            found = measure(number, int(length), rounds, times)
            totals = {name: np.median(blocks.sum(2), axis=1) for name, blocks in found.items()}
            for name, blocks in found.items():
                phases, ratios = typical(blocks.reshape(-1, len(PHASES))), totals[name] / totals["local"]
                print(
                    f"{number:2}  {length:5.0e}  {name:9}  "
                    + "".join(f"{seconds * 1e3:10.3f}" for seconds in (*phases, phases.sum()))
                    + f"   {np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})",
                    flush=True,
                )
                row = {"workers": number, "length": length, "cluster": name, "ratios": ratios.tolist()}
                results.append({**row, "phases": dict(zip(PHASES, phases.tolist(), strict=True))})
    return results


def draw(results: Sequence[dict[str, Any]], folder: Path) -> None:
    """Stacked bars, one panel per number of workers and coordinates: ``overhead.png`` and ``.svg``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    workers = sorted({row["workers"] for row in results})
    lengths = sorted({row["length"] for row in results})
    figure = Figure(figsize=(max(8.0, 2.5 * len(lengths) + 0.6), 2.6 * len(workers) + 0.7), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(workers), len(lengths), squeeze=False)
    for axes, (number, length) in zip(panels.flat, ((n, length) for n in workers for length in lengths), strict=True):
        rows = [row for row in results if (row["workers"], row["length"]) == (number, length)]
        for position, row in enumerate(rows):
            bottom = 0.0
            for phase, colour in zip(PHASES, COLOURS, strict=True):
                height = row["phases"][phase] * 1e3
                axes.bar(position, height, 0.62, bottom, color=colour, edgecolor="white", linewidth=0.4)
                bottom += height
            axes.annotate(
                f"{bottom:.1f}" if bottom < 10 else f"{bottom:.0f}",
                (position, bottom),
                (0, 2),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
        axes.set_xticks(range(len(rows)), [row["cluster"] for row in rows], fontsize=8)
        axes.tick_params(axis="y", labelsize=8)
        axes.margins(y=0.12)
        axes.set_title(f"L = 1e{round(np.log10(length))}, {number} workers", fontsize=9)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    for axes in panels[:, 0]:
        axes.set_ylabel("ms per iteration", fontsize=9)
    marks = [Patch(color=colour) for colour in COLOURS]
    figure.legend(marks, PHASES, loc="outside upper center", ncols=len(PHASES), frameon=False, fontsize=9)
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "overhead.png", dpi=130)
    figure.savefig(folder / "overhead.svg", metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    first = parts.add_parser("overhead", help="simulated, local and Ray: where the time goes")
    first.add_argument("--workers", type=int, nargs="+", default=[4, 8])
    first.add_argument("--lengths", type=float, nargs="+", default=[1e4, 1e5, 1e6, 1e7])
    first.add_argument("--rounds", type=int, default=4)
    first.add_argument("--iterations", type=int, default=20, help="per turn; fewer from 1e6 coordinates on")
    first.add_argument("--threads", type=int, default=1, help="of the master")
    first.add_argument("--output", type=Path, default=Path("runs/benchmarks"), help="folder of the picture")
    second = parts.add_parser("minimal", help="against a hand-written Ray parameter server")
    second.add_argument("--sizes", type=float, nargs="+", default=[1e5, 1e6, 1e7])
    second.add_argument("--pairs", type=int, default=6)
    second.add_argument("--iterations", type=int, default=20, help="per turn; with a late worker half of them")
    second.add_argument("--shown", type=int, default=40, help="iterations over which the backlog is shown")
    for part in (first, second):
        part.add_argument("--json", type=Path, help="a file for the figures")
    arguments = parser.parse_args()
    with connection(None, cpus=16, keep_actors=True):
        if arguments.part == "overhead":
            torch.set_num_threads(arguments.threads)
            results = overhead(arguments.workers, arguments.lengths, arguments.rounds, arguments.iterations)
            draw(results, arguments.output)
        else:
            results = compare(arguments.sizes, arguments.pairs, arguments.iterations, arguments.shown)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
