"""A worker in the test's own process: what an objective accumulates into one row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from gradcode.training import ModelObjective, Sampling


class Worker:
    """A holder of all partitions, bound to parameters and buffers of its own."""

    def __init__(self, objective: ModelObjective, index: int = 0) -> None:
        self.objective = objective.copy()
        self.parameters = torch.empty(objective.length, dtype=objective.dtype)
        self.buffers = torch.empty(objective.buffers, dtype=torch.float64)
        for view, parameter in zip(objective.split(self.parameters), objective.trainable, strict=True):
            view.copy_(parameter.data)
        objective.store_buffers(self.buffers)
        self.objective.bind(self.parameters, self.buffers, index)
        self.objective.refresh()

    def row(self, number: int, combination: Mapping[int, float]) -> tuple[Tensor, np.ndarray]:
        """The row (length,) and the statistics (partitions of the combination, S)."""
        out = torch.full((self.objective.length,), torch.nan, dtype=self.objective.dtype)
        statistics = [
            self.objective.accumulate(number, j, coefficient, out, index == 0)
            for index, (j, coefficient) in enumerate(combination.items())
        ]
        self.objective.finish(out)
        return out, np.array(statistics)


@pytest.fixture
def worker() -> type[Worker]:
    return Worker


@pytest.fixture
def build() -> Callable[..., ModelObjective]:
    """build(model, loss_fn, dataset, partitions=3, batch_size=9, ...) -> ModelObjective."""

    def objective(
        model: nn.Module,
        loss_fn: Callable[..., Tensor],
        dataset: Dataset[Any],
        partitions: int = 3,
        batch_size: int = 9,
        seed: int = 5,
        **options: Any,
    ) -> ModelObjective:
        plan = Sampling(len(dataset), partitions, batch_size, seed)  # type: ignore[arg-type]
        return ModelObjective(model, loss_fn, dataset, plan, **options)

    return objective


@pytest.fixture
def pairs() -> Callable[..., TensorDataset]:
    """pairs(samples, *shape, dtype) -> inputs of that shape and one number as target."""

    def dataset(samples: int, *shape: int, dtype: torch.dtype = torch.float64) -> TensorDataset:
        generator = torch.Generator().manual_seed(3)
        inputs = torch.randn(samples, *shape, generator=generator, dtype=torch.float64)
        targets = torch.randn(samples, 1, generator=generator, dtype=torch.float64)
        return TensorDataset(inputs.to(dtype), targets.to(dtype))

    return dataset
