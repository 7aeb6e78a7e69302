"""Uncoded against coded training: the same model, data, seed and delays, side by side.

A small CNN with dropout learns scikit-learn's digits on eight local workers. Every partition takes a heavy-tailed
(Pareto) time, and two workers are slower for good. Uncoded training waits for the slowest in every iteration; gradient
coding gives each partition to two workers and decodes the same gradient from whoever answers first.

The delays are emulated: a partition *ends* at its drawn time, with the real computing inside, so that eight workers on
two cores behave like eight machines. What the schemes predict for the very same draws is printed beside what was
measured. Takes about a minute and a half; pictures and traces are left in runs/demo/.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import gradcode
from gradcode import catalog, codes, delays, schemes
from gradcode.protocol import Report, Scheme
from gradcode.reporting import Progress, Summary, TraceFile, WaitingForAll

WORKERS, STRAGGLERS, SEED = 8, 1, 0
BATCH, EPOCHS, RATE = 240, 12, 0.01
GOAL = 0.95
OUTPUT = Path("runs/demo")

# Seconds per partition. The least of them is several times what eight workers' real computing needs on two cores.
DELAYS = delays.slow(delays.Pareto(shape=2.5, scale=0.05), {2: 6.0, 5: 8.0})


@dataclass
class Run:
    """One training: what was measured and what was predicted."""

    parameters: torch.Tensor
    predicted: float
    message: int
    reports: list[Report]
    summary: Summary
    times: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)

    @property
    def deviation(self) -> float:
        return self.summary.mean_time / self.predicted - 1

    @property
    def time_to_goal(self) -> float:
        """Seconds of training until the accuracy first reached the goal."""
        reached = (at for at, accuracy in zip(self.times, self.accuracies, strict=True) if accuracy >= GOAL)
        return next(reached, float("nan"))


def train(name: str, scheme: Scheme, console: Console) -> Run:
    """Trains by one scheme; everything but the scheme is the same for both."""
    torch.manual_seed(SEED)
    data = catalog.DATASETS["digits"]()
    model = catalog.cnn((1, 8, 8), 10, channels=(16, 32), hidden=64, dropout=0.25)
    table = delays.as_table(DELAYS, WORKERS, SEED)
    evaluate = catalog.Evaluation(data.test, nn.CrossEntropyLoss())
    # With Adam's usual eps a coordinate whose gradient is mere rounding moves as far as any other.
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, eps=1e-4)
    cluster = gradcode.LocalCluster(WORKERS, delays=table, delay_mode="emulate")
    reports: list[Report] = []
    summary = Summary(WaitingForAll(table, WORKERS, scheme.partitions))
    times, accuracies = [0.0], [accuracy(model, evaluate)]
    with gradcode.Session(model, nn.CrossEntropyLoss(), data.train, BATCH, scheme, cluster, SEED) as session:
        iterations = EPOCHS * session.iterations_per_epoch
        with TraceFile(OUTPUT / f"{name}.trace.json") as trace, Progress(iterations, summary, console) as progress:
            session.listeners += [reports.append, summary, trace, progress]
            for _ in range(EPOCHS):
                for step in session.epoch():
                    step.backward()
                    optimizer.step()
                    optimizer.zero_grad()
                    if session.iteration % 2 == 0:
                        times.append(summary.time)
                        accuracies.append(accuracy(model, evaluate))
        message = session.objective.length * session.objective.itemsize
    predicted = float(scheme.duration(*table.window(0, iterations, message)).mean())
    parameters = nn.utils.parameters_to_vector(model.parameters()).detach()
    return Run(parameters, predicted, message, reports, summary, times, accuracies)


def accuracy(model: nn.Module, evaluate: catalog.Evaluation) -> float:
    """On the held-out digits; the clock of the training stands still meanwhile."""
    model.eval()
    value = evaluate(model)["accuracy"]
    model.train()
    return value


def compare(uncoded: Run, coded: Run, console: Console) -> None:
    """Both runs side by side."""
    table = Table(title=f"{len(coded.reports)} iterations of {BATCH} samples on {WORKERS} workers")
    for heading in ("", "uncoded", f"coded (s = {STRAGGLERS})"):
        table.add_column(heading, justify="left" if not heading else "right")
    rows = {
        "time per iteration": lambda run: f"{run.summary.mean_time:.3f} s",
        "predicted for these delays": lambda run: f"{run.predicted:.3f} s",
        "deviation": lambda run: f"{run.deviation:+.1%}",
        f"time to {GOAL:.0%} accuracy": lambda run: f"{run.time_to_goal:.1f} s",
        "training time": lambda run: f"{run.summary.time:.1f} s",
        "final accuracy": lambda run: f"{run.accuracies[-1]:.1%}",
        "overruns": lambda run: f"{run.summary.overruns:.1%} of partitions",
    }
    for label, show in rows.items():
        table.add_row(label, show(uncoded), show(coded))
    console.print(table)


def draw(uncoded: Run, coded: Run) -> Path:
    """Timelines and accuracy against time."""
    from gradcode.reporting import plots

    runs = {"uncoded: waits for all": uncoded, f"coded: any {STRAGGLERS} of 8 may be late": coded}
    figure = plots.comparison(
        {name: run.reports for name, run in runs.items()},
        {name: (run.times, run.accuracies) for name, run in runs.items()},
        "accuracy on the test digits",
        seconds=8 * uncoded.summary.mean_time,
        level=GOAL,
    )
    plots.save(figure, OUTPUT / "demo.png")
    return OUTPUT / "demo.png"


def main() -> int:
    torch.set_num_threads(1)
    console = Console()
    console.print(f"[bold]Uncoded[/]: waits for all {WORKERS} workers")
    uncoded = train("uncoded", schemes.uncoded(WORKERS), console)
    console.print(f"[bold]Coded[/]: fractional repetition, exact whichever {STRAGGLERS} of {WORKERS} straggles")
    coded = train("coded", schemes.coded(codes.fractional_repetition(WORKERS, STRAGGLERS)), console)
    compare(uncoded, coded, console)

    speed_up = uncoded.summary.mean_time / coded.summary.mean_time
    difference = float((coded.parameters - uncoded.parameters).norm() / uncoded.parameters.norm())
    console.print(f"Coded is [bold]{speed_up:.1f} times[/] as fast per iteration.")
    console.print(f"Parameters after training differ by {difference:.1e} relatively: the same numbers, up to rounding.")
    console.print(f"Picture: {draw(uncoded, coded)}; traces, for ui.perfetto.dev: {OUTPUT}/*.trace.json")

    promises = {
        "coded is at least twice as fast per iteration": speed_up >= 2,
        "both reach the same accuracy": abs(coded.accuracies[-1] - uncoded.accuracies[-1]) < 0.005,
        "both end with the same parameters, up to rounding": difference < 1e-3,
        f"both reach {GOAL:.0%}": min(max(coded.accuracies), max(uncoded.accuracies)) >= GOAL,
        "uncoded is within 15 % of its prediction": abs(uncoded.deviation) <= 0.15,
        "coded is within 15 % of its prediction": abs(coded.deviation) <= 0.15,
        "fewer than 5 % overruns": max(uncoded.summary.overruns, coded.summary.overruns) < 0.05,
    }
    broken = [promise for promise, kept in promises.items() if not kept]
    for promise in broken:
        print(f"does not hold: {promise}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
