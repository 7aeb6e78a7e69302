"""Edge nodes on a local cluster: predicted against measured time per iteration, and what the master receives.

    python benchmarks/hierarchical.py [--iterations 15] [--json FILE]

A system of 4 edge nodes × 3 workers with the delays of the hierarchical spec's runtime model (fixed tail, parameters
OURS), injected in mode ``emulate``: every partition ends, and every message arrives, at the time that the one table of
delays gives it. What is predicted of an iteration is the scheme's ``duration`` on the same row of that table. All
schemes train the same model from the same start on the same samples.

Asked for: mean measured time within 10 % of the prediction for at least five schemes, overruns below 5 % of the
partitions, and n − s_e vectors per iteration at the master for the hierarchical code against N − s for the flat one.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import gradcode
from gradcode import catalog, codes, schemes
from gradcode.experiments.hierarchical.methods import delays_of
from gradcode.planning.hierarchical import Edge, System, Worker
from gradcode.protocol import Scheme

QUICK = Worker(compute=0.03, rate=25.0, attempt=0.02, failure=0.1)
SLOW = Worker(compute=0.06, rate=10.0, attempt=0.03, failure=0.3)
UNDER = (QUICK, QUICK, SLOW)
SYSTEM = System((Edge(UNDER, 0.03, 0.1),) * 3 + (Edge(UNDER, 0.12, 0.2),), partitions=12)
PER_EDGE = list(SYSTEM.workers_per_edge)
FLAT = "standard GC (s=6), relays"
HGC = "HGC (1,1)"


def layered(edge_stragglers: int, worker_stragglers: int) -> Scheme:
    """The closed form needs as many answers as the runtime model says, repetition would often need fewer."""
    code = codes.hierarchical(PER_EDGE, edge_stragglers, worker_stragglers, variant="lagrange", max_error=1e-4)
    return schemes.hierarchical(code)


def contenders() -> dict[str, Scheme]:
    return {
        "uncoded": layered(0, 0),
        "greedy (1,1)": schemes.greedy(PER_EDGE, 1, 1),
        "CGC-W (s_w=1)": layered(0, 1),
        "CGC-E (s_e=1)": layered(1, 0),
        HGC: layered(1, 1),
        FLAT: schemes.coded(codes.cyclic_mds(SYSTEM.workers, 6, max_error=1e-3)),
    }


def measure(scheme: Scheme, iterations: int, seed: int = 0) -> list[gradcode.Report]:
    """The reports of so many iterations on a local cluster, after one that warms up."""
    data = catalog.DATASETS["synthetic"](samples=3000, features=40, classes=10)
    torch.manual_seed(seed)
    model = catalog.mlp((40,), outputs=10, hidden=(64,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    reports: list[gradcode.Report] = []
    cluster = gradcode.LocalCluster(topology=PER_EDGE, delays=delays_of(SYSTEM), delay_mode="emulate", seed=seed)
    with gradcode.Session(
        model, nn.CrossEntropyLoss(), data.train, 96, scheme, cluster, seed, listeners=[reports.append]
    ) as session:
        while len(reports) <= iterations:
            for step in session.epoch():
                step.backward()
                optimizer.step()
                if len(reports) > iterations:
                    break
    return reports[1:]


def row(name: str, scheme: Scheme, reports: Sequence[gradcode.Report]) -> dict[str, Any]:
    """The figures of a scheme; times in seconds."""
    measured = np.array([report.time for report in reports])
    predicted = np.array([report.order_statistic for report in reports])
    return {
        "scheme": name,
        "predicted": predicted.mean(),
        "measured": measured.mean(),
        "ratio": measured.mean() / predicted.mean(),
        "ratios": (measured / predicted).tolist(),
        "overruns": sum(report.overruns for report in reports) / sum(report.computations for report in reports),
        "bytes": float(np.mean([report.bytes_up for report in reports])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=15)
    parser.add_argument("--json", type=Path, help="a file for the figures")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    print(f"{len(PER_EDGE)} edge nodes × {PER_EDGE[0]} workers, {arguments.iterations} iterations of each scheme")
    print("scheme                      predicted   measured   ratio (range)            overruns   bytes at the master")
    for name, scheme in contenders().items():
        rows.append(own := row(name, scheme, measure(scheme, arguments.iterations)))
        spread = f"({min(own['ratios']):.3f} to {max(own['ratios']):.3f})"
        print(
            f"{name:26}  {own['predicted']:7.3f} s  {own['measured']:7.3f} s   {own['ratio']:.3f} {spread:18}"
            f"  {own['overruns']:7.2%}  {own['bytes']:12.0f}",
            flush=True,
        )
    received = {own["scheme"]: own["bytes"] for own in rows}
    print(f"bytes at the master, hierarchical / flat: {received[HGC] / received[FLAT]:.3f}")
    good = [own["scheme"] for own in rows if abs(own["ratio"] - 1) <= 0.1 and own["overruns"] < 0.05]
    print(f"within 10 % and below 5 % overruns: {len(good)} of {len(rows)}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
