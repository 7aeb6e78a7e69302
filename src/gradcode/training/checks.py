"""What cannot be trained by adding up partition gradients, said before training begins."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

from gradcode.training.seeding import preserved

if TYPE_CHECKING:
    from gradcode.training.objective import ModelObjective

SPARSE = (
    "a parameter has a sparse gradient (an Embedding with sparse=True); rows of weighted sums are dense: "
    "build the layer with sparse=False"
)


def trainable_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that make up the flat vector, each once.

    Raises:
        ValueError: there are none, they differ in dtype or device, are not real, or would get sparse gradients.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise ValueError("the model has no parameter with requires_grad=True: there is nothing to train")
    lazy = [name for name, p in model.named_parameters() if isinstance(p, nn.parameter.UninitializedParameter)]
    if lazy:
        raise ValueError(f"parameters {lazy} have no shape yet: run the model once before training it")
    dtypes = {parameter.dtype for parameter in parameters}
    if len(dtypes) > 1:
        raise ValueError(
            f"the trainable parameters have dtypes {sorted(map(str, dtypes))}; they share one flat vector and need "
            f"one dtype: convert the model, for instance with model.float()"
        )
    if not parameters[0].is_floating_point():
        raise ValueError(f"parameters of dtype {parameters[0].dtype} cannot be trained: use a real floating dtype")
    elsewhere = sorted({str(parameter.device) for parameter in parameters if parameter.device.type != "cpu"})
    if elsewhere:
        raise ValueError(
            f"the model is on {elsewhere}; the master's copy lives on the CPU: give the session model.cpu() and "
            f'devices=("cuda:0", ...) for the workers'
        )
    _check_storage(model, parameters)
    for module in model.modules():
        embedding = isinstance(module, nn.Embedding | nn.EmbeddingBag)
        if embedding and module.sparse and module.weight.requires_grad:
            raise ValueError(SPARSE)
    return parameters


def _check_storage(model: nn.Module, parameters: list[nn.Parameter]) -> None:
    """Refuses tensors that share memory: each parameter moves into the flat vector, and sharing would end silently."""
    named = {id(parameter): name for name, parameter in model.named_parameters()}
    spans = [(*_span(p), named[id(p)]) for p in parameters if p.numel()]
    spans += [(*_span(b), name) for name, b in model.named_buffers() if b.numel() and b.layout == torch.strided]
    spans.sort()
    for (_, stop, first), (start, _, second) in pairwise(spans):
        if start < stop and {first, second} & set(named.values()):
            raise ValueError(
                f"{first} and {second} share memory; tie weights by assigning the Parameter itself to both modules "
                f"(second.weight = first.weight), not its data, and give buffers memory of their own"
            )


def _span(tensor: Tensor) -> tuple[int, int]:
    """First byte and end of a strided tensor in memory."""
    extent = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + extent * tensor.element_size()


def check_dataset(dataset: Dataset[Any]) -> None:
    """Refuses what has no samples by number.

    Raises:
        ValueError: for an iterable dataset, or one without a length.
    """
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__"):
        raise ValueError(
            f"{type(dataset).__name__} is an iterable dataset; gradient coding gives the same sample to several "
            f"workers and needs samples by number: use a map-style dataset (__getitem__ and __len__)"
        )
    if not isinstance(dataset, Sized):
        raise ValueError(f"{type(dataset).__name__} has no __len__; a map-style dataset says how many samples it has")


def scalar_mean(loss: Any) -> Tensor:
    """``loss`` if it is a scalar.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(loss, Tensor) or loss.dim() != 0:
        given = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        raise ValueError(
            f"loss_fn returned {given}; it must return the mean loss over the samples as a scalar tensor: "
            f'use reduction="mean"'
        )
    return loss


def check_mean(objective: ModelObjective, samples: int = 4) -> None:
    """Checks on a few samples that the loss is a mean: seeing every sample twice must not change it.

    Raises:
        ValueError: the loss is not a scalar, or not a mean (a sum doubles).
    """
    model, sampling = objective.model, objective.sampling
    indices = sampling.indices(0, 0)[:samples]
    with modes_kept(model), preserved(), torch.no_grad():
        model.eval()
        objective._device, objective._staged = torch.device("cpu"), False
        once, twice = (
            float(scalar_mean(objective.loss_fn(*objective.forward(model, objective._batch(0, 0, chosen)))))
            for chosen in (indices, np.concatenate((indices, indices)))
        )
    tolerance = 0.05 if objective.dtype.itemsize < 4 else 1e-3
    if np.isfinite([once, twice]).all() and abs(twice - once) > tolerance * max(abs(once), abs(twice), 1e-12):
        raise ValueError(
            f"loss_fn is not a mean over samples: {len(indices)} samples give {once:.6g}, the same samples twice give "
            f'{twice:.6g}. Gradients of partitions add up only for a mean: use reduction="mean", or pass '
            f"check_loss=False if you know that it is one"
        )


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Leaves every module in training or evaluation mode, as it was."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
