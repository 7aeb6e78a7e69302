"""Gradients of a block only: the same numbers, from a backward pass that ends early."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from gradcode.protocol import Block
from gradcode.training import LeastSquares, ModelObjective, Sampling, profile


def deep(layers: int = 12, width: int = 96) -> tuple[nn.Module, ModelObjective]:
    torch.manual_seed(0)
    model = nn.Sequential(*(layer for _ in range(layers) for layer in (nn.Linear(width, width), nn.Tanh())))
    data = TensorDataset(torch.randn(256, width), torch.randn(256, width))
    return model, ModelObjective(model, nn.MSELoss(), data, Sampling(256, 2, 256, 0))


def bound(objective: ModelObjective) -> ModelObjective:
    objective.place(parameters := torch.empty(objective.length), torch.zeros(0, dtype=torch.float64))
    objective.bind(parameters, torch.zeros(0, dtype=torch.float64), 0)
    return objective


@pytest.mark.parametrize("start", [0, 1, 5000, 9312, 9313])
@pytest.mark.parametrize("micro_batch", [None, 50])
def test_a_block_of_a_network_has_the_coordinates_of_the_whole(start: int, micro_batch: int | None) -> None:
    _, objective = deep(3)
    objective.micro_batch = micro_batch
    bound(objective)
    whole, part = torch.full((2, objective.length), float("nan"))
    objective.accumulate(0, 1, 0.5, whole, True)
    objective.finish(whole)
    block = Block(start, objective.length - 17)
    objective.accumulate(0, 1, 0.5, part, True, block)
    objective.finish(part)
    torch.testing.assert_close(part[slice(*block)], whole[slice(*block)], rtol=1e-6, atol=1e-9)


def test_blocks_of_several_partitions_add_up() -> None:
    _, objective = deep(2)
    bound(objective)
    block, found, wanted = Block(100, 9400), *torch.zeros(2, objective.length)
    for partition in range(2):
        objective.accumulate(0, partition, 2.0, found, partition == 0, block)
        objective.accumulate(0, partition, 2.0, wanted, partition == 0)
    # Accumulated in turns into two rows, each must be told that its first gradients are there.
    objective.accumulate(0, 0, 2.0, found, True, block)
    objective.accumulate(0, 1, 2.0, found, False, block)
    objective.accumulate(0, 0, 2.0, wanted, True)
    objective.accumulate(0, 1, 2.0, wanted, False)
    torch.testing.assert_close(found[slice(*block)], wanted[slice(*block)])


def test_a_block_of_a_linear_objective_is_its_columns() -> None:
    rng = np.random.default_rng(1)
    objective = LeastSquares(rng.standard_normal((12, 7)), rng.standard_normal(12), 3, regularisation=0.3)
    theta, out = torch.randn(7, dtype=torch.float64), torch.zeros(7, dtype=torch.float64)
    objective.bind(theta, torch.zeros(0), 0)
    for partition in range(3):
        objective.accumulate(0, partition, 1.0, out, partition == 0, Block(2, 6))
    torch.testing.assert_close(out[2:6], objective.gradient(theta)[2:6])
    assert objective.cost(Block(2, 6)) == 4 / 7


@pytest.mark.serial
def test_a_backward_pass_that_ends_early_is_shorter() -> None:
    """12 layers: down to the last one against all the way, medians of turns. A forward pass is in both; were the
    backward pass as long for the last layer, the ratio would be 1. It is a third in theory, a half is asked for less
    of noise."""
    _, objective = deep()
    bound(objective)
    out = torch.empty(objective.length)
    last = Block(objective.starts[-2], objective.length)
    seconds = np.empty((9, 2))
    for turn in seconds:
        for index, block in enumerate((Block(0, objective.length), last)):
            began = time.perf_counter()
            objective.accumulate(0, 0, 1.0, out, True, block)
            turn[index] = time.perf_counter() - began
    whole, part = np.median(seconds, axis=0)
    assert part < 0.75 * whole


@pytest.mark.serial
def test_the_profile_falls_from_one() -> None:
    model, objective = deep()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    assert objective.cost(Block(objective.length - 1, objective.length)) == 1.0
    costs = profile(objective, repeats=5)
    assert costs[0] == 1.0 and np.all(np.diff(costs) <= 0) and 0 < costs[-1] < 0.8
    assert objective.cost(Block(objective.starts[3], objective.starts[5])) == costs[3]
    assert objective.cost(Block(objective.starts[3] + 1, objective.starts[3] + 2)) == costs[3]
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    with pytest.raises(ValueError, match="repeats=0"):
        profile(objective, 0)
