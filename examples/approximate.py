"""A deadline: what has not arrived by then is left out, and the error of every gradient is known.

Twenty-four simulated workers hold two partitions each. Without a deadline an iteration lasts until the gradient can be
decoded exactly; with one, the master takes the least-squares gradient of what there is by then. The same code runs on
a LocalCluster.
"""

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import gradcode
from gradcode import catalog, codes, delays, schemes
from gradcode.reporting import Summary

WORKERS = 24


def train(deadline: float | None) -> tuple[Summary, float, float]:
    """(what the iterations were, mean error bound of the gradients, final accuracy)."""
    torch.manual_seed(0)
    data = catalog.DATASETS["synthetic"](samples=3000, features=20, classes=5, noise=2.0)
    model = catalog.linear((20,), outputs=5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    scheme = schemes.coded(codes.fractional_repetition(WORKERS, stragglers=1), deadline=deadline)
    cluster = gradcode.SimulatedCluster(WORKERS, delays.Pareto(shape=1.5, scale=0.1))  # heavy-tailed
    summary, errors = Summary(), []
    with gradcode.Session(model, nn.CrossEntropyLoss(), data.train, 240, scheme, cluster, seed=0) as session:
        session.listeners += [summary, lambda report: errors.append(report.decode_error)]
        for _ in range(4):
            for step in session.epoch():
                step.backward()
                optimizer.step()
                optimizer.zero_grad()
    evaluate = catalog.Evaluation(data.test, nn.CrossEntropyLoss())
    return summary, sum(errors) / len(errors), evaluate(model.eval())["accuracy"]


def main() -> None:
    table = Table("deadline", "time per iteration", "mean error bound", "accuracy")
    for deadline in (None, 0.5, 0.4, 0.35, 0.3):
        summary, error, accuracy = train(deadline)
        name = "none" if deadline is None else f"{deadline} s"
        table.add_row(name, f"{summary.mean_time:.3f} s", f"{error:.1e}", f"{accuracy:.1%}")
    Console().print(table)


if __name__ == "__main__":
    main()
