"""Dynamic clustering on a local cluster under Gilbert-Elliott stragglers: time per iteration beside fixed clusters.

    python benchmarks/clustering.py [--iterations 60] [--unit 0.1] [--memory 0.9] [--seed 0] [--json FILE]

8 workers in 4 clusters of 2, one straggler each, every worker may join every cluster. A quarter of the workers is slow
at any time, 8 times as slow, in spells with the given correlation from iteration to iteration. One table of delays is
drawn, and all schemes run it in mode ``emulate``: every partition ends at the time that the table says. They train the
same model from the same start on the same samples. What is predicted of an iteration is the scheme's ``duration`` on
the same row of the table, for the clusters that it has formed. Dynamic clustering learns who is slow from the replies.

Asked for: dynamic clustering faster than fixed clusters.
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
from gradcode.delays import DelayTable, GilbertElliott, ShiftedExponential
from gradcode.protocol import Scheme

WORKERS, CLUSTERS, STRAGGLERS = 8, 4, 1
SHARE, SLOWDOWN = 0.25, 8.0
WARM = 1  # iterations that do not count


def contenders() -> dict[str, Scheme]:
    def clusters() -> codes.ClusteredCode:
        return codes.clustered(WORKERS, CLUSTERS, STRAGGLERS)

    return {
        "uncoded": schemes.uncoded(WORKERS),
        "one code, s = 1": schemes.coded(codes.cyclic_mds(WORKERS, STRAGGLERS)),
        "fixed clusters": schemes.clustered(clusters(), 1),
        "dynamic clusters": schemes.clustered(clusters(), CLUSTERS),
    }


def recorded(iterations: int, unit: float, memory: float, seed: int) -> DelayTable:
    """Seconds per partition: at least ``unit``, a tenth more on average, and so many times more in a slow spell."""
    base = ShiftedExponential(unit, 10 / unit)
    process = GilbertElliott(base, SHARE * (1 - memory), (1 - SHARE) * (1 - memory), SLOWDOWN)
    return DelayTable.from_array(process.sample(np.random.default_rng(seed), iterations + WARM, WORKERS))


def measure(scheme: Scheme, table: DelayTable, iterations: int, seed: int) -> tuple[list[gradcode.Report], list[int]]:
    """The reports of so many iterations, after one that warms up, and how many workers changed cluster in each."""
    data = catalog.DATASETS["synthetic"](samples=3000, features=40, classes=10)
    torch.manual_seed(seed)
    model = catalog.mlp((40,), outputs=10, hidden=(64,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    reports: list[gradcode.Report] = []
    moved: list[int] = []
    cluster = gradcode.LocalCluster(WORKERS, delays=table, delay_mode="emulate", seed=seed)
    with gradcode.Session(
        model, nn.CrossEntropyLoss(), data.train, 96, scheme, cluster, seed, listeners=[reports.append]
    ) as session:
        while len(reports) < iterations + WARM:
            for step in session.epoch():
                step.backward()
                moved.append(len(getattr(scheme, "moved", ())))
                optimizer.step()
                if len(reports) == iterations + WARM:
                    break
    return reports[WARM:], moved[WARM:]


def row(name: str, reports: Sequence[gradcode.Report], moved: Sequence[int]) -> dict[str, Any]:
    """The figures of a scheme; times in seconds."""
    measured = np.array([report.time for report in reports])
    return {
        "scheme": name,
        "mean": measured.mean(),
        "p95": float(np.quantile(measured, 0.95)),
        "predicted": float(np.mean([report.order_statistic for report in reports])),
        "fluid": float(np.mean([report.fluid for report in reports])),
        "moved": float(np.mean(moved)),
        "overruns": sum(report.overruns for report in reports) / sum(report.computations for report in reports),
        "error": max(report.decode_error for report in reports),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=60)
    parser.add_argument("--unit", type=float, default=0.1, help="seconds of a partition on a worker that is not slow")
    parser.add_argument("--memory", type=float, default=0.9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="a file for the figures")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table = recorded(arguments.iterations, arguments.unit, arguments.memory, arguments.seed)
    rows = []
    print(f"{WORKERS} workers in {CLUSTERS} clusters, {arguments.iterations} iterations of each scheme")
    print("scheme                 mean      95 %  predicted     fluid   moved   overruns  decode error")
    for name, scheme in contenders().items():
        reports, moved = measure(scheme, table, arguments.iterations, arguments.seed)
        rows.append(own := row(name, reports, moved))
        print(
            f"{name:17} {own['mean']:7.3f} s {own['p95']:7.3f} s  {own['predicted']:7.3f} s {own['fluid']:7.3f} s"
            f"  {own['moved']:6.2f}  {own['overruns']:8.2%}  {own['error']:12.1e}",
            flush=True,
        )
    mean = {own["scheme"]: own["mean"] for own in rows}
    for name in ("fixed clusters", "one code, s = 1", "uncoded"):
        print(f"{name} / dynamic clusters: {mean[name] / mean['dynamic clusters']:.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
