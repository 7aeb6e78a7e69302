"""What the rooms say to each other.

A scheme gives :class:`Order`\\ s, a cluster carries them to workers and brings back :class:`Reply` and :class:`Loss`
events, and every iteration ends in one :class:`Report`. Nothing here knows any one scheme or cluster, and importing
this module does not load torch.

Rules that every cluster keeps
    * Every ``start`` has a new ``serial``, never used again while the cluster lives. What bears another serial is
      dropped, errors and NaN included: it may have read parameters in the middle of an optimizer step.
    * A row belongs to one worker, is written by one process for one order at a time, and stays untouched from its
      reply until the next ``start``. Two orders whose answers are both wanted have different rows or blocks.
    * A slot is used once per iteration. An order for a worker that is gone for good is dropped.
    * All replies of a worker come before its :class:`Loss`. A lost worker is started again and, after ``lose``,
      given its open orders again, within the same iteration.
    * At equal times: replies, then losses (both by worker index), then the deadline.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from gradcode.report import Floats as Floats
from gradcode.report import Outcome as Outcome
from gradcode.report import Report as Report
from gradcode.report import Work as Work

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from gradcode.topology import Branch

Coefficient = float | complex | tuple[float, ...]


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
                self._items[int(partition)] = tuple(map(float, coefficient))
                continue
            value = complex(coefficient)
            self._items[int(partition)] = value if value.imag else value.real
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
                scaled[partition] = tuple(part * factor.real for part in value)
            else:
                scaled[partition] = value * factor
        return Combination(scaled)

    @property
    def real(self) -> bool:
        """Whether every coefficient is a real number; a complex combination travels packed (see :class:`Layout`)."""
        return not any(isinstance(value, complex | tuple) for value in self._items.values())


class Block(NamedTuple):
    """A contiguous range ``start <= i < stop`` of coordinates of the flat parameter vector."""

    start: int
    stop: int


class Codec(Protocol):
    """Turns a gradient into the bytes that travel. A codec is immutable and picklable; memory is given to it.

    ``remembers`` says that it needs a memory row of the vector's length and dtype (error feedback, differences).
    """

    remembers: bool

    def size(self, length: int, itemsize: int) -> int:
        """Bytes of one encoded vector of ``length`` coordinates of ``itemsize`` bytes."""
        ...

    def encode(
        self,
        vector: Tensor,
        out: Tensor,
        memory: Tensor | None,
        remembered: Tensor | None,
        key: tuple[int, ...],
    ) -> bool:
        """Writes ``vector`` (length,) as bytes into ``out`` (uint8); False says that nothing is sent (a skip).

        ``memory`` is read and ``remembered`` is written, never the other way round, so that a reply the master does
        not use leaves no trace. ``key`` = (seed, iteration, worker) seeds whatever is random.
        """
        ...


@dataclass(frozen=True, slots=True)
class Layout:
    """How many rows a scheme's answers need, and of what shape.

    Args:
        rows: rows in the reply array.
        slots: the largest number of orders in one iteration; slots are numbered below it.
        codec: what turns a gradient into a row's bytes; None: the coordinates themselves.
        packed: rows are complex combinations: first half real part, second half imaginary part, of a gradient whose
            first half was read as real and second half as imaginary part (lengths are padded to even).
        fold: a row holds a message of ``ceil(length / fold)`` coordinates: the gradient is cut into so many parts, and
            a combination adds up parts, each with a coefficient of its own.
        memory: memory rows; the memory of an order is that of its row. Each has two copies.
        history: how many squared displacements of the parameters :class:`Step` reports.
        length: coordinates that the gradient must have; None: any number.
    """

    rows: int
    slots: int
    codec: Codec | None = None
    packed: bool = False
    fold: int = 1
    memory: int = 0
    history: int = 0
    length: int | None = None

    def width(self, length: int) -> int:
        """Coordinates in one row for a gradient of ``length``."""
        folded = -(-length // self.fold)
        return folded + folded % 2 if self.packed else folded

    def row_bytes(self, length: int, itemsize: int) -> int:
        """Bytes of one full row for a gradient of ``length`` coordinates of ``itemsize`` bytes."""
        if self.codec is not None:
            return self.codec.size(self.width(length), itemsize)
        return self.width(length) * itemsize

    def row_shape(self, length: int, itemsize: int) -> tuple[int, int]:
        """Items of one row, and from row to row; an item is a coordinate, or a byte where there is a codec.

        Rows begin on cache lines, 16 coordinates of float32, which also lets a decoder cut them into equal shares for
        its threads.
        """
        item = itemsize if self.codec is None else 1
        items, line = self.row_bytes(length, itemsize) // item, 64 // item
        return items, -(-items // line) * line


@dataclass(frozen=True, slots=True)
class Order:
    """What the master asks of a worker: a combination over a block, through a codec, sent or held until granted.

    Args:
        worker: who computes.
        serial: of the iteration's ``start``.
        slot: number of this order in the iteration.
        row: where the answer lands.
        combination: the partitions to add up; empty: asks for the sum of what was granted.
        block: the coordinates wanted; None: all.
        codec: None: the coordinates themselves.
        hold: keep the result in a scratch buffer and answer with a notice. Until it is granted, a later order whose
            combination has this one's only partition uses it again.
        granted: held slots to add to the worker's running sum before anything else.
        memory: which of the two copies of the row's memory to read; the other one is written.
    """

    worker: int
    serial: int
    slot: int
    row: int
    combination: Combination
    block: Block | None = None
    codec: Codec | None = None
    hold: bool = False
    granted: tuple[int, ...] = ()
    memory: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Reply:
    """A worker's answer, or an edge node's.

    ``payload`` is the row's bytes (uint8), valid until the next ``start``; None is a skip (a codec had nothing to
    send) or, for a held order, a notice. ``time`` is in seconds since the iteration's start. ``statistics`` has one
    row per partition of the combination, in its order: what the objective reports beside the gradient, loss first. In
    an edge node's answer NaN in a whole row says that the partition is not in the sum.
    """

    order: Order
    payload: Tensor | None
    time: float
    statistics: Floats


@dataclass(frozen=True, slots=True)
class Loss:
    """A worker is gone: its process, node or connection. ``returning``: it is being started again."""

    worker: int
    time: float
    returning: bool = True


@dataclass(frozen=True, slots=True)
class Failure:
    """A worker's own code raised while carrying out this iteration's orders, or its reply was refused by the master.

    The worker itself lives on.
    """

    worker: int
    time: float
    message: str
    kind: Literal["raised", "misshapen", "not finite"] = "raised"


@dataclass(frozen=True, slots=True)
class Expired:
    """The scheme's deadline has passed."""

    time: float


