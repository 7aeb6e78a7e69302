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

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from gradcode.orders import Abandon as Abandon
from gradcode.orders import Action as Action
from gradcode.orders import Block as Block
from gradcode.orders import Codec as Codec
from gradcode.orders import Coefficient as Coefficient
from gradcode.orders import Combination as Combination
from gradcode.orders import Compare as Compare
from gradcode.orders import Keep as Keep
from gradcode.orders import Occasion as Occasion
from gradcode.orders import Order as Order
from gradcode.orders import Past as Past
from gradcode.orders import Version as Version
from gradcode.report import Floats as Floats
from gradcode.report import Outcome as Outcome
from gradcode.report import Report as Report
from gradcode.report import Work as Work

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from gradcode.topology import Branch


@dataclass(frozen=True, slots=True)
class Layout:
    """How many rows a scheme's answers need, and of what shape.

    Args:
        rows: rows in the reply array.
        slots: the largest number of orders in one iteration; slots are numbered below it.
        codec: what turns a gradient into a row's bytes; None: the coordinates themselves.
        packed: rows are complex combinations: first half real part, second half imaginary part, of a gradient whose
            first half was read as real and second half as imaginary part (lengths are padded to even).
        fold: a row holds a message of ``width(length)``, ⌈length / fold⌉, coordinates: the gradient is cut into so many
            contiguous parts of that length, the last ones shorter or empty, and a combination adds up parts, each with
            a coefficient of its own. With ``packed`` each part is a complex vector, real part first.
        memory: memory rows; the memory of an order is that of its row. Each has two copies.
        history: how many squared displacements of the parameters :class:`Step` reports.
        length: coordinates that the gradient must have; None: any number.
        kept: entries of what is kept for the workers (:class:`Keep`).
        stale: the gradient holds what was sent in earlier iterations: a parameter that took part then takes part now.
    """

    rows: int
    slots: int
    codec: Codec | None = None
    packed: bool = False
    fold: int = 1
    memory: int = 0
    history: int = 0
    length: int | None = None
    kept: int = 0
    stale: bool = False

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


@dataclass(frozen=True, slots=True, eq=False)
class Reply:
    """A worker's answer, or an edge node's.

    ``payload`` is the row's bytes (uint8), valid until the next ``start``; None is a skip (a codec had nothing to
    send) or, for a held order, a notice. ``time`` is in seconds since the iteration's start. ``statistics`` has one
    row per partition of the combination, in its order: what the objective reports beside the gradient, loss first. In
    an edge node's answer NaN in a whole row says that the partition is not in the sum. ``change`` is the squared
    distance that the order wanted to know (:class:`Compare`). ``clipped`` counts the coordinates that its codec
    clipped.
    """

    order: Order
    payload: Tensor | None
    time: float
    statistics: Floats
    change: float = float("nan")
    clipped: int = 0


@dataclass(frozen=True, slots=True)
class Loss:
    """A worker is gone: its process, node or connection. ``returning``: it is being started again."""

    worker: int
    time: float
    returning: bool = True


@dataclass(frozen=True, slots=True)
class Failure:
    """A worker's own code raised while carrying out this iteration's orders, or its reply was refused by the master.

    The worker itself lives on. "forgotten": it was started again, and lacks a memory that an order names; a
    scheme that has memory rows is told so by its ``forget(worker)`` in place of ``lose``.
    """

    worker: int
    time: float
    message: str
    kind: Literal["raised", "misshapen", "not finite", "forgotten"] = "raised"


@dataclass(frozen=True, slots=True)
class Expired:
    """The scheme's deadline has passed."""

    time: float


Event = Reply | Loss | Failure | Expired


@dataclass(frozen=True, slots=True)
class Step:
    """What the last optimizer steps did.

    ``displacements[d - 1]`` = ‖θ^{k+1-d} − θ^{k-d}‖², the newest first; as many as the layout's ``history``, fewer at
    the beginning; ``rates`` are the learning rates with which they came about. ``learning_rate`` is that of now, NaN
    where the session was not given the optimizer; ``plain`` says whether that is SGD and nothing else, so that
    θ^{k+1} = θ^k − learning_rate·gradient. ``parameters`` (length,) are those of this iteration, to be read until the
    optimizer changes them.
    """

    learning_rate: float = float("nan")
    displacements: tuple[float, ...] = ()
    rates: tuple[float, ...] = ()
    plain: bool | None = None
    parameters: Tensor | None = field(default=None, compare=False, repr=False)


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
        dtype: of the coordinates in replies, for a scheme that reads them as they come; None: it is not told.
    """

    number: int
    serial: int
    target: Combination
    workers: tuple[int, ...]
    sizes: npt.NDArray[np.int64]
    step: Step = Step()
    away: tuple[int, ...] = ()
    dtype: torch.dtype | None = None


class Scheme(Protocol):
    """The master's rules for one iteration: a state machine without clock, process or socket.

    ``error`` belongs to the last ``gradient``: a bound on ‖ĝ − g‖ / Σ_j‖g_j‖, rounding included; ``exact`` says
    whether only rounding is in it. A scheme that knows may say in an attribute ``awaits`` how many more replies it
    must have at least, before it is done or gives an order: a cluster may hand those over together. In a method
    ``lacking(workers)`` it may say, for an error, what it cannot do with these workers alone. One that compares
    replies names in ``corrupt``, once it is done, the workers whose replies contradict those that it trusts.
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

    def start(self, iteration: Iteration) -> Sequence[Action]: ...

    def receive(self, reply: Reply) -> Sequence[Action]: ...

    def lose(self, worker: int) -> Sequence[Action]: ...

    def expire(self) -> Sequence[Action]:
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

    def visit(self, parameters: Tensor, buffers: Tensor) -> AbstractContextManager[None]:
        """Reads from these tensors within the block, between two series of ``accumulate``."""
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
        """What one iteration leaves to the next, ``memory`` and what is kept among it; part of every checkpoint."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...

    def close(self) -> None: ...
