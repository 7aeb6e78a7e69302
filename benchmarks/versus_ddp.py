"""PyTorch DDP over gloo against gradcode's local cluster: same model, data, samples per worker, machine and run.

    python benchmarks/versus_ddp.py [--pairs 7] [--workers 4 8] [--sizes 1e5 1e6 1e7] [--part a|b|both]

(a) Without stragglers: uncoded gradcode against DDP. (b) With one worker in N ten times slower, from one recorded table
replayed to both sides: coded gradcode (s = 1) against DDP, in the mode ``emulate``, since the workers of this machine
share its cores and a cluster's do not: each partition ends at the time the table says, with the real computing inside.
DDP's side begins its computing so late that, undisturbed, it ends at the table's time, and overlaps its all-reduce with
the backward pass as usual.

The two sides take turns in one run, the processes of the other side asleep in a pipe. Reported are medians and ranges
of the ratios pair by pair, and beside each time the bounds that the table allowed. DDP steps its optimizer on every
worker and they share this machine's cores, so the ratio without the optimizer step stands beside the one with it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import socket
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import TensorDataset

import gradcode
from gradcode import codes, schemes
from gradcode.delays import DelayTable

INPUTS, CLASSES = 128, 10
SAMPLES = 16  # per worker and partition


def build(parameters: float) -> nn.Module:
    """A perceptron with two hidden layers and about ``parameters`` parameters."""
    torch.manual_seed(0)
    b = INPUTS + CLASSES + 2
    width = round((-b + math.sqrt(b * b + 4 * parameters)) / 2)
    return nn.Sequential(
        nn.Linear(INPUTS, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, CLASSES)
    )


def data(samples: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    return TensorDataset(
        torch.randn(samples, INPUTS, generator=generator),
        torch.randint(0, CLASSES, (samples,), generator=generator),
    )


@dataclass
class Block:
    """Medians over the iterations of one turn: seconds with and without the optimizer step, and the master's own."""

    whole: float
    gradient: float
    master: float = float("nan")
    times: tuple[float, ...] = ()
    overruns: float = 0.0


# DDP's side


def ddp_rank(rank: int, workers: int, port: int, parameters: float, pipe: Connection) -> None:
    """One DDP process: waits for (first iteration, iterations, table) and answers with its times."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=workers)
    model = DistributedDataParallel(build(parameters))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    loss_fn = nn.CrossEntropyLoss()
    features, targets = data(64 * workers * SAMPLES).tensors
    alone = float("nan")
    while (job := pipe.recv()) is not None:
        first, iterations, table = job
        if table is not None and math.isnan(alone):
            alone = undisturbed(model, loss_fn, features[:SAMPLES], targets[:SAMPLES], rank, workers)
        whole, gradient = [], []
        for number in range(first, first + iterations):
            begin = (number * workers + rank) * SAMPLES % (len(features) - SAMPLES)
            batch, labels = features[begin : begin + SAMPLES], targets[begin : begin + SAMPLES]
            dist.barrier()
            start = time.perf_counter()
            if table is not None:
                due = start + table[number % len(table), rank] - alone
                time.sleep(max(0.0, due - time.perf_counter()))
            loss_fn(model(batch), labels).backward()
            reduced = time.perf_counter()
            optimizer.step()
            optimizer.zero_grad()
            whole.append(time.perf_counter() - start)
            gradient.append(reduced - start)
        pipe.send((whole, gradient))
    dist.destroy_process_group()


def undisturbed(
    model: DistributedDataParallel,
    loss_fn: nn.Module,
    batch: torch.Tensor,
    labels: torch.Tensor,
    rank: int,
    workers: int,
) -> float:
    """Median seconds of a forward and backward pass of this rank while the others wait."""
    times = []
    for turn in range(workers):
        dist.barrier()
        if turn == rank:
            with model.no_sync():
                for _ in range(7):
                    start = time.perf_counter()
                    loss_fn(model(batch), labels).backward()
                    times.append(time.perf_counter() - start)
            model.zero_grad()
    dist.barrier()
    return float(np.median(times))


class DDP:
    """The processes of DDP's side, asleep between turns."""

    def __init__(self, workers: int, parameters: float) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        context = mp.get_context("spawn")
        self.pipes: list[Connection] = []
        self.processes = []
        for rank in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=ddp_rank, args=(rank, workers, port, parameters, theirs), daemon=True)
            process.start()
            self.pipes.append(ours)
            self.processes.append(process)
        self.done = 0

    def block(self, iterations: int, table: np.ndarray | None = None) -> Block:
        for pipe in self.pipes:
            pipe.send((self.done, iterations, table))
        answers = [pipe.recv() for pipe in self.pipes]
        self.done += iterations
        # An iteration is over when its slowest process is done; barriers make all of them begin together.
        whole = np.max([answer[0] for answer in answers], axis=0)
        gradient = np.max([answer[1] for answer in answers], axis=0)
        return Block(float(np.median(whole)), float(np.median(gradient)), times=tuple(gradient))

    def close(self) -> None:
        for pipe in self.pipes:
            pipe.send(None)
        for process in self.processes:
            process.join()


# gradcode's side


