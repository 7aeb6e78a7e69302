"""Workers that send something else than the gradient, on every cluster."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gradcode.protocol import Action, Floats, Reply
from gradcode.training import LeastSquares
from gradcode.training.objective import LossFunction, ModelObjective
from gradcode.training.sampling import Sampling

LENGTH = 9


def lied(lie: str, vector: Tensor) -> Tensor:
    """What is sent in place of ``vector``."""
    match lie:
        case "negated":
            return -vector
        case "scaled":
            return 100 * vector
        case "constant":
            return torch.full_like(vector, -100.0)
        case "not a number":
            return torch.full_like(vector, torch.nan)
        case _:
            return vector


class Corrupt(LeastSquares):
    """Least squares whose workers lie: ``lies`` by worker; "loss": of the loss alone."""

    def __init__(self, partitions: int, lies: Mapping[int, str], dtype: torch.dtype = torch.float64) -> None:
        rng = np.random.default_rng(7)
        super().__init__(rng.normal(size=(30, LENGTH)), rng.normal(size=30), partitions, dtype=dtype)
        self._lies, self._lie = dict(lies), ""

    def bind(self, parameters: Tensor, buffers: Tensor, worker: int) -> None:
        super().bind(parameters, buffers, worker)
        self._lie = self._lies.get(worker, "")

    def accumulate(self, number: int, partition: int, *rest: Any, **named: Any) -> Floats:
        statistics = super().accumulate(number, partition, *rest, **named)
        return statistics + 1000.0 if self._lie == "loss" else statistics

    def finish(self, out: Tensor) -> None:
        super().finish(out)
        out[: self.length] = lied(self._lie, out[: self.length])


class LiesOfBuffers(ModelObjective):
    """A model of whose buffers the workers ``liars`` say something else, and of nothing else."""

    def __init__(
        self, model: nn.Module, loss_fn: LossFunction, dataset: Any, sampling: Sampling, liars: Collection[int]
    ) -> None:
        super().__init__(model, loss_fn, dataset, sampling)
        self._liars, self._lies = set(liars), False

    def bind(self, parameters: Tensor, buffers: Tensor, worker: int) -> None:
        super().bind(parameters, buffers, worker)
        self._lies = worker in self._liars

    def accumulate(self, number: int, partition: int, *rest: Any, **named: Any) -> Floats:
        statistics = super().accumulate(number, partition, *rest, **named)
        statistics[1 : 1 + self.buffers] += 100.0 * self._lies
        return statistics


class Intercepted:
    """A scheme some of whose replies are altered on their way, for simulated workers share one objective."""

    def __init__(self, scheme: Any, lies: Mapping[int, str]) -> None:
        self._scheme, self._lies = scheme, lies
        self._dtype: torch.dtype | None = None
        self.on_first_reply: Callable[[], object] = bool  # of the next iteration

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scheme, name)

    def start(self, iteration: Any) -> Sequence[Action]:
        self._dtype = iteration.dtype
        actions: Sequence[Action] = self._scheme.start(iteration)
        return actions

    def receive(self, reply: Reply) -> Sequence[Action]:
        first, self.on_first_reply = self.on_first_reply, bool
        first()
        lie = self._lies.get(reply.order.worker, "")
        if lie == "loss":
            reply.statistics[:] += 1000.0
        elif lie:
            row = reply.payload.view(self._dtype)  # type: ignore[union-attr]
            row.copy_(lied(lie, row))
        actions: Sequence[Action] = self._scheme.receive(reply)
        return actions
