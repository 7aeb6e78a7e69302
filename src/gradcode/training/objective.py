"""The gradient of a torch model over one partition: what a worker computes.

A worker encodes while it computes. It runs forward and backward on one partition after the other with the loss
multiplied by the coefficient, and autograd accumulates straight into the outgoing row: encoding costs nothing and
needs no second copy of the gradient.
"""

from __future__ import annotations

import copy
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset, default_collate

from gradcode.protocol import Block, Floats
from gradcode.training.checks import SPARSE, check_dataset, modes_kept, scalar_mean, trainable_parameters
from gradcode.training.sampling import Sampling
from gradcode.training.seeding import derive, preserved, seed_everything

Forward = Callable[[nn.Module, Any], tuple[Any, Any]]
LossFunction = Callable[[Any, Any], Tensor]
Collate = Callable[[list[Any]], Any]

_SAMPLE, _COLLATE, _FORWARD = 1, 2, 3  # what a derived seed is for


def inputs_and_targets(model: nn.Module, batch: Any) -> tuple[Any, Any]:
    """The usual forward pass: a batch is (inputs, targets), and the loss is of (outputs, targets)."""
    # A dictionary of two keys and a tensor of two rows can be unpacked too, and mean something else.
    if not isinstance(batch, list | tuple) or len(batch) != 2:
        raise ValueError(
            f"a batch is a {type(batch).__name__}, not a pair (inputs, targets); pass forward=f with "
            f"f(model, batch) -> (outputs, targets) to say how the model takes it"
        )
    inputs, targets = batch
    return model(inputs), targets