Event = Reply | Loss | Failure | Expired


@dataclass(frozen=True, slots=True)
class Abandon:
    """Slots whose answers nobody needs any more."""

    slots: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """What the last optimizer steps did.

    ``displacements[d - 1]`` = ‖θ^{k+1-d} − θ^{k-d}‖², the newest first; as many as the layout's ``history``, fewer at
    the beginning. ``learning_rate`` is NaN where the session was not given the optimizer.
    """

    learning_rate: float = float("nan")
    displacements: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Iteration:
    """What a scheme is told at ``start``.

    Args:
        number: the iteration, counted from 0 over the whole training; with the seed it fixes every sample.
        serial: unique for this start.
        target: the combination wanted. At the root every coefficient is 1, for a partition's gradient is
            g_j = (n_j/n)·∇(mean loss on j), so that their sum is the gradient of the mean loss. At an edge node it is
            the combination that the parent ordered.
        workers: those alive: each can be given orders.
        sizes: samples n_j of each partition in this iteration, shape (K,).
        step: what the last optimizer steps did.
        away: those of ``workers`` that are being started again: their orders wait until they are back.
    """

    number: int
    serial: int
    target: Combination
    workers: tuple[int, ...]
    sizes: npt.NDArray[np.int64]
    step: Step = Step()
    away: tuple[int, ...] = ()


