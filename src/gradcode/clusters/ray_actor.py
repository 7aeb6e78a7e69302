"""A worker of the Ray cluster: an actor that computes in one thread and hears of what is over in another."""

from __future__ import annotations

import os
import platform
import sys
import threading
import time
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gradcode.clusters.carrier import Carrier, DelayMode, Told, be_polite, keep_memory
from gradcode.clusters.driver import OnShortfall
from gradcode.clusters.inspection import as_array
from gradcode.clusters.post import Message, PlannedOrder, Record
from gradcode.clusters.ray_connection import method, ray
from gradcode.clusters.worker import MissingError, OrderBook
from gradcode.delays import DelayTable
from gradcode.protocol import Layout, Order, Scheme, Source, Version
from gradcode.topology import Branch

Array = npt.NDArray[Any]


class Cargo(NamedTuple):
    """What all children of a master share."""

    layout: Layout
    seed: int
    dtype: torch.dtype  # of the parameters
    reply_dtype: torch.dtype


class EdgeSetup(NamedTuple):
    """What an edge node is told besides; ``options`` are those of its workers' actors."""

    branch: Branch
    scheme: Scheme
    table: DelayTable | None
    options: Mapping[str, Any]
    on_shortfall: OnShortfall
    patience: float | None
    max_restarts: int | None
    start_timeout: float


class Setup(NamedTuple):
    """What one actor is told when it begins to work for a cluster."""

    cluster: str  # notices of another cluster are not for this one
    child: int  # its number among its parent's children
    number: int  # of the worker, or of the edge node, in the whole cluster
    cargo: Cargo
    mode: DelayMode
    threads: int
    machine: str  # of the master
    fresh: bool  # nobody was this worker before: it remembers nothing, and rightly so
    edge: EdgeSetup | None = None


class Ready(NamedTuple):
    """What an actor says when it can begin."""

    pid: int
    machine: str
    node: str


class Said(NamedTuple):
    """A record and what belongs to it; ``started``: when its message was begun, by the worker's clock."""

    record: Record
    statistics: npt.NDArray[np.float64] | None
    text: str
    started: float


class Actor:
    """Carries out messages in its first thread; the second hears at once of what nobody wants any more.

    Args:
        path: where the master looks for modules.
    """

    def __init__(self, path: Sequence[str]) -> None:
        # Where the master finds the modules of model and dataset, this machine may find them as well.
        sys.path.extend(place for place in path if place not in sys.path)
        keep_memory()
        be_polite()
        # Parameters are arrays of the object store, which is not to be written to; the model only reads them.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        self._work: Work | None = None
        self._going: Iterator[tuple[Said, Array | None]] = iter(())

    @method(concurrency_group="compute")
    def load(self, setup: Setup, source: Sequence[Any]) -> Ready:
        """Takes up work for a cluster, leaving what it did before. ``source`` holds the object it is in."""
        torch.set_num_threads(setup.threads)  # of this thread, which is the one that computes
        if setup.edge is None:
            self._work = _Computing(setup, ray.get(source[0]))
        else:
            from gradcode.clusters.ray_edge import Forwarding  # a cluster, and so a user of this module

            self._work = Forwarding(setup, source[0])
        return Ready(os.getpid(), machine(), ray.get_runtime_context().get_node_id())

    @method(concurrency_group="compute", num_returns=2)
    def carry_out(
        self, parameters: Any, message: Message, kept: Sequence[tuple[Version, Any]]
    ) -> tuple[Said, Array | None]:
        """The first thing that comes of a message, and its payload, which stays here until the master asks for it.

        ``kept`` are the objects of the kept versions that the orders need.
        """
        assert self._work is not None
        self._work.offer(kept)
        self._going = self._work.go(parameters, message)
        return next(self._going)

    @method(concurrency_group="compute", num_returns=2)
    def carry_on(self) -> tuple[Said | None, Array | None]:
        """The next thing that comes of the last message, which has several orders; (None, None): that was all."""
        return next(self._going, (None, None))

    @method(concurrency_group="control")
    def is_there(self) -> None:
        """Answers."""

    @method(concurrency_group="control")
    def over(self, cluster: str, serial: int) -> None:
        """Iterations up to that of ``serial`` are over."""
        if self._work is not None and self._work.setup.cluster == cluster:
            self._work.over(serial)

    @method(concurrency_group="control")
    def abandon(self, cluster: str, serial: int, slots: tuple[int, ...]) -> None:
        """Nobody needs these slots of an iteration any more."""
        if self._work is not None and self._work.setup.cluster == cluster:
            self._work.abandon(serial, slots)

    @method(concurrency_group="control")
    def memories(self) -> dict[int, Array]:
        """Both copies, (2, length), of each memory row that this worker knows."""
        assert isinstance(self._work, _Computing)
        return self._work.memories.known()

    @method(concurrency_group="compute")
    def remember(self, memories: Array) -> None:
        """Takes memories from a checkpoint, (memory rows, 2, length)."""
        assert isinstance(self._work, _Computing)
        self._work.memories.restore(memories)

    @method(concurrency_group="control")
    def below(self) -> dict[int, int | None]:
        """The processes below an edge node: of workers by their number w, of edge nodes e as −1 − e."""
        return {} if self._work is None else self._work.below()


