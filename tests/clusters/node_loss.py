"""Trains on several Ray nodes of one machine, takes one away in the middle of an iteration, and gives it back.

Run by test_ray_nodes.py in a process of its own, for a process knows one Ray. Prints what it saw as JSON.
"""

from __future__ import annotations

import json
import threading
import time
import warnings
from typing import Any

import torch
from ray.cluster_utils import Cluster
from torch import nn

import gradcode
from clusters.zoo import images
from gradcode import codes, schemes
from gradcode.delays import DelayTable

WORKERS, BATCH, SEED, LEARNING_RATE = 8, 48, 11, 0.1
PARTITION = 0.1  # seconds, injected: a worker has three of them


def network() -> nn.Module:
    """Its gradient is too long to travel inside of an answer: it goes from object store to object store."""
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 1024), nn.ReLU(), nn.Linear(1024, 5))


def parameters(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def scheme() -> Any:
    return schemes.coded(codes.fractional_repetition(WORKERS, 2))


class Training:
    """One iteration after the other, and what was seen of each."""

    def __init__(self, cluster: Any, scheme: Any) -> None:
        self.model, self.cluster = network(), cluster
        self.seen: list[dict[str, Any]] = []
        self.session = gradcode.Session(
            self.model, nn.CrossEntropyLoss(), images(), BATCH, scheme, cluster, SEED, listeners=[self.listen]
        )
        self.steps = (step for _ in iter(int, 1) for step in self.session.epoch())

    def listen(self, report: gradcode.Report) -> None:
        answered = [worker for worker, arrival in enumerate(report.arrivals) if arrival == arrival]
        worked = sorted({work.worker for work in report.work})
        self.seen.append({"lost": report.lost, "answered": answered, "worked": worked, "exact": report.exact})

    def step(self) -> None:
        next(self.steps).backward()
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.sub_(parameter.grad, alpha=LEARNING_RATE)


def undisturbed(iterations: int) -> torch.Tensor:
    training = Training(gradcode.SimulatedCluster(WORKERS), scheme())
    with training.session:
        for _ in range(iterations):
            training.step()
        return parameters(training.model)


def main() -> None:
    warnings.simplefilter("ignore")
    head = {"num_cpus": 0, "object_store_memory": 1 << 27, "include_dashboard": False}
    machines = Cluster(initialize_head=True, head_node_args=head)
    nodes = [machines.add_node(num_cpus=2, object_store_memory=1 << 27) for _ in range(4)]
    delays = DelayTable.from_array([[PARTITION] * WORKERS])
    try:
        cluster = gradcode.RayCluster(WORKERS, address=machines.address, delays=delays)
        training = Training(cluster, scheme())
        with training.session:
            for _ in range(3):
                training.step()
            buried: list[int] = []  # every death that the master saw
            bury = cluster._bury

            def noting(hand: Any) -> None:
                buried.append(hand.worker)
                bury(hand)

            cluster._bury = noting
            victims = [worker for worker in range(WORKERS) if cluster.nodes[worker] == nodes[1].node_id]
            removing = threading.Timer(1.5 * PARTITION, lambda: machines.remove_node(nodes[1], allow_graceful=False))
            removing.start()
            training.step()
            removing.join()
            for _ in range(8):
                training.step()
            without = len(training.seen)
            away, dead = sorted(cluster.away()), list(buried)
            machines.add_node(num_cpus=2, object_store_memory=1 << 27)
            added, back = time.monotonic(), -1
            while back < 0 and time.monotonic() < added + 90:
                there = not cluster.away()
                training.step()
                back = len(training.seen) - 1 if there else -1
            training.step()  # what stragglers did in the iteration before is heard of in this one
            found = parameters(training.model)
        wanted = undisturbed(len(training.seen))
    finally:
        machines.shutdown()
    print(
        json.dumps(
            {
                "victims": victims,
                "away": away,
                "buried": dead,
                "without": without,
                "back": back,
                "error": float((found - wanted).norm() / wanted.norm()),
                "seen": training.seen,
            }
        )
    )


if __name__ == "__main__":
    main()