class Scheme(Protocol):
    """The master's rules for one iteration: a state machine without clock, process or socket.

    ``error`` belongs to the last ``gradient``: a bound on ‖ĝ − g‖ / Σ_j‖g_j‖, rounding included; ``exact`` says
    whether only rounding is in it. A scheme that knows may say in an attribute ``awaits`` how many more replies it
    must have at least, before it is done or gives an order: a cluster may hand those over together.
    """

    workers: int
    partitions: int
    layout: Layout
    done: bool
    deadline: float | None
    error: float
    exact: bool

    @property
    def inner(self) -> tuple[Scheme | None, ...]:
        """The schemes that edge nodes run; empty: no edge nodes."""
        ...

    def start(self, iteration: Iteration) -> Sequence[Order | Abandon]: ...

    def receive(self, reply: Reply) -> Sequence[Order | Abandon]: ...

    def lose(self, worker: int) -> Sequence[Order | Abandon]: ...

    def expire(self) -> Sequence[Order | Abandon]:
        """The deadline, or a shortfall that may end approximately, has come."""
        ...

    def gradient(self, rows: Tensor, out: Tensor) -> None:
        """Writes the target (length,) into ``out``; ``rows`` is (rows, width), or uint8 where there is a codec."""
        ...

    def duration(self, compute: Floats, communicate: Floats) -> Floats:
        """Seconds of an iteration: (samples, N, stages) per unit of load, (samples, links) per reply -> (samples,).

        The links are those of the N workers, then those of the edge nodes, parents before their children. The time
        that the master takes to receive replies, one after the other, is left out.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """What outlives an iteration; part of every checkpoint."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Source(Protocol):
    """Where a worker's gradients come from: an objective of the training room, seen from a cluster.

    A source is pickled to the workers once; ``bind`` then gives each of them the shared memory it reads.
    """

    length: int
    itemsize: int
    partitions: int
    statistics: int
    buffers: int
    separable: bool
    """Whether two blocks by themselves cost no more than both together."""

    def bind(self, parameters: Tensor, buffers: Tensor, worker: int) -> None:
        """Reads parameters (length,) and buffers (buffers,) float64 from these tensors from now on."""
        ...

    def copy(self) -> Source:
        """One with a model of its own, for a worker inside the master's process; the data is shared."""
        ...

    def rebind(self, parameters: Tensor, buffers: Tensor) -> None:
        """The same, once it is bound: from other tensors, which may be read-only."""
        ...

    def refresh(self) -> None:
        """The parameters have changed: a new serial begins."""
        ...

    def prepare(self, number: int) -> None:
        """All partitions of iteration ``number`` will be asked for: compute them together where that is quicker."""
        ...

    def sizes(self, number: int) -> npt.NDArray[np.int64]:
        """Samples of every partition in iteration ``number``, shape (K,)."""
        ...

    def accumulate(
        self,
        number: int,
        partition: int,
        coefficient: float,
        out: Tensor,
        first: bool,
        block: Block | None = None,
    ) -> Floats:
        """Adds ``coefficient``·g_partition to ``out`` (overwrites it if ``first``); returns statistics (S,).

        With a ``block`` only its coordinates of ``out`` count, and others need not be computed.
        """
        ...

    def cost(self, block: Block) -> float:
        """What the coordinates of ``block`` cost, as a share of the whole gradient of a partition; from 0 to 1."""
        ...

    def finish(self, out: Tensor) -> None:
        """Ends a series of ``accumulate`` into ``out``: coordinates that no partition touched become 0."""
        ...


class Cluster(Protocol):
    """Where orders are carried out. A cluster is a context manager; leaving it leaves nothing behind.

    Where there are edge nodes, they are to their parent what a worker is: orders and replies bear the number of the
    parent's child.
    """

    workers: int
    topology: Branch
    parameters: Tensor
    buffers: Tensor
    rows: Tensor

    @property
    def memory(self) -> Tensor | None:
        """What the workers remember, (memory rows, 2, length); None where the layout asks for none."""
        ...

    def open(
        self,
        source: Source,
        layout: Layout,
        seed: int,
        like: Tensor,
        reply_dtype: torch.dtype,
        inner: Sequence[Scheme | None] = (),
    ) -> None:
        """Starts the workers on ``source``; ``parameters``, ``buffers``, ``rows`` and ``memory`` exist from now on.

        ``like`` is any CPU tensor of the parameters' dtype; ``reply_dtype`` is that of the rows. ``inner`` are the
        schemes of the edge nodes; empty: the master speaks with the workers themselves, and edge nodes only pass on.
        """
        ...

    def alive(self) -> tuple[int, ...]:
        """Those of the master's children, workers or edge nodes, that can be given orders."""
        ...

    def away(self) -> tuple[int, ...]:
        """Those of them that are being started again: their orders wait until they are back."""
        ...

    def run(self, scheme: Scheme, iteration: Iteration) -> Outcome:
        """Carries out one iteration, until the scheme is done."""
        ...

    def clock(self) -> float:
        """Seconds since the cluster was opened: real or virtual."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What one iteration leaves to the next, ``memory`` among it; part of every checkpoint."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...

    def close(self) -> None: ...
