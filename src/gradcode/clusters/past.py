"""A worker's past: gradients at parameters that the master keeps, to compare with and to take off."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from gradcode.protocol import Coefficient, Order, Past, Source, Version
from gradcode.schemes.decoding import squared_norm


class Shelf(Protocol):
    """Where a worker finds what the master keeps for it."""

    def parameters(self, version: Version) -> tuple[Tensor, Tensor]:
        """Kept parameters (length,) and buffers (buffers,), to be read."""
        ...

    def vector(self, version: Version) -> Tensor:
        """A kept vector (length,), to be read."""
        ...


class SharedShelf:
    """What is kept, in arrays that master and workers share: (kept, length) and (kept, buffers)."""

    def __init__(self, vectors: Tensor, buffers: Tensor) -> None:
        self._vectors, self._buffers = vectors, buffers

    def parameters(self, version: Version) -> tuple[Tensor, Tensor]:
        return self._vectors[version.entry], self._buffers[version.entry]

    def vector(self, version: Version) -> Tensor:
        return self._vectors[version.entry]


class Found(NamedTuple):
    """Whether a result is to be sent, and its squared distance to what it was compared with; NaN: with nothing."""

    send: bool
    change: float


class PastGradients:
    """Gradients at kept parameters: remembered where an order asked for it, else computed again.

    So what a worker remembers only saves time: one that was started again gives the same answers.

    Args:
        source: where gradients come from.
        shelf: where what is kept is found; None: nothing is.
        like: any tensor of the gradient's dtype on the CPU.
    """

    def __init__(self, source: Source, shelf: Shelf | None, like: Tensor) -> None:
        self._source, self._shelf, self._like = source, shelf, like
        self._known: dict[tuple[int, Version, int], Tensor] = {}
        self._scratch: Tensor | None = None
        self._reference: Tensor | None = None
        self._difference: Tensor | None = None

    def missing(self, order: Order) -> int:
        """Past gradients that ``order`` would have computed."""
        compared = [past for past in _compared(order) if past not in order.subtract]
        return sum(_key(past) not in self._known for past in (*compared, *order.subtract))

    def forget(self) -> None:
        self._known.clear()

    def begin(self, order: Order) -> None:
        """Forgets of an order's partitions what it does not take off: two gradients of each are the most there are."""
        if order.remember is not None:
            taken_off = {_key(past) for past in order.subtract}
            for key in [key for key in self._known if key[0] in order.combination]:
                if key[1] != order.remember and key not in taken_off:
                    del self._known[key]

    def remember(self, partition: int, at: Version, number: int, gradient: Tensor) -> None:
        """The gradient of a partition at kept parameters, on its samples of iteration ``number``."""
        self._known[partition, at, number] = gradient[: self._source.length].clone()

    def compare(self, order: Order, vector: Tensor, computed: Callable[[], bool]) -> Found | None:
        """Compares ``vector`` as the order wants; None: the order was abandoned on the way.

        ``computed`` is called after each gradient that had to be computed, and says whether to go on.
        """
        if order.compare is None:
            return Found(True, float("nan"))
        wanted = order.compare.reference
        if wanted == order.subtract:  # it is taken off already
            return self._judged(order, squared_norm(vector))
        if isinstance(wanted, Version):
            reference = self._kept.vector(wanted)
        else:
            if self._reference is None or self._reference.shape != vector.shape:
                self._reference = self._like.new_empty(vector.shape[0])
            reference = self._reference.zero_()
            for past in wanted:
                gradient = self._gradient(past, order, computed)
                if gradient is None:
                    return None
                add(reference, gradient, past.coefficient, self._source.length)
        return self._judged(order, squared_norm(vector[: reference.shape[0]], reference))

    def _judged(self, order: Order, change: float) -> Found:
        threshold = None if order.compare is None else order.compare.threshold
        # What is not a number is sent, so that the master sees it.
        return Found(threshold is None or not change <= threshold, change)

    def change(
        self, order: Order, partition: int, coefficient: Coefficient, gradient: Tensor, computed: Callable[[], bool]
    ) -> Tensor | None:
        """What is to be added for ``partition`` with its coefficient: its gradient, less what ``order`` takes off it.

        The difference is taken before it is multiplied, so that what rounds is relative to the change. None: the order
        was abandoned on the way.
        """
        past = next((own for own in order.subtract if own.partition == partition), None)
        if past is None:
            return gradient
        known = self._gradient(past, order, computed)
        if known is None:
            return None
        assert not isinstance(coefficient, tuple) and not isinstance(past.coefficient, tuple)
        if self._difference is None:
            self._difference = self._like.new_empty(self._source.length)
        ratio = (past.coefficient / coefficient).real
        return torch.sub(gradient[: self._source.length], known, alpha=ratio, out=self._difference)

    def _gradient(self, past: Past, order: Order, computed: Callable[[], bool]) -> Tensor | None:
        """A past gradient, remembered or computed again; None: the order was abandoned on the way."""
        known = self._known.get(_key(past))
        if known is not None:
            return known
        gradient = self._computed(past)
        if not computed():
            return None
        if past in order.subtract:
            self.remember(past.partition, past.at, past.number, gradient)
        return gradient

    def visit(self, version: Version) -> AbstractContextManager[None]:
        """Within the block the source reads kept parameters."""
        return self._source.visit(*self._kept.parameters(version))

    def _computed(self, past: Past) -> Tensor:
        if self._scratch is None:
            self._scratch = self._like.new_empty(self._source.length)
        with self.visit(past.at):
            self._source.accumulate(past.number, past.partition, 1.0, self._scratch, True)
            self._source.finish(self._scratch)
        return self._scratch

    @property
    def _kept(self) -> Shelf:
        if self._shelf is None:
            raise ValueError("an order needs what the master keeps, but the scheme's layout has no kept entries")
        return self._shelf


def add(vector: Tensor, gradient: Tensor, coefficient: Coefficient, whole: int) -> None:
    """Adds coefficient·gradient to ``vector``; with a packed layout the halves of the gradient are one complex vector.

    With a tuple of coefficients: Σ_q coefficient[q]·(part q of the gradient, which has ``whole`` coordinates).
    """
    if isinstance(coefficient, tuple):
        width = vector.shape[0]
        for q, own in enumerate(coefficient):
            _add_part(vector, gradient[q * width : min((q + 1) * width, whole)], own)
    else:
        _add_part(vector, gradient, coefficient)


def _add_part(vector: Tensor, part: Tensor, coefficient: float | complex) -> None:
    """Adds coefficient·part to the beginning of ``vector``; a complex coefficient takes halves of the vector as one."""
    vector[: part.shape[0]].add_(part, alpha=coefficient.real)
    if isinstance(coefficient, complex):
        half = (vector.shape[0] + 1) // 2
        real, imaginary = part[:half], part[half:]
        vector[: imaginary.shape[0]].sub_(imaginary, alpha=coefficient.imag)
        vector[half : half + real.shape[0]].add_(real, alpha=coefficient.imag)


def _compared(order: Order) -> tuple[Past, ...]:
    """The past gradients that the order compares with."""
    if order.compare is None or isinstance(order.compare.reference, Version):
        return ()
    return order.compare.reference


def _key(past: Past) -> tuple[int, Version, int]:
    return past.partition, past.at, past.number
