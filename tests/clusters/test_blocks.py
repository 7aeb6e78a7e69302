"""Blocks of networks on every cluster: exact gradients, shorter backward passes, a worker killed between two blocks."""

from __future__ import annotations

import os
import signal
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import gradcode
from clusters.zoo import CLUSTERS, cnn, decoded, images, plain_gradients, relative_error
from gradcode import codes, delays, schemes
from gradcode.delays import DelayTable
from gradcode.training.sampling import Sampling

WORKERS, BATCH, SEED = 8, 48, 3


class Transformer(nn.Module):
    """A small language model; tied: its last layer has the embedding's weights."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 24, dropout=0.1, batch_first=True)
        self.head = nn.Linear(16, 11, bias=False)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(self.embedding(words))).mean(1)


def transformer(tied: bool) -> nn.Module:
    torch.manual_seed(5)
    return Transformer(tied)


def words() -> TensorDataset:
    generator = torch.Generator().manual_seed(6)
    return TensorDataset(
        torch.randint(0, 11, (160, 6), generator=generator), torch.randint(0, 11, (160,), generator=generator)
    )


MODELS: dict[str, Any] = {
    "cnn": (cnn, images),
    "transformer": (lambda: transformer(False), words),
    "tied transformer": (lambda: transformer(True), words),
}


def sizes_of(model: nn.Module) -> list[int]:
    """Four levels, with cuts in the middle of parameters too."""
    length = sum(parameter.numel() for parameter in model.parameters())
    cuts = [length // 4, length // 2, length - length // 7]
    return [cuts[0], cuts[1] - cuts[0], 0, cuts[2] - cuts[1], 0, 0, 0, length - cuts[2]]


@pytest.mark.parametrize("name", MODELS)
def test_every_partitions_gradient_is_exact_whoever_straggles(kind: str, name: str) -> None:
    build, data = MODELS[name]
    model, dataset, reference = build(), data(), build()
    code = codes.block(sizes_of(model), WORKERS)
    rng = np.random.default_rng(2)
    table = DelayTable.from_array(rng.exponential(0.01, (6, WORKERS)) * rng.choice([1, 8], (6, WORKERS)))
    reports: list[gradcode.Report] = []
    with gradcode.Session(
        model,
        nn.CrossEntropyLoss(),
        dataset,
        BATCH,
        schemes.block_coordinate(code),
        CLUSTERS[kind](WORKERS, delays=table),
        SEED,
        listeners=[reports.append],
    ) as session:
        sampling = Sampling(len(dataset), WORKERS, BATCH, SEED)
        steps = (step for _ in iter(int, 1) for step in session.epoch())
        for number in range(6):
            next(steps).backward()
            wanted = plain_gradients(reference, dataset, sampling, number)
            assert relative_error(decoded(model), wanted) <= 1e-5
            assert reports[-1].exact


@pytest.mark.parametrize("where", ["local", "ray"])
def test_a_worker_killed_between_two_blocks_costs_nothing_but_time(where: str, request: pytest.FixtureRequest) -> None:
    """Worker 2 is slow, and killed when it has sent its first block: nothing is lost but time."""
    model, dataset, reference = cnn(), images(), cnn()
    code = codes.block(sizes_of(model), WORKERS)
    seconds = np.full((4, WORKERS), 0.02)
    seconds[:, 2] = 0.1
    if where == "ray":
        request.getfixturevalue("kept_actors")
    cluster = CLUSTERS[where](WORKERS, delays=DelayTable.from_array(seconds))
    scheme = schemes.block_coordinate(code)
    receive, killed = scheme.receive, []

    def and_kill(reply: Any) -> Any:
        actions = receive(reply)
        if reply.order.worker == 2 and reply.order.slot % len(code.levels) == 0 and not killed:
            killed.append(cluster.pids[2])
            os.kill(cluster.pids[2], signal.SIGKILL)
        return actions

    scheme.receive = and_kill  # type: ignore[method-assign]
    with gradcode.Session(model, nn.CrossEntropyLoss(), dataset, BATCH, scheme, cluster, SEED) as session:
        sampling = Sampling(len(dataset), WORKERS, BATCH, SEED)
        for step in session.epoch():
            step.backward()
            wanted = plain_gradients(reference, dataset, sampling, step.number)
            assert relative_error(decoded(model), wanted) <= 1e-5
    assert len(killed) == 1


def test_a_profiled_network_takes_the_time_of_its_backward_passes() -> None:
    """The simulated time is the scheme's duration with the objective's costs."""
    model, dataset = cnn(), images()
    sampling = Sampling(len(dataset), WORKERS, BATCH, SEED)
    objective = gradcode.training.ModelObjective(model, nn.CrossEntropyLoss(), dataset, sampling)
    objective.costs = np.linspace(1.0, 0.4, len(objective.trainable))
    scheme = schemes.block_coordinate(codes.block(sizes_of(model), WORKERS), objective)
    reports: list[gradcode.Report] = []
    cluster = gradcode.SimulatedCluster(WORKERS, delays.ShiftedExponential(0.1, 2.0))
    with gradcode.Session.of(objective, scheme, cluster, SEED, listeners=[reports.append]) as session:
        for step in session.epoch():
            step.backward()
    for report in reports:
        assert report.time == pytest.approx(report.order_statistic, rel=1e-12)
        assert report.computations != int(report.computations)
