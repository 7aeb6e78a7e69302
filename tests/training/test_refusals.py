"""What cannot be trained by adding up partition gradients, and what the checks leave as it was."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import IterableDataset, TensorDataset

from gradcode.training import ModelObjective
from gradcode.training.checks import check_mean

Build = Callable[..., ModelObjective]
Pairs = Callable[..., TensorDataset]


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        yield from range(10)

    def __len__(self) -> int:
        return 10


class Endless:
    def __getitem__(self, index: int) -> int:
        return index


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (Stream(), "Stream is an iterable dataset; gradient coding gives the same sample to several workers"),
        (Endless(), "Endless has no __len__"),
    ],
)
def test_datasets_without_numbered_samples(dataset: Any, message: str) -> None:
    from gradcode.training.checks import check_dataset

    with pytest.raises(ValueError, match=re.escape(message)):
        check_dataset(dataset)


def frozen() -> nn.Module:
    return nn.Linear(2, 1).requires_grad_(False)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (frozen, "no parameter with requires_grad=True"),
        (lambda: nn.Sequential(nn.Linear(2, 2).double(), nn.Linear(2, 1)), "dtypes ['torch.float32', 'torch.float64']"),
        (lambda: nn.Linear(2, 1, device="meta"), "the model is on ['meta']; the master's copy lives on the CPU"),
        (lambda: nn.LazyLinear(1), "parameters ['weight', 'bias'] have no shape yet"),
        (lambda: nn.Linear(2, 1, dtype=torch.complex64), "parameters of dtype torch.complex64 cannot be trained"),
        (lambda: nn.Embedding(3, 2, sparse=True), "build the layer with sparse=False"),
        (lambda: nn.EmbeddingBag(3, 2, sparse=True), "build the layer with sparse=False"),
    ],
)
def test_models(build: Build, pairs: Pairs, model: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        build(model(), mse_loss, pairs(9, 2))


def test_a_frozen_sparse_embedding_has_no_gradient_and_is_taken(build: Build, worker: Any) -> None:
    model = nn.Sequential(nn.Embedding(5, 2, sparse=True).requires_grad_(False), nn.Linear(2, 5))
    tokens = torch.arange(10) % 5
    row, _ = worker(build(model, cross_entropy, TensorDataset(tokens, tokens))).row(0, {0: 1.0})
    assert row.shape == (15,) and row.isfinite().all()


class Sparse(nn.Module):
    """A sparse gradient that no layer's attribute gives away."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.ones(5, 5))

    def forward(self, tokens: Tensor) -> Tensor:
        return nn.functional.embedding(tokens, self.table, sparse=True)


def test_a_sparse_gradient_is_found_where_it_appears(build: Build, worker: Any) -> None:
    tokens = torch.arange(10) % 5
    holder = worker(build(Sparse(), cross_entropy, TensorDataset(tokens, tokens)))
    with pytest.raises(ValueError, match="build the layer with sparse=False"):
        holder.row(0, {0: 1.0})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"micro_batch": 0}, "micro_batch=0 must be at least 1, or None"),
        ({"devices": ()}, "devices=() must name at least one device"),
    ],
)
def test_options(build: Build, pairs: Pairs, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        build(nn.Linear(2, 1), mse_loss, pairs(9, 2, dtype=torch.float32), **options)


LOSSES: list[tuple[Any, str]] = [
    (nn.MSELoss(reduction="none"), "loss_fn returned a tensor of shape (3, 1)"),
    (lambda outputs, targets: 3.0, "loss_fn returned a float"),
    (lambda outputs, targets: None, "loss_fn returned a NoneType"),
]


@pytest.mark.parametrize(("loss_fn", "message"), LOSSES)
def test_losses_that_are_no_scalar(build: Build, pairs: Pairs, worker: Any, loss_fn: Any, message: str) -> None:
    objective = build(nn.Linear(2, 1).double(), loss_fn, pairs(9, 2))
    with pytest.raises(ValueError, match=re.escape(message)):
        check_mean(objective)
    with pytest.raises(ValueError, match=re.escape(message)):  # check_loss=False: said by the worker
        worker(objective).row(0, {0: 1.0})


def test_a_sum_is_no_mean(build: Build, pairs: Pairs) -> None:
    objective = build(nn.Linear(2, 1).double(), nn.MSELoss(reduction="sum"), pairs(9, 2))
    with pytest.raises(ValueError, match=r"loss_fn is not a mean over samples: 3 samples give .* twice give"):
        check_mean(objective)
    check_mean(build(nn.Linear(2, 1).double(), nn.MSELoss(), pairs(9, 2)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_mean_passes_in_every_dtype(build: Build, pairs: Pairs, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    check_mean(build(nn.Linear(2, 1).to(dtype), mse_loss, pairs(9, 2, dtype=dtype)))


class Numbers:
    """Batches are no pairs: plain numbers, or dictionaries of two keys, or two rows."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Any:
        return {"dict": {"inputs": 1.0, "targets": 1.0}, "rows": 1.0, "triple": (1.0, 2.0, 3.0)}[self.kind]


@pytest.mark.parametrize(("kind", "given"), [("dict", "dict"), ("rows", "Tensor"), ("triple", "list")])
def test_batches_that_are_no_pairs_ask_for_forward(build: Build, worker: Any, kind: str, given: str) -> None:
    objective = build(nn.Linear(1, 1), mse_loss, Numbers(kind), batch_size=6)
    with pytest.raises(ValueError, match=rf"a batch is a {given}, not a pair .* pass forward=f"):
        worker(objective).row(0, {0: 1.0})


def test_checks_leave_modes_generators_and_values(build: Build, pairs: Pairs) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(), nn.Linear(2, 1)).double()
    model[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(4)
    random.seed(4)
    np.random.seed(4)  # noqa: NPY002
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    check_mean(build(model, mse_loss, pairs(9, 2), collate_fn=torch.utils.data.default_collate))
    assert [module.training for module in model] == [True, False, True, True] and model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.random.get_state()[1].tolist() == states[2]  # noqa: NPY002
