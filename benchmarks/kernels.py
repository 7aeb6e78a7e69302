"""The two kernels: decoding against the memory's read bandwidth, encoding against plain gradient accumulation.

    python benchmarks/kernels.py [--part decode|encode|both] [--pairs 9] [--sizes 1e5 1e6 1e7] [--threads 1 2]

Decoding: eight rows in the local cluster's shared memory, six of them needed, the others filled with NaN. The rate is
(bytes of the needed rows + bytes of the result) / time, and beside it stands that of ``torch.sum`` over all eight rows,
on the same threads. At 1e5 coordinates everything lies in the caches and the calls themselves are what is measured.

Encoding: a worker's three partitions of 16 samples added up into its shared row, with coefficients, statistics, seeds
and all, against plain PyTorch that accumulates the same batches (``zero_grad``, then three backward passes); on one
thread, in a fresh process, both sides with the memory settings of a worker.

Both sides take turns in one run; reported are medians, and median and range of the ratios pair by pair.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import TensorDataset

from gradcode.clusters.arena import Arena, Region
from gradcode.clusters.process import _keep_memory
from gradcode.schemes.decoding import weighted_sum
from gradcode.training.objective import ModelObjective
from gradcode.training.sampling import Sampling

ROWS = 8
PATTERNS = ((0, 1, 3, 4, 6, 7), (0, 2, 3, 5, 6, 7), (0, 2, 4, 5, 6, 7), (0, 1, 2, 3, 4, 5))
PARTITIONS, SAMPLES = 3, 16
COEFFICIENTS = {"1, 1, 1": (1.0, 1.0, 1.0), "general": (0.7, -1.3, 2.1)}


def seconds(work: Callable[[], object], times: int) -> float:
    """Median seconds of so many calls."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return float(np.median(taken))


def in_turns(sides: Sequence[Callable[[], object]], pairs: int, times: int) -> np.ndarray:
    """(pairs, sides) median seconds per call; every pair begins with another side."""
    for side in sides:
        seconds(side, times)
    result = np.empty((pairs, len(sides)))
    for pair in range(pairs):
        for offset in range(len(sides)):
            number = (pair + offset) % len(sides)
            result[pair, number] = seconds(sides[number], times)
    return result


def spread(values: np.ndarray) -> str:
    return f"{np.median(values):6.3f} ({values.min():.3f} to {values.max():.3f})"


# Decoding


def decode(length: int, threads: int, pairs: int) -> list[dict[str, Any]]:
    torch.set_num_threads(threads)
    arena = Arena({"rows": Region((ROWS, length), torch.float32), "out": Region((length,), torch.float32)})
    rows, out = arena["rows"], arena["out"]
    rng = np.random.default_rng(0)
    times = max(3, round(3e7 / length))
    results = []
    for pattern in PATTERNS:
        for kind in ("general", "all 1"):
            weights = np.zeros(ROWS)
            weights[list(pattern)] = rng.standard_normal(len(pattern)) if kind == "general" else 1.0
            rows.normal_(generator=torch.Generator().manual_seed(1))
            rows[torch.from_numpy(weights == 0)] = torch.nan
            out.fill_(torch.nan)
            weighted_sum(rows, weights, out)
            error = worst_error(rows, weights, out)
            assert error < 1e-6, f"the sum over rows {pattern} is wrong by {error:.1e} of its terms"
            taken = in_turns(
                [lambda w=weights: weighted_sum(rows, w, out), lambda: torch.sum(rows)],  # type: ignore[misc]
                pairs,
                times,
            )
            moved = np.array([len(pattern) + 1, ROWS]) * length * rows.itemsize
            rates = moved / taken
            ratio = rates[:, 0] / rates[:, 1]
            print(
                f"{length:8.0e} {threads:7d}  {','.join(map(str, pattern))}  {kind:7}  "
                f"{np.median(taken[:, 0]) * 1e3:9.3f}  {np.median(rates[:, 0]) / 1e9:8.1f}  "
                f"{np.median(rates[:, 1]) / 1e9:9.1f}  {spread(ratio)}  {error:.0e}",
                flush=True,
            )
            results.append(
                {
                    "part": "decode",
                    "length": length,
                    "threads": threads,
                    "rows": pattern,
                    "weights": kind,
                    "seconds": taken[:, 0].tolist(),
                    "ratio": ratio.tolist(),
                    "error": error,
                }
            )
    return results


def worst_error(rows: torch.Tensor, weights: np.ndarray, out: torch.Tensor) -> float:
    """Largest error against float64, relative to the sum of the terms' magnitudes."""
    chosen = torch.from_numpy(np.flatnonzero(weights))
    factors = torch.from_numpy(weights)[chosen, None]
    worst = 0.0
    for begin in range(0, len(out), 1 << 20):
        terms = factors * rows[chosen, begin : begin + (1 << 20)].double()
        error = (out[begin : begin + (1 << 20)].double() - terms.sum(0)).abs() / terms.abs().sum(0)
        worst = max(worst, float(error.max()) if error.isfinite().all() else math.inf)
    return worst


# Encoding


