"""Block coordinate coding against single codes, on local processes with emulated computing times.

    python benchmarks/blocks.py [--workers 8] [--iterations 24] [--json FILE]

Least squares, whose coordinates are computed one by one. A partition takes each worker a time drawn from a law, the
same recorded draws for all schemes, with the real computing inside (mode ``emulate``). Schemes: uncoded, the best
single level of redundancy, and the optimal blocks for the law. Per scheme: mean time per iteration, against
``duration`` on the same draws (the prediction) and the fluid bound; and how much less than the best single level it
takes, predicted and measured. The schemes take turns of a few iterations. Then, for a network, how much shorter
backward passes are that end early.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import TensorDataset

import gradcode
from gradcode import codes, delays, schemes
from gradcode.delays import DelayTable
from gradcode.delays.law import Law
from gradcode.planning import block_coordinate as planning
from gradcode.protocol import Scheme
from gradcode.training import LeastSquares, ModelObjective, Sampling, profile

COORDINATES = 4000
LAWS: dict[str, Law] = {
    "shifted exponential": delays.ShiftedExponential(shift=0.04, rate=3.0),
    "Pareto": delays.Pareto(shape=2.5, scale=0.24),
}
TURNS = 4


def contenders(law: Law, workers: int) -> dict[str, Scheme]:
    """The schemes compared."""
    level = min(range(workers), key=lambda s: (s + 1) * law.mean_order_statistic(workers - s, workers))
    best = planning.optimal(law, workers, COORDINATES, samples=workers, cycles=1 / COORDINATES)
    single = [COORDINATES * (n == level) for n in range(workers)]
    plain = [COORDINATES] + [0] * (workers - 1)
    return {
        "uncoded": schemes.block_coordinate(codes.block(plain, dtype="float64")),
        f"single level, s = {level}": schemes.block_coordinate(codes.block(single, dtype="float64")),
        "optimal blocks": schemes.block_coordinate(codes.block(best.sizes.tolist(), dtype="float64")),
    }


def measure(law: Law, workers: int, iterations: int) -> dict[str, Any]:
    """Means over the iterations, by scheme: measured, predicted, fluid; and the largest error of a gradient."""
    rng = np.random.default_rng(0)
    table = DelayTable.from_array(law.sample(rng, (iterations, workers)))
    features, targets = rng.standard_normal((10 * workers, COORDINATES)), rng.standard_normal(10 * workers)
    reports: dict[str, list[gradcode.Report]] = {}
    errors: dict[str, float] = {}
    sessions = {}
    for name, scheme in contenders(law, workers).items():
        objective = LeastSquares(features, targets, workers)
        cluster = gradcode.LocalCluster(workers, delays=table, delay_mode="emulate")
        reports[name], errors[name] = [], 0.0
        sessions[name] = gradcode.Session.of(objective, scheme, cluster, listeners=[reports[name].append])
    try:
        wanted = sessions["uncoded"].objective.gradient(torch.zeros(COORDINATES, dtype=torch.float64))
        for begin in range(0, iterations, TURNS):
            for name, session in sessions.items():
                for _ in range(min(TURNS, iterations - begin)):
                    next(iter(session.epoch())).backward()
                    found = session.objective.model.theta.grad
                    errors[name] = max(errors[name], float((found - wanted).norm() / wanted.norm()))
    finally:
        for session in sessions.values():
            session.close()
    return {
        name: {
            "measured": float(np.mean([report.time for report in own])),
            "predicted": float(np.mean([report.order_statistic for report in own])),
            "fluid": float(np.mean([report.fluid for report in own])),
            "overruns": sum(report.overruns for report in own) / sum(report.computations for report in own),
            "computations": float(np.mean([report.computations for report in own])),
            "error": errors[name],
        }
        for name, own in reports.items()
    }


def show(law: str, found: dict[str, Any]) -> None:
    """The table of one law."""
    single = next(name for name in found if name.startswith("single"))
    print(f"\n{law}")
    print("scheme                  measured  predicted  ratio  time/fluid   work  overruns")
    for name, own in found.items():
        print(
            f"{name:22s} {own['measured']:9.4f} {own['predicted']:10.4f} {own['measured'] / own['predicted']:6.3f} "
            f"{own['measured'] / own['fluid']:10.3f} {own['computations']:6.2f} {own['overruns']:9.2%}"
        )
    for other in ("uncoded", single):
        gain = {key: 1 - found["optimal blocks"][key] / found[other][key] for key in ("predicted", "measured")}
        predicted, measured = gain["predicted"], gain["measured"]
        share = measured / predicted
        print(f"blocks take {predicted:.1%} less than {other} predicted, {measured:.1%} measured ({share:.3f} of it)")
    print(f"largest relative error of a gradient: {max(own['error'] for own in found.values()):.1e}")


def show_passes(layers: int = 12, width: int = 256, samples: int = 256) -> None:
    """How much shorter backward passes are that end early, through layers of equal size."""
    torch.set_num_threads(1)
    model = nn.Sequential(*(layer for _ in range(layers) for layer in (nn.Linear(width, width), nn.Tanh())))
    data = TensorDataset(torch.randn(samples, width), torch.randn(samples, width))
    objective = ModelObjective(model, nn.MSELoss(), data, Sampling(samples, 1, samples, 0))
    costs = profile(objective, repeats=20)[::2]
    print(f"\nforward, and backward down to layer i of {layers}, as a share of a whole pass (median of 20 turns):")
    print("  ".join(f"{layer + 1}: {cost:.2f}" for layer, cost in enumerate(costs)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--iterations", type=int, default=24)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results = {}
    for name, law in LAWS.items():
        results[name] = measure(law, options.workers, options.iterations)
        show(name, results[name])
    show_passes()
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