class ModelObjective:
    """Gradients of ``loss_fn(*forward(model, batch))`` over the partitions of a map-style dataset.

    Randomness: torch, NumPy and ``random`` are seeded by (seed, iteration, partition, micro-batch) before each forward
    pass, so that every holder of a partition draws the same dropout mask, and by (seed, epoch, sample index) around
    ``dataset[i]``, so that every holder sees the same random transform.

    Buffers (BatchNorm's running statistics): each partition starts from the master's values, and the master takes the
    mean, weighted by samples, of what the partitions make of them. That is a pure function of the iteration, whoever
    straggled. The buffers that count are those of the layers that change one in a forward pass in training mode.

    Blocks: backward passes begin at the output, so that a block near the end of the flat vector, which has the
    parameters in the order of ``model.parameters()``, costs less than one at its beginning, down to which a backward
    pass must go. ``costs`` (P,) says what the gradients of all parameters from the i-th to the last take, as a share of
    all: 1 until :func:`gradcode.training.profile` has measured it.

    Statistics of a partition, (S,) float64: the loss, the buffers after the forward pass, and per parameter 1 if it
    took part in the backward pass, else 0.

    Args:
        model: any module; parameters with ``requires_grad=False`` stay out of the flat vector.
        loss_fn: (outputs, targets) -> mean loss over the samples, a scalar.
        dataset: map-style.
        sampling: which samples are where.
        forward: (model, batch) -> (outputs, targets); default: the batch is (inputs, targets).
        collate_fn: list of samples -> batch; default: torch's.
        micro_batch: most samples in one forward pass; the gradients of a partition's micro-batches add up to its own.
        seed_samples: seed around ``dataset[i]``; False saves time where nothing in the dataset is random. Tensors
            (``TensorDataset``) are read in one go and need none.
        devices: the device of worker i is ``devices[i % len(devices)]``. Anything but ``"cpu"`` has copies of
            parameters and gradient there.

    Raises:
        ValueError: what cannot be trained so, with the reason: iterable datasets, sparse gradients, parameters of
            several dtypes, nothing to train.
    """

    separable = False

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFunction,
        dataset: Dataset[Any],
        sampling: Sampling,
        forward: Forward = inputs_and_targets,
        collate_fn: Collate | None = None,
        micro_batch: int | None = None,
        seed_samples: bool = True,
        devices: Sequence[str] = ("cpu",),
    ) -> None:
        check_dataset(dataset)
        if micro_batch is not None and micro_batch < 1:
            raise ValueError(f"micro_batch={micro_batch} must be at least 1, or None for whole partitions")
        if not devices:
            raise ValueError('devices=() must name at least one device, such as ("cpu",)')
        self.model, self.loss_fn, self.dataset, self.sampling = model, loss_fn, dataset, sampling
        self.forward, self.collate_fn, self.micro_batch = forward, collate_fn, micro_batch
        self.seed_samples, self.devices = seed_samples, tuple(devices)
        self.trainable = trainable_parameters(model)
        self.shapes = [parameter.shape for parameter in self.trainable]
        self.length = sum(parameter.numel() for parameter in self.trainable)
        self.dtype = self.trainable[0].dtype
        self.itemsize = self.dtype.itemsize
        self.partitions = sampling.partitions
        self._starts = [0, *accumulate(shape.numel() for shape in self.shapes)]
        self.costs: Floats = np.ones(len(self.trainable))
        self.moving = self._moving_buffers()
        self.buffers = sum(buffer.numel() for buffer in self._buffers())
        self.statistics = 1 + self.buffers + len(self.trainable)

    def sizes(self, number: int) -> npt.NDArray[np.int64]:
        return self.sampling.sizes(number)

    # The master's side

    @property
    def iterations(self) -> int:
        """Iterations per epoch."""
        return self.sampling.iterations

    def epoch(self, number: int) -> tuple[int, int]:
        """(epoch, iteration within it) of iteration ``number``."""
        return self.sampling.epoch(number)

    def fingerprint(self) -> dict[str, object]:
        """What a checkpoint must agree with for the same numbers to come."""
        plan = self.sampling
        return {
            "shapes": [list(shape) for shape in self.shapes],
            "dtype": str(self.dtype),
            "samples": plan.samples,
            "partitions": plan.partitions,
            "batch_size": plan.batch_size,
            "sampling": plan.mode,
            "drop_last": plan.drop_last,
            "micro_batch": self.micro_batch,
        }

    def place(self, parameters: Tensor, buffers: Tensor) -> None:
        """Moves the model's parameters into ``parameters`` (length,), of which they become views."""
        for parameter, view in zip(self.trainable, self.split(parameters), strict=True):
            view.copy_(parameter.data)
            parameter.data = view
        self.store_buffers(buffers)

    def split(self, flat: Tensor) -> list[Tensor]:
        """Views of a flat vector (length,) in the parameters' shapes."""
        pieces = torch.split(flat[: self.length], [shape.numel() for shape in self.shapes])
        return [piece.view(shape) for piece, shape in zip(pieces, self.shapes, strict=True)]

    def store_buffers(self, buffers: Tensor) -> None:
        """Writes the model's buffers into ``buffers`` (float64)."""
        position = 0
        for buffer in self._buffers():
            buffers[position : position + buffer.numel()] = buffer.detach().flatten().to(buffers)
            position += buffer.numel()

    def load_buffers(self, buffers: Tensor) -> None:
        """Reads the model's buffers from ``buffers`` (float64); integers are rounded."""
        position = 0
        for buffer in self._buffers():
            piece = buffers[position : position + buffer.numel()]
            piece = piece if buffer.is_floating_point() else piece.round()
            buffer.detach().copy_(piece.view(buffer.shape))
            position += buffer.numel()

    def used(self, statistics: Floats) -> npt.NDArray[np.bool_]:
        """Which parameters took part in the backward pass of any partition, from the mean statistics."""
        return statistics[1 + self.buffers :] > 0

    # The worker's side

    def copy(self) -> ModelObjective:
        """One with a model of its own and the same data."""
        other = copy.copy(self)
        other.model = copy.deepcopy(self.model)
        other.trainable = trainable_parameters(other.model)
        return other

    def prepare(self, number: int) -> None:
        """Nothing is gained by computing the partitions of a model together."""

    def bind(self, parameters: Tensor, buffers: Tensor, worker: int) -> None:
        """Reads parameters and buffers from shared memory from now on; see ``Source``.

        On a device that is not the CPU they are copied there at each ``refresh``.
        """
        self._device = torch.device(self.devices[worker % len(self.devices)])
        self._shared, self._shared_buffers = parameters, buffers
        self._staged = self._device != torch.device("cpu")
        if self._staged:
            self.model.to(self._device)
            self._local = parameters.to(self._device)
            self._gradient = torch.empty_like(self._local)
        else:
            self._local = parameters
        self._look()
        self.model.train()
        self._views: list[Tensor] = []
        self._sizes: list[int] = []
        self._total, self._sizes_of = 0, -1
        self._views_of: tuple[int, int] = (0, 0)
        for index, parameter in enumerate(self.trainable):
            parameter.register_post_accumulate_grad_hook(self._landing(index))  # type: ignore[no-untyped-call]

    def rebind(self, parameters: Tensor, buffers: Tensor) -> None:
        """The same from other tensors; see ``Source``."""
        self._shared, self._shared_buffers = parameters, buffers
        if not self._staged:
            self._local = parameters
            self._look()

    @contextmanager
    def visit(self, parameters: Tensor, buffers: Tensor) -> Iterator[None]:
        """Reads from these tensors within the block; see ``Source``."""
        before = self._shared, self._shared_buffers
        self.rebind(parameters, buffers)
        self.refresh()
        try:
            yield
        finally:
            self.rebind(*before)
            self.refresh()

    def _look(self) -> None:
        """Makes the model's parameters views of the vector that is read."""
        for parameter, view in zip(self.trainable, self.split(self._local), strict=True):
            parameter.data = view

    def refresh(self) -> None:
        """Takes the parameters of a new iteration."""
        if self._staged:
            self._local.copy_(self._shared)

    @property
    def starts(self) -> tuple[int, ...]:
        """(P,) the coordinate at which each parameter begins in the flat vector."""
        return tuple(self._starts[:-1])

    def cost(self, block: Block) -> float:
        """That of the forward pass, and of the backward pass down to the block's first parameter; see ``costs``."""
        first = bisect_right(self._starts, block.start) - 1
        return float(self.costs[first])

    def accumulate(
        self,
        number: int,
        partition: int,
        coefficient: float,
        out: Tensor,
        first: bool,
        block: Block | None = None,
    ) -> Floats:
        """Adds ``coefficient``·g_partition to ``out`` (length,), see ``Source``; g_j = (n_j/n)·∇(mean loss on j).

        With a ``block``, the backward pass ends at the first parameter that has coordinates in it.
        """
        if self._sizes_of != number:
            sizes = self.sampling.sizes(number)
            self._sizes, self._total, self._sizes_of = sizes.tolist(), int(sizes.sum()), number
        target = self._gradient if self._staged else out
        if self._views_of != (target.data_ptr(), target.shape[0]):
            self._views, self._views_of = self.split(target), (target.data_ptr(), target.shape[0])
        if first:
            for parameter in self.trainable:
                parameter.grad = None
        statistics = np.zeros(self.statistics)
        own, total = self._sizes[partition], self._total
        if not own:
            return statistics
        indices = self.sampling.indices(number, partition)
        self._restore_buffers()
        self._touched = statistics[1 + self.buffers :]
        step = self.micro_batch or own
        for begin in range(0, own, step):
            chosen = indices[begin : begin + step]
            batch = self._batch(number, partition, chosen, begin)
            seed_everything(derive(self.sampling.seed, _FORWARD, number, partition, begin), self._device)
            loss = scalar_mean(self.loss_fn(*self.forward(self.model, batch)))
            if loss.requires_grad:  # else no parameter took part, as where a partition has nothing for an expert
                self._differentiate(loss * (coefficient * len(chosen) / total), block)
            statistics[0] += loss.item() * len(chosen) / own
        self._save_buffers(statistics[1 : 1 + self.buffers])
        return statistics

    def _differentiate(self, loss: Tensor, block: Block | None) -> None:
        if block is None:
            loss.backward()  # type: ignore[no-untyped-call]
            return
        wanted = [
            i for i, start in enumerate(self._starts[:-1]) if start < block.stop and self._starts[i + 1] > block.start
        ]
        gradients = torch.autograd.grad(loss, [self.trainable[i] for i in wanted], allow_unused=True)
        for i, gradient in zip(wanted, gradients, strict=True):
            if gradient is None:
                continue
            parameter, view = self.trainable[i], self._views[i]
            self._touched[i] = 1.0
            if parameter.grad is None:
                view.copy_(gradient)
                parameter.grad = view
            else:
                view.add_(gradient)

    def finish(self, out: Tensor) -> None:
        """Parameters that no partition touched get zeros; see ``Source``."""
        for parameter, view in zip(self.trainable, self._views, strict=True):
            if parameter.grad is None:
                view.zero_()
        if self._staged:
            out[: self.length].copy_(self._gradient)

    def _landing(self, index: int) -> Callable[[Tensor], None]:
        """The hook by which a parameter's first gradient lands in the row; later ones are added there by autograd.

        So the row needs no zeroing first, and a parameter that is not used shows by its missing gradient.
        """

        def land(parameter: Tensor) -> None:
            view, gradient = self._views[index], parameter.grad
            assert gradient is not None
            self._touched[index] = 1.0
            if gradient is not view:
                if gradient.is_sparse:
                    raise ValueError(SPARSE)
                view.copy_(gradient)
                parameter.grad = view

        return land

    def _batch(self, number: int, partition: int, indices: npt.NDArray[np.int64], begin: int = 0) -> Any:
        """The samples of a micro-batch, which begins with sample ``begin`` of the partition."""
        if type(self.dataset) is TensorDataset and self.collate_fn is None:
            chosen = torch.from_numpy(indices)
            batch: Any = [tensor[chosen] for tensor in self.dataset.tensors]
        else:
            epoch = self.sampling.epoch(number)[0]
            samples = []
            for index in indices.tolist():
                if self.seed_samples:
                    seed_everything(derive(self.sampling.seed, _SAMPLE, epoch, index))
                samples.append(self.dataset[index])
            seed_everything(derive(self.sampling.seed, _COLLATE, number, partition, begin))
            batch = (self.collate_fn or default_collate)(samples)
        return _to(batch, self._device) if self._staged else batch

    # Buffers

    def _buffers(self) -> list[Tensor]:
        named = dict(self.model.named_buffers())
        return [named[name] for name in self.moving]

    def _moving_buffers(self) -> list[str]:
        """Names of the buffers that a forward pass in training mode changes, found by one such pass.

        A layer that changes one may change the others with other samples, so all of its own count. BatchNorm's
        means stay as they are on a batch of zeros, but its counter does not.
        """
        before = {name: (b, b._version, b.detach().clone()) for name, b in self.model.named_buffers()}
        if not before:
            return []
        layers: set[str] = set()
        with modes_kept(self.model), preserved(), torch.no_grad():
            self.model.train()
            self._device, self._staged = torch.device("cpu"), False
            try:
                self.forward(self.model, self._batch(0, 0, self.sampling.indices(0, 0)))
            finally:
                after = dict(self.model.named_buffers())
                for name, (buffer, version, value) in before.items():
                    if after[name] is not buffer or buffer._version != version or not torch.equal(buffer, value):
                        layers.add(name.rpartition(".")[0])
                        after[name].copy_(value)
        return [name for name in before if name.rpartition(".")[0] in layers]

    def _restore_buffers(self) -> None:
        if self.moving:
            with torch.no_grad():
                self.load_buffers(self._shared_buffers)

    def _save_buffers(self, statistics: Floats) -> None:
        if self.moving:
            self.store_buffers(torch.from_numpy(statistics))


def _to(batch: Any, device: torch.device) -> Any:
    """A collated batch on a device: tensors, and what else has ``to``, in tuples, lists and dictionaries."""
    if hasattr(batch, "to"):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: _to(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(_to(value, device) for value in batch))
    if isinstance(batch, list | tuple):
        return cast(Any, type(batch))(_to(value, device) for value in batch)
    return batch