class Gradcode:
    """A session whose workers wait between turns."""

    def __init__(self, scheme: Any, parameters: float, table: DelayTable | None) -> None:
        workers = scheme.workers
        self.cluster = gradcode.LocalCluster(workers, delays=table, delay_mode="emulate")
        self.model = build(parameters)
        self.reports: list[gradcode.Report] = []
        self.session = gradcode.Session(
            self.model,
            nn.CrossEntropyLoss(),
            data(64 * workers * SAMPLES),
            batch_size=workers * SAMPLES,
            scheme=scheme,
            cluster=self.cluster,
            listeners=[self.reports.append],
        )
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)
        self.steps = (step for _ in iter(int, 1) for step in self.session.epoch())

    def block(self, iterations: int) -> Block:
        whole, gradient = [], []
        self.reports.clear()
        for _ in range(iterations):
            step = next(self.steps)
            start = time.perf_counter()
            step.backward()
            filled = time.perf_counter()
            self.optimizer.step()
            self.optimizer.zero_grad()
            whole.append(time.perf_counter() - start)
            gradient.append(filled - start)
        computed = sum(report.computations for report in self.reports)
        return Block(
            float(np.median(whole)),
            float(np.median(gradient)),
            float(np.median([report.master_time for report in self.reports])),
            tuple(gradient),
            sum(report.overruns for report in self.reports) / max(1, computed),
        )

    def close(self) -> None:
        self.session.close()


def ratios(name: str, values: list[float]) -> str:
    return f"{name} {np.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def without_stragglers(workers: int, parameters: float, pairs: int, iterations: int) -> dict[str, Any]:
    """(a): ratios gradcode / DDP, pair by pair."""
    ours, theirs = Gradcode(schemes.uncoded(workers), parameters, None), DDP(workers, parameters)
    try:
        ours.block(iterations)
        theirs.block(iterations)
        rows = [(ours.block(iterations), theirs.block(iterations)) for _ in range(pairs)]
    finally:
        theirs.close()
        ours.close()
    whole = [a.whole / b.whole for a, b in rows]
    gradient = [a.gradient / b.gradient for a, b in rows]
    print(
        f"(a) N={workers} L={parameters:.0e}: gradcode {np.median([a.whole for a, _ in rows]) * 1e3:8.2f} ms, "
        f"DDP {np.median([b.whole for _, b in rows]) * 1e3:8.2f} ms; "
        f"{ratios('ratio', whole)}; {ratios('without step', gradient)}",
        flush=True,
    )
    return {"part": "a", "workers": workers, "parameters": parameters, "ratio": whole, "without_step": gradient}


def with_straggler(workers: int, parameters: float, pairs: int, iterations: int, unit: float) -> dict[str, Any]:
    """(b): one worker ten times slower, another one in each iteration, from one table."""
    rng = np.random.default_rng(7)
    recorded = unit * (1.0 + 0.1 * rng.random((iterations, workers)))
    recorded[np.arange(iterations), rng.integers(workers, size=iterations)] *= 10.0
    code = codes.fractional_repetition(workers, 1)
    scheme = schemes.coded(code)
    ours = Gradcode(scheme, parameters, DelayTable.from_array(recorded))
    theirs = DDP(workers, parameters)
    try:
        ours.block(iterations)
        theirs.block(min(3, iterations), recorded)
        theirs.done = 0
        rows = [(ours.block(iterations), theirs.block(iterations, recorded)) for _ in range(pairs)]
    finally:
        theirs.close()
        ours.close()
    compute = recorded[:, :, None]
    own_bound = scheme.duration(compute, np.zeros_like(recorded))
    ddp_bound = recorded.max(axis=1)
    fluid = schemes.fluid_bound(recorded, workers)
    # Iteration by iteration against its own bound: what is beyond it is overhead.
    over = [float(np.median(np.array(a.times) - own_bound)) for a, _ in rows]
    ddp_over = [float(np.median(np.array(b.times) - ddp_bound)) for _, b in rows]
    speed = [sum(b.times) / sum(a.times) for a, b in rows]
    bound = [sum(a.times) / own_bound.sum() for a, _ in rows]
    master = [a.master / b for (a, _), b in zip(rows, ddp_over, strict=True)]
    beyond = [a / b for a, b in zip(over, ddp_over, strict=True)]
    print(
        f"(b) N={workers} L={parameters:.0e}: bounds coded {own_bound.mean():.3f} s, DDP {ddp_bound.mean():.3f} s, "
        f"fluid {fluid.mean():.3f} s; {ratios('DDP/gradcode', speed)}; {ratios('gradcode/bound', bound)}; "
        f"{ratios('master/DDP overhead', master)}; {ratios('overhead/DDP overhead', beyond)}; "
        f"DDP overhead {np.median(ddp_over) * 1e3:.1f} ms, ours {np.median(over) * 1e3:.1f} ms, "
        f"master {np.median([a.master for a, _ in rows]) * 1e3:.2f} ms; "
        f"overruns {np.mean([a.overruns for a, _ in rows]):.1%}",
        flush=True,
    )
    return {
        "part": "b",
        "workers": workers,
        "parameters": parameters,
        "speed": speed,
        "over_bound": bound,
        "master": master,
        "beyond": beyond,
        "ddp_overhead": ddp_over,
        "overhead": over,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--workers", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--sizes", type=float, nargs="+", default=[1e5, 1e6, 1e7])
    parser.add_argument("--part", choices=["a", "b", "both"], default="both")
    parser.add_argument("--iterations", type=int, default=20, help="per turn in (a); (b) takes half of them")
    parser.add_argument("--unit", type=float, default=0.1, help="seconds per partition in (b)")
    parser.add_argument("--json", help="a file for the figures")
    arguments = parser.parse_args()
    results = []
    for parameters in arguments.sizes:
        for workers in arguments.workers:
            if arguments.part != "b":
                results.append(without_stragglers(workers, parameters, arguments.pairs, arguments.iterations))
            if arguments.part != "a":
                half = max(2, arguments.iterations // 2)
                results.append(with_straggler(workers, parameters, arguments.pairs, half, arguments.unit))
    if arguments.json:
        with open(arguments.json, "w") as file:  # noqa: PTH123
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
