"""Buffers: each partition starts from the master's, and the master takes the mean weighted by samples."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils.data import TensorDataset

import gradcode
from gradcode import codes, delays, schemes
from gradcode.training import ModelObjective

Build = Callable[..., ModelObjective]
Pairs = Callable[..., TensorDataset]


def normalised() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 1)).double()


def expected_buffers(objective: ModelObjective, model: nn.Module, number: int) -> dict[str, Tensor]:
    """The documented rule, by hand."""
    sizes = objective.sizes(number)
    totals: dict[str, Tensor] = {}
    for j, size in enumerate(sizes):
        partition = copy.deepcopy(model).train()
        inputs, _ = objective.dataset[torch.from_numpy(objective.sampling.indices(number, j))]
        with torch.no_grad():
            partition(inputs)
        for name, buffer in partition.named_buffers():
            totals[name] = totals.get(name, 0.0) + buffer.double() * size / sizes.sum()
    return totals


def test_every_buffer_of_batchnorm_is_followed(build: Build, pairs: Pairs) -> None:
    objective = build(normalised(), mse_loss, pairs(20, 4))
    assert objective.moving == ["1.running_mean", "1.running_var", "1.num_batches_tracked"]
    assert objective.buffers == 7


def test_also_where_the_first_batch_leaves_the_means_alone(build: Build) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1)).double()
    zeros = TensorDataset(torch.zeros(9, 2, dtype=torch.float64), torch.zeros(9, 1, dtype=torch.float64))
    assert len(build(model, mse_loss, zeros).moving) == 3


class Constants(nn.Module):
    """Buffers that no forward pass changes, one that is changed, one that is replaced by another tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.table = nn.Module()
        self.table.register_buffer("constant", torch.arange(3.0))
        self.state = nn.Module()
        self.state.register_buffer("count", torch.zeros((), dtype=torch.int32))
        self.state.register_buffer("last", torch.zeros(2))

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.state.count += len(inputs)
            self.state.last = inputs.detach().mean(0)
        return self.layer(inputs)


def test_constants_are_not_sent_and_the_probe_changes_nothing(build: Build, pairs: Pairs, worker: Any) -> None:
    model = Constants().double().eval()
    objective = build(model, mse_loss, pairs(9, 2))
    assert objective.moving == ["state.count", "state.last"] and objective.buffers == 3
    assert not model.training and int(model.state.count) == 0 and model.state.last.tolist() == [0, 0]
    _, statistics = worker(objective).row(0, {0: 1.0, 2: 1.0})
    inputs = objective.dataset.tensors[0]
    for j, found in zip((0, 2), statistics, strict=True):
        expected = inputs[objective.sampling.indices(0, j)].mean(0).tolist()
        assert found[1:4] == pytest.approx([3.0, *expected])


def test_the_probe_leaves_the_model_when_the_forward_pass_fails(build: Build, pairs: Pairs) -> None:
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(5, 1)).double().eval()
    with pytest.raises(RuntimeError):
        build(model, mse_loss, pairs(9, 4))
    assert not any(module.training for module in model.modules())
    assert model[0].running_mean.tolist() == [0.0] * 4 and int(model[0].num_batches_tracked) == 0


def test_each_partition_starts_from_the_masters_buffers(build: Build, pairs: Pairs, worker: Any) -> None:
    objective = build(normalised(), mse_loss, pairs(20, 4))
    holder = worker(objective)
    together = holder.row(0, {0: 1.0, 1: 1.0, 2: 1.0})[1]
    alone = np.concatenate([holder.row(0, {j: 1.0})[1] for j in (2, 1, 0)])[::-1]
    assert np.array_equal(together, alone)
    mean = together.T @ objective.sizes(0) / objective.sizes(0).sum()
    rule = torch.cat([b.flatten() for b in expected_buffers(objective, objective.model, 0).values()])
    np.testing.assert_allclose(mean[1:8], rule.numpy(), rtol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_the_masters_buffers_follow_the_rule_whoever_straggles(pairs: Pairs, seed: int) -> None:
    model, dataset = normalised(), pairs(42, 4)  # the last sizes of an epoch are 2, 3, 3, 2
    scheme = schemes.coded(codes.cyclic_repetition(4, 2, dtype="float64"))
    cluster = gradcode.SimulatedCluster(4, delays=delays.Exponential(1.0), seed=seed)
    with gradcode.Session(model, mse_loss, dataset, 16, scheme, cluster) as session:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for step in session.epoch():
            rule = expected_buffers(session.objective, model, step.number)  # type: ignore[arg-type]
            step.backward()
            for name, buffer in model.named_buffers():
                torch.testing.assert_close(buffer.double(), rule[name], rtol=1e-12, atol=1e-14)
            optimizer.step()
    assert model[1].num_batches_tracked.dtype == torch.int64
    assert int(model[1].num_batches_tracked) == session.iterations_per_epoch == 3
