"""The gradient of a combination against autograd's own, and what a partition draws at random."""

from __future__ import annotations

import random
from collections import UserDict, namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import Dataset, TensorDataset

from gradcode.training import ModelObjective
from gradcode.training.objective import _to

Build = Callable[..., ModelObjective]
Pairs = Callable[..., TensorDataset]
ALL = {0: 1.0, 1: 1.0, 2: 1.0}


def cnn(dropout: float = 0.5) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Dropout(dropout), nn.Flatten(), nn.Linear(48, 4)]
    return nn.Sequential(*layers).double()


def images(samples: int = 20) -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(samples, 1, 6, 6, generator=generator, dtype=torch.float64)
    return TensorDataset(inputs, torch.randint(4, (samples,), generator=generator))


def plain(objective: ModelObjective, number: int) -> Tensor:
    """Autograd's gradient of the mean loss over the whole batch, (length,), of a model that draws nothing."""
    everything = np.concatenate([objective.sampling.indices(number, j) for j in range(objective.partitions)])
    inputs, targets = objective.dataset[torch.from_numpy(everything)]
    loss = objective.loss_fn(objective.model(inputs), targets)
    found = torch.autograd.grad(loss, objective.trainable, allow_unused=True)
    gradients = [torch.zeros_like(p) if g is None else g for p, g in zip(objective.trainable, found, strict=True)]
    return torch.cat([gradient.flatten() for gradient in gradients])


def assert_equal(actual: Tensor, expected: Tensor, bound: float = 1e-12) -> None:
    assert torch.linalg.vector_norm(actual - expected) <= bound * torch.linalg.vector_norm(expected)


@pytest.mark.parametrize("number", [0, 2, 5])  # of sizes 9, 2, 2: the last iterations of two epochs
def test_partitions_add_up_to_the_gradient_of_the_mean_loss(build: Build, worker: Any, number: int) -> None:
    objective = build(cnn(dropout=0.0), cross_entropy, images())
    row, statistics = worker(objective).row(number, ALL)
    assert_equal(row, plain(objective, number))
    sizes = objective.sizes(number)
    assert (statistics[sizes == 0] == 0).all() and (statistics[sizes > 0, 0] > 0).all()


def test_coefficients_multiply_and_the_row_is_overwritten(build: Build, worker: Any) -> None:
    objective = build(cnn(), cross_entropy, images())
    holder = worker(objective)
    each = [holder.row(1, {j: 1.0})[0] for j in range(3)]
    row, _ = holder.row(1, {2: -0.5, 0: 3.0})
    assert_equal(row, 3.0 * each[0] - 0.5 * each[2])


def test_dropout_is_the_same_for_every_holder_and_differs_otherwise(build: Build, worker: Any) -> None:
    objective = build(cnn(), cross_entropy, images(samples=9))  # one iteration an epoch
    one, other = worker(objective), worker(objective)
    torch.manual_seed(123)
    first, _ = one.row(0, {1: 1.0})
    torch.manual_seed(321)
    other.row(0, {0: 1.0})  # another history
    again, _ = other.row(0, {1: 1.0})
    assert torch.equal(first, again)
    undropped, _ = worker(build(cnn(dropout=0.0), cross_entropy, images(samples=9))).row(0, {1: 1.0})
    assert not torch.allclose(first, undropped)
    reseeded, _ = worker(build(cnn(), cross_entropy, images(samples=9), seed=6)).row(0, {1: 1.0})
    assert not torch.allclose(first, reseeded)


def test_the_master_model_is_not_touched_by_a_copy(build: Build, worker: Any) -> None:
    objective = build(cnn(), cross_entropy, images())
    before = [parameter.clone() for parameter in objective.trainable]
    holder = worker(objective)
    holder.parameters.zero_()
    holder.row(0, ALL)
    assert all(torch.equal(p, b) and p.grad is None for p, b in zip(objective.trainable, before, strict=True))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(6, 4)
        self.head = nn.Linear(4, 6, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embed(tokens))


def test_tied_weights_count_once(build: Build, worker: Any) -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(6, (20,), generator=generator)
    objective = build(Tied().double(), cross_entropy, TensorDataset(tokens, (tokens * 5 + 1) % 6))
    assert objective.length == 24
    row, _ = worker(objective).row(1, ALL)
    assert_equal(row, plain(objective, 1))