def perceptron(parameters: float) -> tuple[nn.Module, tuple[int, ...]]:
    """Two hidden layers and about ``parameters`` parameters; and the shape of a sample."""
    inputs, classes = 128, 10
    b = inputs + classes + 2
    width = round((-b + math.sqrt(b * b + 4 * parameters)) / 2)
    return nn.Sequential(
        nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, classes)
    ), (inputs,)


def small_cnn() -> tuple[nn.Module, tuple[int, ...]]:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    ), (1, 28, 28)


class Plain:
    """What a worker without gradcode does: the gradients of three batches added up in ``p.grad``."""

    def __init__(self, model: nn.Module, data: TensorDataset, sampling: Sampling) -> None:
        self.model, self.data, self.sampling = model, data, sampling
        self.loss_fn = nn.CrossEntropyLoss()
        self.batches = [torch.from_numpy(sampling.indices(0, partition)) for partition in range(PARTITIONS)]
        self.model.train()

    def __call__(self) -> None:
        features, targets = self.data.tensors
        self.model.zero_grad(set_to_none=True)
        for batch in self.batches:
            (self.loss_fn(self.model(features[batch]), targets[batch]) / PARTITIONS).backward()


class Encoding:
    """What a worker of gradcode does for the same batches."""

    def __init__(self, model: nn.Module, data: TensorDataset, sampling: Sampling) -> None:
        self.objective = ModelObjective(model, nn.CrossEntropyLoss(), data, sampling)
        length = self.objective.length
        regions = {"parameters": Region((length,), torch.float32), "row": Region((length,), torch.float32)}
        self.arena = Arena(regions)
        self.row = self.arena["row"]
        buffers = torch.zeros(self.objective.buffers, dtype=torch.float64)
        self.objective.place(self.arena["parameters"], buffers)
        self.objective.bind(self.arena["parameters"], buffers, 0)
        self.coefficients = COEFFICIENTS["1, 1, 1"]

    def __call__(self) -> None:
        self.objective.refresh()
        for partition, coefficient in enumerate(self.coefficients):
            self.objective.accumulate(0, partition, coefficient, self.row, partition == 0)
        self.objective.finish(self.row)


def encode(name: str, parameters: float | None, pairs: int) -> list[dict[str, Any]]:
    """Runs in a process of its own, with the memory settings of a worker."""
    _keep_memory()
    torch.set_num_threads(1)
    models, shape = [], ()
    for _ in range(2):
        torch.manual_seed(0)
        model, shape = small_cnn() if parameters is None else perceptron(parameters)
        models.append(model)
    generator = torch.Generator().manual_seed(1)
    samples = 64 * PARTITIONS * SAMPLES
    data = TensorDataset(
        torch.randn(samples, *shape, generator=generator), torch.randint(0, 10, (samples,), generator=generator)
    )
    sampling = Sampling(samples, PARTITIONS, PARTITIONS * SAMPLES, seed=0)
    ours, theirs = Encoding(models[0], data, sampling), Plain(models[1], data, sampling)
    ours()
    theirs()
    plain = torch.cat([parameter.grad.flatten() for parameter in models[1].parameters() if parameter.grad is not None])
    error = float((ours.row - plain).norm() / plain.norm())
    assert error < 1e-5, f"the encoded gradient of {name} is wrong by {error:.1e}"
    times = max(3, round(0.3 / seconds(theirs, 5)))
    results = []
    for kind, coefficients in COEFFICIENTS.items():
        ours.coefficients = coefficients
        taken = in_turns([ours, theirs], pairs, times)
        ratio = taken[:, 0] / taken[:, 1]
        encoding, accumulation = np.median(taken, axis=0) * 1e3
        print(
            f"{name:18}  {ours.objective.length:10,d}  {kind:12}  {encoding:9.3f}  {accumulation:9.3f}  "
            f"{(encoding - accumulation) * 1e3:+9.0f}  {spread(ratio)}  {error:.0e}",
            flush=True,
        )
        results.append({"part": "encode", "model": name, "coefficients": kind, "ratio": ratio.tolist()})
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["decode", "encode", "both"], default="both")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--sizes", type=float, nargs="+", default=[1e5, 1e6, 1e7])
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, torch.get_num_threads()}))
    parser.add_argument("--json", help="a file for the figures")
    arguments = parser.parse_args()
    results = []
    if arguments.part != "encode":
        print("Decoding: GB/s of the rows read and the result written, against torch.sum over all rows")
        print("  length threads  rows needed  weights         ms    decode  torch.sum  ratio (range)             error")
        for threads in arguments.threads:
            for length in arguments.sizes:
                results += decode(int(length), threads, arguments.pairs)
    if arguments.part != "decode":
        print("Encoding three partitions: ms per iteration, against plain accumulation of the same batches")
        print(
            "model               parameters  coefficients   encoding      plain  more (µs)  ratio (range)         error"
        )
        jobs: list[tuple[str, float | None]] = [(f"perceptron {size:.0e}", size) for size in arguments.sizes]
        for name, parameters in [*jobs, ("small CNN", None)]:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                results += pool.apply(encode, (name, parameters, arguments.pairs))
    if arguments.json:
        with open(arguments.json, "w") as file:  # noqa: PTH123
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
