"""Few bits for a small network: accuracy, bytes up, and time to an accuracy over slow links.

    python benchmarks/few_bits.py [--epochs 60] [--seeds 1 2 3] [--json FILE]

A small CNN (13,700 parameters) learns scikit-learn's digits on eight local worker processes by plain SGD, every
contender with the same start, samples, dropout and stragglers per seed. Partitions lie on two workers each; in each
iteration each worker straggles with probability 0.2. Learning rates are those of the best accuracy on seed 0, which is
not among the seeds reported, of the grid 0.02, 0.05, 0.1, 0.15, 0.2, 0.4, 0.6, 0.8, 1.2.

*Deadline*: stragglers do not answer at all, an iteration ends after 0.2 seconds, and the gradient is weighted for those
that are missing. How many others were late besides is shown. *Link*: a worker takes 40 ms per partition, stragglers ten
times as long, and sends over 10 Mbit/s of its own, the delay following from the bytes of each message; an iteration
ends with the sixth answer. Time to an accuracy is that of the first epoch whose test accuracy is at least 95 %.
Bytes are those counted at the master.

Asked for: COCO-EF with signs within 1 point of float32's accuracy with at least 20 times fewer bytes up.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

import gradcode
from gradcode import catalog, delays, schemes
from gradcode.delays import DelayTable
from gradcode.errors import GradcodeWarning
from gradcode.protocol import Cluster, Scheme

WORKERS, BATCH, STEPS, P, TARGET = 8, 240, 6, 0.2, 0.95  # STEPS: iterations per epoch
Build = Callable[..., Scheme]

CONTENDERS: dict[str, tuple[Build, float]] = {
    "float32": (schemes.sgc, 0.8),
    "COCO-EF, signs by 64": (schemes.coco_ef, 0.8),
    "one random bit (linf)": (schemes.one_bit, 0.1),
}


@dataclass(frozen=True)
class Run:
    """One training; times in seconds. ``overruns``: of the partitions, those that took longer than they were to."""

    accuracy: float
    answers: int
    overruns: float
    bytes_up: int
    seconds: float
    to_target: float


def straggling(seed: int, iterations: int) -> npt.NDArray[np.bool_]:
    return np.random.default_rng(seed).random((iterations, WORKERS)) < P


def deadline(seed: int, iterations: int) -> tuple[Cluster, dict[str, Any]]:
    table = DelayTable.from_array(np.where(straggling(seed, iterations), np.inf, 0.0))
    return gradcode.LocalCluster(WORKERS, delays=table), {"straggling": P, "deadline": 0.2}


def link(seed: int, iterations: int) -> tuple[Cluster, dict[str, Any]]:
    compute = delays.Bernoulli(delays.Deterministic(0.04), P, 10.0)
    law = delays.Delays(compute, delays.Link(bandwidth=1.25e6))
    return gradcode.LocalCluster(WORKERS, law, delay_mode="emulate", seed=seed), {"quorum": 6}


def train(build: Build, rate: float, make: Callable[..., Any], seed: int, epochs: int) -> Run:
    torch.manual_seed(seed)
    data, loss_fn = catalog.DATASETS["digits"](), nn.CrossEntropyLoss()
    model = catalog.cnn((1, 8, 8), outputs=10, channels=(16, 32), hidden=64, dropout=0.25)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    cluster, options = make(seed, STEPS * epochs)
    reports: list[gradcode.Report] = []
    evaluation, to_target = catalog.Evaluation(data.test, loss_fn), float("inf")
    scheme = build(WORKERS, 2, allocation="cyclic", **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GradcodeWarning)
        with gradcode.Session(
            model, loss_fn, data.train, BATCH, scheme, cluster, seed, optimizer=optimizer, listeners=[reports.append]
        ) as session:
            for _ in range(epochs):
                for step in session.epoch():
                    step.backward()
                    optimizer.step()
                    optimizer.zero_grad()
                model.eval()
                accuracy = evaluation(model)["accuracy"]
                model.train()
                if accuracy >= TARGET and to_target == float("inf"):
                    to_target = sum(report.time for report in reports)
    answers = sum(int(np.isfinite(report.arrivals).sum()) for report in reports)
    overruns = sum(r.overruns for r in reports) / sum(r.computations for r in reports)
    return Run(accuracy, answers, overruns, sum(r.bytes_up for r in reports), sum(r.time for r in reports), to_target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    runs: dict[str, dict[str, list[Run]]] = {"deadline": {}, "link": {}}
    for seed in asked.seeds:
        for where, make in (("deadline", deadline), ("link", link)):
            for name, (build, rate) in CONTENDERS.items():
                run = train(build, rate, make, seed, asked.epochs)
                runs[where].setdefault(name, []).append(run)
                print(f"seed {seed}, {where}: {name}: {run}", flush=True)
    _print(runs, asked.seeds, asked.epochs)
    if asked.json:
        asked.json.write_text(json.dumps(runs, default=vars, indent=1) + "\n", encoding="utf-8")


def _print(runs: dict[str, dict[str, list[Run]]], seeds: list[int], epochs: int) -> None:
    def mean(where: str, name: str, field: str) -> float:
        return float(np.mean([getattr(run, field) for run in runs[where][name]]))

    plain = next(iter(CONTENDERS))
    for where in runs:
        print(f"\n{where}\n\n| messages | accuracy (each seed) | MB up | fewer bytes | time | time to {TARGET:.0%} |")
        print("|---|---|---|---|---|---|")
        for name in CONTENDERS:
            each = ", ".join(f"{run.accuracy:.1%}" for run in runs[where][name])
            up, taken, target = (mean(where, name, field) for field in ("bytes_up", "seconds", "to_target"))
            plain_up, plain_taken, plain_target = (mean(where, plain, f) for f in ("bytes_up", "seconds", "to_target"))
            print(
                f"| {name} | {mean(where, name, 'accuracy'):.1%} ({each}) | {up / 1e6:.1f} | {plain_up / up:.1f} "
                f"| {taken / plain_taken:.2f} | {target / plain_target:.2f} |"
            )
    expected = np.mean([(~straggling(seed, STEPS * epochs)).sum() for seed in seeds])
    late = {name: f"{1 - mean('deadline', name, 'answers') / expected:.2%}" for name in CONTENDERS}
    print(f"\nAnswers of workers that did not straggle, and were late all the same: {late}")
    overruns = {name: f"{mean('link', name, 'overruns'):.2%}" for name in CONTENDERS}
    print(f"Partitions that took longer than 40 ms, over the link: {overruns}")


if __name__ == "__main__":
    main()