class Experts(nn.Module):
    """Samples choose the layer that they use; one layer is never used, one is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.common = nn.Linear(3, 3)
        self.positive, self.negative, self.unused = nn.Linear(3, 1), nn.Linear(3, 1), nn.Linear(3, 1)
        self.frozen = nn.Linear(3, 3)
        self.frozen.requires_grad_(False)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.common(self.frozen(inputs))
        chosen = inputs[:, 0] > 0
        if chosen.all():
            return self.positive(hidden)
        if not chosen.any():
            return self.negative(hidden)
        return torch.where(chosen[:, None], self.positive(hidden), self.negative(hidden))


def test_parameters_used_in_some_partitions_or_never(build: Build, worker: Any) -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(9, 3, generator=generator, dtype=torch.float64)
    objective = build(Experts().double(), mse_loss, TensorDataset(inputs, inputs[:, :1]))
    for j, sign in ((0, 1.0), (1, -1.0), (2, -1.0)):
        inputs[objective.sampling.shard(j), 0] = inputs[objective.sampling.shard(j), 0].abs() * sign
    holder = worker(objective)
    row, statistics = holder.row(0, ALL)
    assert_equal(row, plain(objective, 0))
    # common, positive, negative, unused: a weight and a bias each.
    flags = statistics[:, 1:]
    assert flags[0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    assert flags[1].tolist() == [1, 1, 0, 0, 1, 1, 0, 0]
    assert objective.used(statistics.mean(0)).tolist() == [True] * 6 + [False] * 2
    only, _ = holder.row(0, {1: 1.0})
    position = sum(p.numel() for p in objective.trainable[:2])
    assert (only[position : position + 4] == 0).all()  # positive: computed before, not this time
    assert objective.length == 12 + 3 * 4  # the frozen layer is not in it


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs) if (inputs > 0).any() else inputs


def test_a_partition_on_which_nothing_depends_gives_zeros(build: Build, worker: Any) -> None:
    inputs = torch.ones(9, 1, dtype=torch.float64)
    objective = build(Gated().double(), mse_loss, TensorDataset(inputs, 3 * inputs))
    inputs[objective.sampling.shard(1)] = -1.0
    row, statistics = worker(objective).row(0, {1: 1.0})
    assert (row == 0).all() and statistics[0].tolist() == [16.0, 0.0, 0.0]  # (−1 − 3)², no parameter took part


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 100])
def test_micro_batches_give_the_same_gradient(build: Build, worker: Any, micro_batch: int) -> None:
    objective = build(cnn(dropout=0.0), cross_entropy, images(), batch_size=14, micro_batch=micro_batch)
    row, statistics = worker(objective).row(0, ALL)
    assert_equal(row, plain(objective, 0))
    whole, expected = worker(build(cnn(dropout=0.0), cross_entropy, images(), batch_size=14)).row(0, ALL)
    np.testing.assert_allclose(statistics, expected, rtol=1e-12)
    assert_equal(row, whole)


class Recorded(nn.Module):
    """Notes what dropout did to ones."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.masks = nn.Linear(1, 1), []

    def forward(self, inputs: Tensor) -> Tensor:
        self.masks.append(nn.functional.dropout(torch.ones(32), 0.5).tolist())
        return self.layer(inputs)


@pytest.mark.parametrize("collate", [False, True])
def test_every_micro_batch_draws_its_own_mask(build: Build, worker: Any, pairs: Pairs, collate: bool) -> None:
    options = {"collate_fn": torch.utils.data.default_collate} if collate else {}
    objective = build(Recorded().double(), mse_loss, pairs(12, 1), batch_size=12, micro_batch=1, **options)
    holder = worker(objective)
    holder.row(0, {0: 1.0})
    first, holder.objective.model.masks = holder.objective.model.masks, []
    holder.row(0, {0: 1.0})
    assert first == holder.objective.model.masks and len({tuple(mask) for mask in first}) == 4


class Draws(Dataset[Any]):
    """Every sample draws from all three global generators."""

    def __init__(self, samples: int) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        numbers = [float(index), float(torch.rand(())), float(np.random.rand()), random.random()]  # noqa: NPY002
        return torch.tensor(numbers, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)


