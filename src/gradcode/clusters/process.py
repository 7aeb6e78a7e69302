"""A process of the local cluster: a worker, or what a worker and an edge node have in common."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import forkserver
from typing import NamedTuple

import torch

from gradcode.clusters.arena import Arena, Parcel, Region, unpack
from gradcode.clusters.carrier import Carrier, DelayMode, be_polite, keep_memory
from gradcode.clusters.driver import OnShortfall
from gradcode.clusters.past import SharedShelf
from gradcode.clusters.post import ERROR, READY, Descriptor, Inbox, Record
from gradcode.clusters.worker import OrderBook, SharedMemories
from gradcode.delays import DelayTable
from gradcode.protocol import Layout, Order, Scheme, Source
from gradcode.topology import Branch

TEXT = 1 << 14  # bytes kept of a worker's traceback


class Cargo(NamedTuple):
    """What all workers share, packed once; ``items`` is the length of a row."""

    source: Source
    layout: Layout
    items: int
    seed: int


class Place(NamedTuple):
    """An arena, and where to find it."""

    regions: Mapping[str, Region]
    descriptor: Descriptor

    def open(self) -> Arena:
        return Arena(self.regions, self.descriptor.fd)


class EdgeSetup(NamedTuple):
    """What an edge node is given besides."""

    branch: Branch
    scheme: Scheme
    table: DelayTable | None
    on_shortfall: OnShortfall
    patience: float | None
    reply_dtype: torch.dtype


class Setup(NamedTuple):
    """All that a process is given.

    ``child`` is its number among its parent's children, ``number`` its own in the whole cluster, where edge nodes come
    after the workers. ``common`` holds what all processes of the cluster read, ``arena`` what it shares with its
    parent. ``cargo`` is None where it is to be unpacked from the parcel. ``inherited`` are descriptors of the parent's
    that came with a fork: a pipe ends only when nobody else holds it.
    """

    child: int
    number: int
    common: Place
    arena: Place
    cargo: Cargo | None
    parcel: Parcel | None
    parcel_fd: Descriptor | None
    orders: Descriptor
    records: Descriptor
    mode: DelayMode
    threads: int
    inherited: tuple[int, ...] = ()
    edge: EdgeSetup | None = None


def main(setup: Setup) -> None:
    """A worker: runs until the master closes the orders' pipe or dies."""
    be_polite()
    keep_memory()
    with settled(setup) as ground:
        cargo, arena = ground.cargo, ground.arena
        parameters, buffers = ground.common["parameters"], ground.common["buffers"]
        cargo.source.bind(parameters, buffers, setup.number)
        memory = SharedMemories(arena["memory"]) if cargo.layout.memory else None
        shelf = SharedShelf(arena["kept"], arena["kept buffers"]) if cargo.layout.kept else None
        rows = arena["rows"][:, : cargo.items]
        book = OrderBook(setup.number, cargo.source, cargo.layout, rows, memory, cargo.seed, parameters, shelf)
        loop = Loop(setup, ground, book)
    loop.run()


class Ground(NamedTuple):
    """What a process stands on."""

    cargo: Cargo
    common: Arena
    arena: Arena
    inbox: Inbox


@contextmanager
def settled(setup: Setup) -> Iterator[Ground]:
    """Makes this process ready to begin; what fails inside is told to the parent, and ends the process."""
    _die_with_parent()
    for descriptor in setup.inherited:
        os.close(descriptor)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the master, which closes the cluster
    torch.set_num_threads(setup.threads)
    common, arena = setup.common.open(), setup.arena.open()
    common["pids"][setup.number] = os.getpid()
    try:
        cargo = setup.cargo
        if cargo is None:
            assert setup.parcel is not None and setup.parcel_fd is not None
            cargo = unpack(setup.parcel._replace(fd=setup.parcel_fd.fd))
        inbox = Inbox(setup.orders.fd, arena["taken"].numpy()[setup.child : setup.child + 1])
        yield Ground(cargo, common, arena, inbox)
    except BaseException:
        _leave(arena["errors"][setup.child], traceback.format_exc())
        now = time.monotonic()
        os.write(setup.records.fd, Record(ERROR, 0, -1, -1, now, now, 0, 0).pack())
        sys.exit(0)


class Loop(Carrier):
    """Takes messages from the pipe and says what comes of them."""

    def __init__(self, setup: Setup, ground: Ground, book: OrderBook) -> None:
        super().__init__(book, setup.mode == "emulate")
        self._child, self._records = setup.child, setup.records.fd
        self._wanted = ground.arena["wanted"].numpy()
        self._text = ground.arena["errors"][setup.child]
        self._statistics = ground.arena["statistics"][setup.child].numpy()
        self._inbox = ground.inbox

    def run(self) -> None:
        now = time.monotonic()
        self._say(Record(READY, 0, -1, -1, now, now, 0, 0))
        while (message := self._inbox.next()) is not None:
            for told in self.carry_out(message, self._inbox.orders(message, self._child), message.sent):
                if told.answer is not None:
                    for partition, values in zip(told.answer.order.combination, told.answer.statistics, strict=False):
                        self._statistics[partition] = values
                if told.text:
                    _leave(self._text, told.text)
                self._say(told.record)

    def wanted(self, order: Order) -> bool:
        return int(self._wanted[order.slot]) == order.serial

    def sleep(self, seconds: float | None) -> None:
        if self._inbox.ended:
            sys.exit(0)
        self._inbox.wait(seconds)

    def _say(self, record: Record) -> None:
        try:
            os.write(self._records, record.pack())
        except BrokenPipeError:
            sys.exit(0)


def _leave(text: torch.Tensor, message: str) -> None:
    """Leaves a traceback in shared memory: its length, then its end."""
    data = message.encode(errors="replace")[-(TEXT - 4) :]
    raw = len(data).to_bytes(4, "little") + data
    text[: len(raw)] = torch.frombuffer(bytearray(raw), dtype=torch.uint8)


def read_text(text: torch.Tensor) -> str:
    """What a worker left."""
    raw = bytes(text.numpy())
    return raw[4 : 4 + int.from_bytes(raw[:4], "little")].decode(errors="replace")


def _die_with_parent() -> None:
    """Has the kernel end this process with the one that forked it, which ends with the master.

    Where there is no such call the end of the orders' pipe does it, at the next look.
    """
    # The fork server lives while somebody holds this pipe; it gives its children a copy, for children of their own.
    server = forkserver._forkserver
    held = getattr(server, "_forkserver_alive_fd", None)
    if held is not None:
        os.close(held)
        setattr(server, "_forkserver_alive_fd", None)  # noqa: B010 -- a name that the type stubs do not know
    if sys.platform == "linux":
        parent = os.getppid()
        pr_set_pdeathsig = 1
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent or parent == 1:
            os._exit(1)
