"""What the cluster tests share: models and data that workers can import, clusters by name, and the plain gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import gradcode
from gradcode.delays import DelayTable
from gradcode.training.objective import _FORWARD
from gradcode.training.sampling import Sampling
from gradcode.training.seeding import derive


def ray_cluster(*arguments: Any, **options: Any) -> Any:
    """A ``RayCluster``; every worker imports this module, and few need Ray, which takes half a second to load."""
    return gradcode.RayCluster(*arguments, **options)


# A cluster joins the conformance suite by a line here.
CLUSTERS: dict[str, Callable[..., Any]] = {
    "simulated": gradcode.SimulatedCluster,
    "local": gradcode.LocalCluster,
    "ray": ray_cluster,
}


def cnn(dtype: torch.dtype = torch.float32) -> nn.Module:
    """A small convolutional network with dropout; an odd number of parameters, so that packing must pad."""
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(4 * 36, 8), nn.Tanh(), nn.Linear(8, 5)
    )
    assert sum(p.numel() for p in model.parameters()) % 2 == 1
    return model.to(dtype)


def images(samples: int = 160, dtype: torch.dtype = torch.float32) -> TensorDataset:
    generator = torch.Generator().manual_seed(4)
    return TensorDataset(
        torch.randn(samples, 1, 8, 8, generator=generator).to(dtype),
        torch.randint(0, 5, (samples,), generator=generator),
    )


def straggling(patterns: list[tuple[int, ...]], workers: int) -> DelayTable:
    """Iteration i: the workers of ``patterns[i]`` never answer, the others at once."""
    seconds = np.zeros((len(patterns), workers))
    for row, pattern in zip(seconds, patterns, strict=True):
        row[list(pattern)] = np.inf
    return DelayTable.from_array(seconds)


def plain_gradients(model: nn.Module, dataset: TensorDataset, sampling: Sampling, number: int) -> list[Tensor]:
    """g_j of every partition by plain autograd, without gradcode's objective: flat vectors."""
    total = int(sampling.sizes(number).sum())
    parameters = list(model.parameters())
    gradients = []
    for partition in range(sampling.partitions):
        chosen = torch.from_numpy(sampling.indices(number, partition))
        inputs, targets = (tensor[chosen] for tensor in dataset.tensors)
        torch.manual_seed(derive(sampling.seed, _FORWARD, number, partition, 0))
        loss = nn.functional.cross_entropy(model.train()(inputs), targets)
        parts = torch.autograd.grad(loss, parameters)
        gradients.append(torch.cat([part.flatten() for part in parts]) * (len(chosen) / total))
    return gradients


def decoded(model: nn.Module) -> Tensor:
    """The gradient that the session left in ``p.grad``, flat."""
    return torch.cat([p.grad.flatten() for p in model.parameters()]).clone()


def relative_error(found: Tensor, wanted: list[Tensor]) -> float:
    """‖ĝ − Σ_j g_j‖ / Σ_j ‖g_j‖."""
    exact = torch.stack([g.double() for g in wanted])
    return float((found.double() - exact.sum(0)).norm() / exact.norm(dim=1).sum())
