"""A worker's past: gradients at parameters that the master keeps, to compare with and to take off."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

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

    def missing(self, order: Order) -> int:
        """Past gradients that ``order`` would have computed."""
        compared = [past for past in _compared(order) if past not in order.subtract]
        return sum(_key(past) not in self._known for past in (*compared, *order.subtract))

    def forget(self) -> None:
        self._known.clear()

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
        if isinstance(wanted, Version):
            reference = self._kept.vector(wanted)
        else:
            if self._reference is None or self._reference.shape != vector.shape:
                self._reference = self._like.new_empty(vector.shape[0])
            reference = self._reference.zero_()
            if not self._add(reference, wanted, 1.0, order, computed):
                return None
        change = squared_norm(vector[: reference.shape[0]], reference)
        threshold = order.compare.threshold
        # What is not a number is sent, so that the master sees it.
        return Found(threshold is None or not change <= threshold, change)

    def subtract(self, order: Order, vector: Tensor, computed: Callable[[], bool]) -> bool:
        """Takes past gradients off ``vector``; False: the order was abandoned on the way."""
        if not self._add(vector, order.subtract, -1.0, order, computed):
            return False
        if order.remember is not None:
            # Until the master has used the answer, the gradients taken off may be asked for again; others not.
            taken_off = {_key(past) for past in order.subtract}
            old = [key for key in self._known if key[0] in order.combination and key[1] != order.remember]
            for key in set(old) - taken_off:
                del self._known[key]
        return True

    def _add(
        self, vector: Tensor, terms: Sequence[Past], sign: float, order: Order, computed: Callable[[], bool]
    ) -> bool:
        for past in terms:
            assert not isinstance(past.coefficient, tuple)
            known = self._known.get(_key(past))
            gradient = self._computed(past) if known is None else known
            add(vector, gradient, sign * past.coefficient, self._source.length)
            if known is None:
                if not computed():
                    return False
                if past in order.subtract:
                    self.remember(past.partition, past.at, past.number, gradient)
        return True

    def _computed(self, past: Past) -> Tensor:
        if self._scratch is None:
            self._scratch = self._like.new_empty(self._source.length)
        with self._source.visit(*self._kept.parameters(past.at)):
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
            part = gradient[q * width : min((q + 1) * width, whole)]
            vector[: part.shape[0]].add_(part, alpha=own)
        return
    length = gradient.shape[0]
    vector[:length].add_(gradient, alpha=coefficient.real)
    if isinstance(coefficient, complex):
        half = (length + 1) // 2
        vector[:half][: length - half].sub_(gradient[half:], alpha=coefficient.imag)
        vector[half : 2 * half].add_(gradient[:half], alpha=coefficient.imag)


def _compared(order: Order) -> tuple[Past, ...]:
    """The past gradients that the order compares with."""
    if order.compare is None or isinstance(order.compare.reference, Version):
        return ()
    return order.compare.reference


def _key(past: Past) -> tuple[int, Version, int]:
    return past.partition, past.at, past.number
