"""A source for workers that share one process: what one of them has computed the others need not."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gradcode.protocol import Block, Floats, Source


class Once:
    """A source that computes each partition's gradient once per iteration, however many workers hold it."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.length, self.itemsize, self.partitions = source.length, source.itemsize, source.partitions
        self.statistics, self.buffers = source.statistics, source.buffers
        self.separable = source.separable
        self._known: dict[int, tuple[Tensor, Floats]] = {}
        self._spare: list[Tensor] = []

    def copy(self) -> Source:
        return Once(self._source.copy())

    def bind(self, parameters: Tensor, buffers: Tensor, worker: int) -> None:
        self._like = parameters
        self._source.bind(parameters, buffers, worker)

    def rebind(self, parameters: Tensor, buffers: Tensor) -> None:
        self._like = parameters
        self._source.rebind(parameters, buffers)

    def refresh(self) -> None:
        """Nothing: all simulated workers share this source, and the run renews it once."""

    def renew(self) -> None:
        """Forgets the gradients of the last iteration."""
        self._spare.extend(gradient for gradient, _ in self._known.values())
        self._known.clear()
        self._source.refresh()

    def prepare(self, number: int) -> None:
        self._source.prepare(number)

    def sizes(self, number: int) -> npt.NDArray[np.int64]:
        return self._source.sizes(number)

    def cost(self, block: Block) -> float:
        return self._source.cost(block)

    def accumulate(
        self,
        number: int,
        partition: int,
        coefficient: float,
        out: Tensor,
        first: bool,
        block: Block | None = None,
    ) -> Floats:
        """Whole gradients, whatever the block: somebody else may want the rest."""
        if partition not in self._known:
            gradient = self._spare.pop() if self._spare else torch.empty_like(self._like)
            statistics = self._source.accumulate(number, partition, 1.0, gradient, True)
            self._source.finish(gradient)
            self._known[partition] = gradient, statistics
        gradient, statistics = self._known[partition]
        target = out[: self.length]
        if first:
            torch.mul(gradient, coefficient, out=target)
        else:
            target.add_(gradient, alpha=coefficient)
        return statistics

    def finish(self, out: Tensor) -> None:
        """Every coordinate was written."""
