"""gradcode's Ray cluster against a parameter server that is written by hand on Ray; see ``benchmarks/clusters.py``.

The server is what one writes in thirty lines: ``ray.put`` of the parameters, one actor call per worker, ``ray.wait``
for the first k, a sum, a step. Both sides train the same perceptron on the same samples, 16 per worker and iteration,
with plain SGD and one thread per process, on one Ray, and take turns in blocks of iterations, the first to go
alternating.

Without delays both wait for all six workers, and must end with the same parameters. Then the computing of one worker
sleeps for 200 ms and both wait for five. Its *backlog* after an iteration is how many partitions it has still to
compute, or is computing, for iterations that are over: the worker itself notes when it begins and ends a partition.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import contextmanager
from itertools import count, cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import ray
import torch
from torch import Tensor, nn

import gradcode
from gradcode import schemes
from gradcode.protocol import Floats
from gradcode.training import ModelObjective, Sampling
from versus_ddp import SAMPLES, build, data

WORKERS = 6
WARM = 3  # iterations before those that count
LATE = 0.2  # seconds
RATE = 0.01
CLOSE = 1e-4  # relative, of parameters in float32
TARGETS = {1e5: 1.25, 1e6: 1.1, 1e7: 1.1}  # ours / theirs, without delays
LATE_TARGET = 1.15

Array = np.ndarray[Any, Any]
Logged = tuple[int, float, float]  # iteration, begin and end of its computing


# The minimal parameter server


class Worker:
    """Computes gradients on one batch of its samples after the other."""

    def __init__(self, size: float, inputs: Tensor, targets: Tensor) -> None:
        torch.set_num_threads(1)
        self.model, self.loss_fn = build(size), nn.CrossEntropyLoss()
        self.batches = cycle(zip(inputs.split(SAMPLES), targets.split(SAMPLES), strict=True))

    def gradient(self, flat: Array) -> Array:
        inputs, targets = next(self.batches)
        nn.utils.vector_to_parameters(torch.from_numpy(flat), self.model.parameters())
        self.model.zero_grad()
        self.loss_fn(self.model(inputs), targets).backward()
        return nn.utils.parameters_to_vector(p.grad for p in self.model.parameters()).numpy()


class Server:
    """Holds the parameters and makes steps with the mean of the first k gradients."""

    def __init__(self, parameters: Array, workers: list[Any], k: int) -> None:
        self.parameters, self.workers, self.k = parameters, workers, k

    def step(self) -> None:
        shared = ray.put(self.parameters)
        calls = [worker.gradient.remote(shared) for worker in self.workers]
        first, _ = ray.wait(calls, num_returns=self.k)
        gradients = ray.get(first)
        total = gradients[0] + gradients[1]
        for gradient in gradients[2:]:
            total += gradient
        total *= RATE / self.k
        self.parameters -= total


# The late worker, on both sides


@contextmanager
def noted(log: Path, number: int) -> Any:
    """Sleeps before some computing for iteration ``number``, and notes when all of it began and ended."""
    begin = time.monotonic()
    time.sleep(LATE)
    yield
    with log.open("a") as file:
        file.write(f"{number} {begin} {time.monotonic()}\n")


class LateWorker(Worker):
    """Of the minimal server. Calls come in order, so the n-th one belongs to iteration n."""

    def __init__(self, size: float, inputs: Tensor, targets: Tensor, log: Path) -> None:
        super().__init__(size, inputs, targets)
        self.log, self.numbers = log, count()

    def gradient(self, flat: Array) -> Array:
        with noted(self.log, next(self.numbers)):
            return super().gradient(flat)

    def idle(self) -> None:
        """Is answered when all calls before have been."""


class LateObjective(ModelObjective):
    """Of gradcode's side: what worker 0 computes comes late."""

    log: Path
    worker = -1

    def bind(self, parameters: Tensor, buffers: Tensor, worker: int) -> None:
        super().bind(parameters, buffers, worker)
        self.worker = worker

    def accumulate(self, number: int, partition: int, coefficient: float, out: Tensor, first: bool) -> Floats:
        if self.worker:
            return super().accumulate(number, partition, coefficient, out, first)
        with noted(self.log, number):
            return super().accumulate(number, partition, coefficient, out, first)


