"""A source for workers that share one process: what one of them has computed the others need not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gradcode.protocol import Block, Floats, Source


class Once:
    """A source that computes each partition's gradient once per iteration, however many workers hold it.

    At kept parameters, too.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self.length, self.itemsize, self.partitions = source.length, source.itemsize, source.partitions
        self.statistics, self.buffers = source.statistics, source.buffers
        self.separable = source.separable
        # (iteration, partition, where the parameters lie) -> gradient, statistics
        self._known: dict[tuple[int, int, int], tuple[Tensor, Floats]] = {}
        self._where = 0
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

    @contextmanager
    def visit(self, parameters: Tensor, buffers: Tensor) -> Iterator[None]:
        """Kept parameters do not change within an iteration, so that their address tells them apart."""
        with self._source.visit(parameters, buffers):
            self._where = parameters.data_ptr()
            try:
                yield
            finally:
                self._where = 0

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
        key = (number, partition, self._where)
        if key not in self._known:
            gradient = self._spare.pop() if self._spare else torch.empty_like(self._like)
            statistics = self._source.accumulate(number, partition, 1.0, gradient, True)
            self._source.finish(gradient)
            self._known[key] = gradient, statistics
        gradient, statistics = self._known[key]
        target = out[: self.length]
        if first:
            torch.mul(gradient, coefficient, out=target)
        else:
            target.add_(gradient, alpha=coefficient)
        return statistics

    def finish(self, out: Tensor) -> None:
        """Every coordinate was written."""