class Work(Carrier):
    """An actor's work for one cluster."""

    def __init__(self, setup: Setup, book: OrderBook, rows: Rows) -> None:
        super().__init__(book, setup.mode == "emulate")
        self.setup, self.rows = setup, rows
        self._one_clock = setup.machine == machine()
        self._serial = -1  # of the parameters that were taken last
        self._plans: dict[int, tuple[PlannedOrder, ...]] = {}
        self._notice = threading.Condition()
        self._over = -1
        self._abandoned: dict[int, set[int]] = {}  # serial -> slots

    @abstractmethod
    def take(self, parameters: Any) -> None:
        """The parameters of a new iteration."""

    def go(self, parameters: Any, message: Message) -> Iterator[tuple[Said, Array | None]]:
        """Carries out a message: what comes of it, each time with the payload."""
        started = time.monotonic()
        if message.orders is not None:
            self._plans[message.plan] = message.orders
        orders = message.complete(self._plans[message.plan], self.setup.child)
        if message.serial > self._over and message.serial != self._serial:
            self._serial = message.serial
            self.take(parameters)
        # Another machine's clock says nothing here.
        given = message.sent if self._one_clock else started
        for told in self.carry_out(message, orders, given):
            yield self._said(told, started), self._payload(told)

    def offer(self, kept: Sequence[tuple[Version, Any]]) -> None:
        """Objects of what the master keeps."""

    def below(self) -> dict[int, int | None]:
        return {}

    def wanted(self, order: Order) -> bool:
        return order.serial > self._over and order.slot not in self._abandoned.get(order.serial, ())

    def sleep(self, seconds: float | None) -> None:
        with self._notice:
            self._notice.wait(seconds)

    def over(self, serial: int) -> None:
        with self._notice:
            self._over = max(self._over, serial)
            self._abandoned = {own: slots for own, slots in self._abandoned.items() if own > self._over}
            self._notice.notify_all()

    def abandon(self, serial: int, slots: tuple[int, ...]) -> None:
        with self._notice:
            self._abandoned.setdefault(serial, set()).update(slots)
            self._notice.notify_all()

    def _said(self, told: Told, started: float) -> Said:
        statistics = None if told.answer is None else told.answer.statistics
        return Said(told.record, statistics, told.text, started)

    def _payload(self, told: Told) -> Array | None:
        if told.answer is None:
            return None
        payload = self.book.payload(told.answer.order, told.answer.sent)
        if payload is None:
            return None
        return as_array(payload if told.answer.order.codec is not None else payload.view(self.rows.dtype))