def noisy_collate(samples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    noise = torch.rand(()) + np.random.rand() + random.random()  # noqa: NPY002
    return torch.stack([x for x, _ in samples]) + noise, torch.stack([y for _, y in samples])


@pytest.mark.parametrize("collate_fn", [None, noisy_collate])
def test_random_samples_are_the_same_for_every_holder(build: Build, worker: Any, collate_fn: Any) -> None:
    objective = build(nn.Linear(4, 1).double(), mse_loss, Draws(18), collate_fn=collate_fn)
    one, other = worker(objective), worker(objective)
    first, _ = one.row(1, {2: 1.0})
    for draw in (torch.manual_seed, random.seed, np.random.seed):
        draw(99)
    other.row(0, ALL)
    again, _ = other.row(1, {2: 1.0})
    assert torch.equal(first, again)


def test_random_samples_differ_by_epoch_and_index(build: Build, worker: Any) -> None:
    seen: list[list[float]] = []

    def forward(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        seen.extend(batch[0].tolist())
        return model(batch[0]), batch[1]

    objective = build(nn.Linear(4, 1).double(), mse_loss, Draws(9), forward=forward)
    holder = worker(objective)
    for epoch in range(2):
        holder.row(epoch, ALL)
    assert len(seen) == 18 and len({row[0] for row in seen}) == 9
    for column in (1, 2, 3):
        assert len({row[column] for row in seen}) == 18


@pytest.mark.parametrize("generator", ["torch", "numpy", "random"])
def test_layers_may_draw_from_any_global_generator(build: Build, worker: Any, pairs: Pairs, generator: str) -> None:
    draw = {"torch": lambda: float(torch.rand(())), "numpy": np.random.rand, "random": random.random}[generator]

    def forward(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        return model(batch[0] * draw()), batch[1]

    objective = build(nn.Linear(2, 1).double(), mse_loss, pairs(9, 2), forward=forward)
    first, _ = worker(objective).row(0, {1: 1.0})
    again, _ = worker(objective).row(0, {1: 1.0})
    assert torch.equal(first, again)


class Dictionaries(Dataset[Any]):
    """No tensors, and samples that are dictionaries."""

    def __len__(self) -> int:
        return 18

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"inputs": [index / 18, 1.0], "target": index % 3}


def test_dictionary_batches_with_forward(build: Build, worker: Any) -> None:
    def forward(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        return model(torch.stack(batch["inputs"], 1)), batch["target"]

    objective = build(nn.Linear(2, 3).double(), cross_entropy, Dictionaries(), forward=forward)
    row, _ = worker(objective).row(1, ALL)
    chosen = np.concatenate([objective.sampling.indices(1, j) for j in range(3)])
    inputs = torch.tensor([[i / 18, 1.0] for i in chosen], dtype=torch.float64)
    loss = cross_entropy(objective.model(inputs), torch.from_numpy(chosen % 3))
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(loss, objective.trainable)])
    assert_equal(row, expected)


@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 2e-6), (torch.bfloat16, 6 * 2.0**-8)]
)
def test_dtypes(build: Build, worker: Any, pairs: Pairs, dtype: torch.dtype, bound: float) -> None:
    torch.manual_seed(0)
    objective = build(nn.Linear(4, 1, bias=False).to(dtype), mse_loss, pairs(9, 4, dtype=dtype))
    assert objective.dtype == dtype and objective.itemsize == dtype.itemsize
    row, _ = worker(objective).row(0, ALL)
    assert row.dtype == dtype
    inputs, targets = (tensor.double() for tensor in objective.dataset.tensors)
    weight = objective.trainable[0].detach().double().requires_grad_()
    expected = torch.autograd.grad(mse_loss(inputs @ weight.t(), targets), weight)[0].flatten()
    scale = (2 * (inputs @ weight.t() - targets).abs() * inputs.abs()).mean(0).norm().detach()
    assert (row.double() - expected).norm() <= bound * scale


def test_staged_worker_computes_the_same(build: Build, worker: Any) -> None:
    """A device other than "cpu" has copies of its own, also where it is the CPU: "cpu:0"."""
    objective = build(cnn(), cross_entropy, images())
    staged = build(cnn(), cross_entropy, images(), devices=("cpu", "cpu:0"))
    here, there = worker(objective), worker(staged, 1)
    assert torch.equal(here.row(0, ALL)[0], there.row(0, ALL)[0])
    for holder in (here, there):
        holder.parameters.mul_(0.5)
    stale, _ = there.row(0, ALL)
    there.objective.refresh()
    fresh, _ = there.row(0, ALL)
    assert torch.equal(fresh, here.row(0, ALL)[0]) and not torch.equal(stale, fresh)


def test_batches_move_to_a_device_whatever_they_are() -> None:
    point = namedtuple("point", "x y")
    x = torch.zeros(2)
    batch = {"a": x, "b": [x, (x, "text")], "c": point(x, 3), "d": UserDict(e=x)}
    moved = _to(batch, torch.device("meta"))
    assert isinstance(moved["c"], point) and moved["c"].y == 3 and moved["b"][1][1] == "text"
    for tensor in (moved["a"], moved["b"][0], moved["b"][1][0], moved["c"].x, moved["d"]["e"]):
        assert tensor.device.type == "meta"