# Measuring


class Gradcode:
    """A session on a Ray cluster."""

    def __init__(self, size: float, scheme: Any, epoch: int, log: Path | None = None) -> None:
        kind = ModelObjective if log is None else LateObjective
        plan = sampling(epoch)
        objective = kind(build(size), nn.CrossEntropyLoss(), data(plan.samples), plan)
        if log is not None:
            objective.log = log
        self.cluster = gradcode.RayCluster(WORKERS)
        self.session = gradcode.Session.of(objective, scheme, self.cluster)
        self.optimizer = torch.optim.SGD(self.session.model.parameters(), lr=RATE)
        self.steps = (step for _ in iter(int, 1) for step in self.session.epoch())

    def step(self) -> None:
        next(self.steps).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def parameters(self) -> Array:
        return self.session.cluster.parameters.numpy().copy()


def sampling(epoch: int) -> Sampling:
    """Which samples are whose and when, in epochs of so many iterations."""
    return Sampling(epoch * WORKERS * SAMPLES, WORKERS, WORKERS * SAMPLES, seed=0)


def minimal(size: float, epoch: int, log: Path) -> tuple[Server, Server, Any]:
    """A server for all workers, one for five of six where worker 0 is late, and that worker.

    The samples of each worker lie in the order in which gradcode takes them in the first epoch.
    """
    plan = sampling(epoch)
    inputs, targets = data(plan.samples).tensors
    orders = [np.concatenate([plan.indices(number, worker) for number in range(epoch)]) for worker in range(WORKERS)]
    batches = [(size, inputs[order], targets[order]) for order in map(torch.from_numpy, orders)]
    workers = [ray.remote(Worker).remote(*batch) for batch in batches]
    late = ray.remote(LateWorker).remote(*batches[0], log)
    flat = nn.utils.parameters_to_vector(build(size).parameters()).detach().numpy()
    return Server(flat.copy(), workers, WORKERS), Server(flat.copy(), [late, *workers[1:]], WORKERS - 1), late


def timed(step: Callable[[], None], iterations: int) -> tuple[list[float], list[float]]:
    """Seconds of every iteration, and when it ended."""
    times, ends = [], []
    for _ in range(iterations):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
        ends.append(time.monotonic())
    return times, ends


def in_turns(
    sides: dict[str, Callable[[], None]], pairs: int, iterations: int, pause: Callable[[], None]
) -> dict[str, list[list[float]]]:
    """name -> the times of each of its blocks; ``pause`` comes after each block."""
    blocks: dict[str, list[list[float]]] = {name: [] for name in sides}
    for pair in range(-1, pairs):  # the first one warms up
        for name in list(sides) if pair % 2 else reversed(sides):
            times, _ = timed(sides[name], iterations if pair >= 0 else WARM)
            if pair >= 0:
                blocks[name].append(times)
            pause()
    return blocks


def backlog(log: Path, first: int, ends: list[float]) -> list[int]:
    """After each iteration from ``first``: partitions that the late worker has yet to end for iterations over."""
    lines = (line.split() for line in log.read_text().splitlines())
    logged: list[Logged] = [(int(number), float(begin), float(end)) for number, begin, end in lines]
    return [sum(number <= first + index and end > over for number, _, end in logged) for index, over in enumerate(ends)]


def summary(blocks: dict[str, list[list[float]]], target: float) -> dict[str, Any]:
    ours, theirs = (np.array(blocks[name]) for name in ("ours", "theirs"))
    pairs = np.median(ours, axis=1) / np.median(theirs, axis=1)
    ratio = float(np.median(ours) / np.median(theirs))
    return {
        "ours": float(np.median(ours)),
        "theirs": float(np.median(theirs)),
        "ratio": ratio,
        "range": (float(pairs.min()), float(pairs.max())),
        "target": target,
        "missed": ratio > target,
    }