class _Computing(Work):
    """A worker's work: it computes gradients."""

    def __init__(self, setup: Setup, source: Source) -> None:
        cargo = setup.cargo
        like = torch.zeros(source.length, dtype=cargo.dtype)
        source.bind(like, torch.zeros(source.buffers, dtype=torch.float64), setup.number)
        rows = Rows(cargo.layout, source.length, cargo.reply_dtype)
        self._source = source
        self.memories, self._shelf = _Memories(source.length, cargo.dtype, setup.fresh), _Shelf()
        book = OrderBook(setup.number, source, cargo.layout, rows, self.memories, cargo.seed, like, self._shelf)
        super().__init__(setup, book, rows)

    def offer(self, kept: Sequence[tuple[Version, Any]]) -> None:
        self._shelf.offer(kept)

    def take(self, parameters: tuple[Array, Array]) -> None:
        self._source.rebind(*(torch.from_numpy(array) for array in parameters))


class Rows:
    """The rows that this worker writes, made at need."""

    def __init__(self, layout: Layout, length: int, reply_dtype: torch.dtype) -> None:
        items, _ = layout.row_shape(length, reply_dtype.itemsize)
        self.dtype = reply_dtype if layout.codec is None else torch.uint8
        self.shape = (layout.rows, items)
        self._rows: dict[int, Tensor] = {}

    def __getitem__(self, row: int) -> Tensor:
        if row not in self._rows:
            self._rows[row] = torch.zeros(self.shape[1], dtype=self.dtype)
        return self._rows[row]


class _Shelf:
    """What the master keeps: fetched at need, and held until its entry is another one's."""

    def __init__(self) -> None:
        self._objects: dict[Version, Any] = {}
        self._here: dict[int, tuple[Version, tuple[Tensor, Tensor]]] = {}

    def offer(self, kept: Sequence[tuple[Version, Any]]) -> None:
        """Where these versions can be fetched from, and no others."""
        self._objects = dict(kept)

    def parameters(self, version: Version) -> tuple[Tensor, Tensor]:
        known = self._here.get(version.entry)
        if known is None or known[0] != version:
            vector, buffers = ray.get(self._objects[version])
            known = self._here[version.entry] = version, (torch.from_numpy(vector), torch.from_numpy(buffers))
        return known[1]

    def vector(self, version: Version) -> Tensor:
        return self.parameters(version)[0]


class _Memories:
    """What this worker remembers: nothing at first, and after a restart it does not know what it ought to."""

    def __init__(self, length: int, dtype: torch.dtype, fresh: bool) -> None:
        self._length, self._dtype, self._fresh = length, dtype, fresh
        self._copies: dict[tuple[int, int], Tensor] = {}
        self._restored: Array | None = None

    def read(self, row: int, copy: int) -> Tensor:
        if (row, copy) not in self._copies:
            if self._restored is not None:
                self._copies[row, copy] = torch.from_numpy(self._restored[row, copy].copy())
            elif self._fresh:
                return self.write(row, copy)
            else:
                raise MissingError(f"copy {copy} of memory row {row} is not known to this worker, which was restarted")
        return self._copies[row, copy]

    def write(self, row: int, copy: int) -> Tensor:
        if (row, copy) not in self._copies:
            self._copies[row, copy] = torch.zeros(self._length, dtype=self._dtype)
        return self._copies[row, copy]

    def known(self) -> dict[int, Array]:
        rows = sorted({row for row, _ in self._copies})
        both = {row: [self._copies.get((row, copy)) for copy in (0, 1)] for row in rows}
        blank = np.zeros(self._length, dtype=torch.zeros(0, dtype=self._dtype).numpy().dtype)
        return {
            row: np.stack([blank if own is None else own.numpy() for own in copies]) for row, copies in both.items()
        }

    def restore(self, memories: Array) -> None:
        self._copies.clear()
        self._restored = memories


def machine() -> str:
    """Names the machine, or rather its kernel's run: processes of one share a monotonic clock."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return boot.read_text() if boot.exists() else platform.node()
