"""What the master asks of a worker: combinations of partitions, blocks of coordinates, codecs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from torch import Tensor

Coefficient = float | complex | tuple[float | complex, ...]


class Combination(Mapping[int, Coefficient]):
    """A weighted sum of partitions, ``{partition: coefficient}``: immutable, hashable, in the order of computing.

    Where the layout folds messages (:class:`Layout`), a coefficient is a tuple with a number for each part.

    >>> Combination({0: 1.0, 3: -0.5})[3]
    -0.5
    """

    __slots__ = ("_hash", "_items")

    def __init__(self, coefficients: Mapping[int, Coefficient]) -> None:
        self._items: dict[int, Coefficient] = {}
        for partition, coefficient in coefficients.items():
            if isinstance(coefficient, tuple):
                self._items[int(partition)] = tuple(map(_number, coefficient))
            else:
                self._items[int(partition)] = _number(coefficient)
        self._hash = hash(tuple(self._items.items()))

    def __getitem__(self, partition: int) -> Coefficient:
        return self._items[partition]

    def __iter__(self) -> Iterator[int]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if isinstance(other, Combination):
            return self._hash == other._hash and self._items == other._items
        return NotImplemented

    def __repr__(self) -> str:
        return f"Combination({self._items})"

    def __reduce__(self) -> tuple[Callable[..., Combination], tuple[dict[int, Coefficient]]]:
        # Rebuilt rather than copied: the hash of a float differs between builds of Python.
        return Combination, (self._items,)

    def of(self, target: Combination) -> Combination:
        """Its part of ``target``: the coefficients multiplied, partitions that the target lacks left out."""
        scaled: dict[int, Coefficient] = {}
        for partition, value in self._items.items():
            factor = target._items.get(partition)
            if factor is None:
                continue
            if isinstance(factor, tuple):
                raise ValueError(f"{target!r} is folded: its parts cannot be split any further")
            if isinstance(value, tuple):
                scaled[partition] = tuple(part * factor for part in value)
            else:
                scaled[partition] = value * factor
        return Combination(scaled)

    @property
    def real(self) -> bool:
        """Whether every coefficient is a real number; a complex combination travels packed (see :class:`Layout`)."""
        return not any(isinstance(value, complex | tuple) for value in self._items.values())


def _number(value: complex) -> float | complex:
    value = complex(value)
    return value if value.imag else value.real


class Block(NamedTuple):
    """A contiguous range ``start <= i < stop`` of coordinates of the flat parameter vector."""

    start: int
    stop: int


class Codec(Protocol):
    """Turns a gradient into the bytes that travel. A codec is immutable and picklable; memory is given to it.

    ``remembers`` says that it needs a memory row of the vector's length and dtype (error feedback, differences). One
    that clips has a method ``clipped(vector, memory)``, how many coordinates it clips of what it is given to encode;
    reports count them.
    """

    @property
    def remembers(self) -> bool: ...

    def size(self, length: int, itemsize: int) -> int:
        """Bytes of one encoded vector of ``length`` coordinates of ``itemsize`` bytes, at most."""
        ...

    def encode(
        self,
        vector: Tensor,
        out: Tensor,
        memory: Tensor | None,
        remembered: Tensor | None,
        key: tuple[int, ...],
    ) -> bool | int:
        """Writes ``vector`` (length,) as bytes into ``out`` (uint8), and says what is sent of it.

        True: all of ``out``; a number: so many of its first bytes; False: nothing (a skip).

        ``memory`` is read and ``remembered`` is written, never the other way round, so that a reply the master does
        not use leaves no trace. ``key`` = (seed, iteration, worker) seeds whatever is random.
        """
        ...


class Version(NamedTuple):
    """What lies in an entry of what is kept (see :class:`Keep`); the scheme never numbers two of an entry alike."""

    entry: int
    number: int


class Past(NamedTuple):
    """``coefficient`` · the gradient of ``partition`` at kept parameters, on its samples of iteration ``number``."""

    partition: int
    coefficient: Coefficient
    at: Version
    number: int


class Occasion(NamedTuple):
    """An earlier iteration, to compute at again: its kept parameters, and its number, which fixes the samples."""

    version: Version
    number: int


@dataclass(frozen=True, slots=True)
class Compare:
    """Have an order's result v compared with a reference: the reply says ‖v − reference‖².

    Args:
        reference: a kept vector, or a sum of past gradients.
        threshold: v is sent if ‖v − reference‖² is above it, or not a number; else the reply is a skip. None: it is
            sent whatever that is.
    """

    reference: Version | tuple[Past, ...]
    threshold: float | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """What the master asks of a worker: a combination over a block, through a codec, sent or held until granted.

    Args:
        worker: who computes.
        serial: of the iteration's ``start``.
        slot: number of this order in the iteration.
        row: where the answer lands.
        combination: the partitions to add up; empty: zeros or, held, a notice alone.
        block: the coordinates wanted; None: all.
        codec: None: the coordinates themselves.
        hold: keep the result in a buffer of its own and answer with a notice. Until it is granted or refused, a later
            order whose combination has this one's only partition uses it again.
        running: the answer is the running sum, once it contains the combination and nothing else: what is not in it is
            taken from what is held, or computed. If anything else is in it, for a grant was withdrawn, it begins anew.
            For layouts that neither pack nor fold.
        memory: which of the two copies of the row's memory to read; the other one is written. −1: neither, it begins
            with zeros, and copy 0 is written.
        compare: how far the result is from an earlier one, and whether it is sent if it is near.
        subtract: past gradients of partitions in the combination, one each at most, that are taken off the result
            after that, before it goes through the codec.
        remember: keep the partitions' gradients, as those at the parameters of this version, until a later order of the
            same partition subtracts others; so they need not be computed again. None: do not.
        at: the earlier iteration whose gradients are wanted; the order then has no ``hold``, ``compare``, ``subtract``
            or ``remember``. None: this one's.
        granted: held slots to add to the worker's running sum before anything else; what is not held is passed over,
            for a worker that was started again has forgotten it.
        refused: held slots to let go.
    """

    worker: int
    serial: int
    slot: int
    row: int
    combination: Combination
    block: Block | None = None
    codec: Codec | None = None
    hold: bool = False
    running: bool = False
    memory: int = 0
    compare: Compare | None = None
    subtract: tuple[Past, ...] = ()
    remember: Version | None = None
    at: Occasion | None = None
    granted: tuple[int, ...] = ()
    refused: tuple[int, ...] = ()

    @property
    def needs(self) -> frozenset[Version]:
        """What the worker must find kept."""
        compared = () if self.compare is None else self.compare.reference
        past = (*(() if isinstance(compared, Version) else compared), *self.subtract)
        whole = [] if self.at is None else [self.at.version]
        return frozenset(whole + [own.at for own in past] + ([compared] if isinstance(compared, Version) else []))


@dataclass(frozen=True, slots=True)
class Abandon:
    """Slots whose answers nobody needs any more."""

    slots: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Keep:
    """Have the workers find something in an entry, from now on until the entry is kept anew; given at ``start``.

    Args:
        version: the entry, below the layout's ``kept``, and a number.
        vector: (length,), copied; None: the parameters, and buffers, of this iteration.
        origin: a worker that need not be sent the vector, for it has sent it.
    """

    version: Version
    vector: Tensor | None = None
    origin: int | None = None


Action = Order | Abandon | Keep
"""What a scheme may answer to an event."""