def without_delays(size: float, server: Server, pairs: int, iterations: int) -> dict[str, Any]:
    ours = Gradcode(size, schemes.uncoded(WORKERS), WARM + pairs * iterations)
    with ours.session:
        sides = {"ours": ours.step, "theirs": server.step}
        found = summary(in_turns(sides, pairs, iterations, lambda: None), TARGETS.get(size, 1.1))
        difference = np.linalg.norm(ours.parameters() - server.parameters) / np.linalg.norm(server.parameters)
    assert difference < CLOSE, f"the two sides end with other parameters: they differ by {difference:.1e} relatively"
    return {"case": "no delays", "size": size, **found}


def with_late_worker(
    size: float, server: Server, late: Any, logs: dict[str, Path], pairs: int, iterations: int, shown: int
) -> dict[str, Any]:
    first = WARM + pairs * iterations
    ours = Gradcode(size, schemes.fastest(WORKERS, k=WORKERS - 1), first + shown, logs["ours"])

    def pause() -> None:
        """Until no late computing of one side can disturb the other."""
        ray.get(late.idle.remote())
        time.sleep(2 * LATE)

    with ours.session:
        sides = {"ours": ours.step, "theirs": server.step}
        found = summary(in_turns(sides, pairs, iterations, pause), LATE_TARGET)
        behind, unfinished = {}, []

        def watched() -> None:
            ours.step()
            unfinished.append(ours.cluster.unfinished[0])

        for name, step in {"ours": watched, "theirs": server.step}.items():
            _, ends = timed(step, shown)
            pause()
            behind[name] = backlog(logs[name], first, ends)
    found["missed"] |= max(behind["ours"]) > 1
    return {"case": "one late", "size": size, **found, "backlog": behind, "unfinished": max(unfinished)}


def compare(sizes: list[float], pairs: int, most: int, shown: int) -> list[dict[str, Any]]:
    """Measures and prints; Ray is connected already. ``most`` iterations per turn, fewer of large models."""
    torch.set_num_threads(1)
    print(f"Time per iteration, medians; load average {os.getloadavg()[0]:.1f}")
    results = []
    for size in sizes:
        iterations = most if size < 1e7 else max(5, most // 2)
        with TemporaryDirectory() as folder:
            logs = {name: Path(folder) / name for name in ("ours", "theirs")}
            everybody, five, late = minimal(size, WARM + pairs * iterations, logs["theirs"])
            results.append(without_delays(size, everybody, pairs, iterations))
            show(results[-1])
            results.append(with_late_worker(size, five, late, logs, pairs, max(5, iterations // 2), shown))
            show(results[-1])
    return results


def show(row: dict[str, Any]) -> None:
    low, high = row["range"]
    print(
        f"{row['case']:9}  L={row['size']:.0e}: gradcode {row['ours'] * 1e3:7.2f} ms, "
        f"minimal {row['theirs'] * 1e3:7.2f} ms; ratio {row['ratio']:.3f} (pairs {low:.3f} to {high:.3f}), "
        f"at most {row['target']}{'  MISSED' if row['missed'] else ''}",
        flush=True,
    )
    if "backlog" in row:
        for name, behind in row["backlog"].items():
            # After iterations 1, 2, 5, 10, 20, ... and the last one.
            marks = sorted({i for i in (1, 2, 5, 10, 20, 40) if i < len(behind)} | {len(behind)})
            said = ", ".join(f"{behind[i - 1]} ({i})" for i in marks)
            print(f"    late worker's backlog (after iteration), {name}: {said}; at most {max(behind)}", flush=True)
        print(f"    calls that gradcode's late worker had not ended: at most {row['unfinished']}", flush=True)
