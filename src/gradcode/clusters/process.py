"""A worker process of the local cluster."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from multiprocessing import forkserver
from typing import NamedTuple

import torch

from gradcode.clusters.arena import Arena, Parcel, Region, unpack
from gradcode.clusters.carrier import Carrier, DelayMode, be_polite, keep_memory
from gradcode.clusters.post import ERROR, READY, Descriptor, Inbox, Record
from gradcode.clusters.worker import OrderBook, SharedMemories
from gradcode.protocol import Layout, Order, Source

TEXT = 1 << 14  # bytes kept of a worker's traceback


class Setup(NamedTuple):
    """All that a worker process is given."""

    worker: int
    regions: Mapping[str, Region]
    arena: Descriptor
    parcel: Parcel
    parcel_fd: Descriptor
    orders: Descriptor
    records: Descriptor
    mode: DelayMode
    threads: int


class Cargo(NamedTuple):
    """What all workers share, packed once; ``items`` is the length of a row."""

    source: Source
    layout: Layout
    items: int
    seed: int


def main(setup: Setup) -> None:
    """Runs until the master closes the orders' pipe or dies."""
    _die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the master, which closes the cluster
    be_polite()
    keep_memory()
    torch.set_num_threads(setup.threads)
    arena = Arena(setup.regions, setup.arena.fd)
    text = arena["errors"][setup.worker]
    try:
        cargo: Cargo = unpack(setup.parcel._replace(fd=setup.parcel_fd.fd))
        loop = _Loop(setup, cargo, arena)
    except BaseException:
        _leave(text, traceback.format_exc())
        now = time.monotonic()
        os.write(setup.records.fd, Record(ERROR, 0, -1, -1, now, now, 0, 0).pack())
        return
    loop.run()


class _Loop(Carrier):
    """Takes messages from the pipe and says what comes of them."""

    def __init__(self, setup: Setup, cargo: Cargo, arena: Arena) -> None:
        worker, parameters = setup.worker, arena["parameters"]
        cargo.source.bind(parameters, arena["buffers"], worker)
        memory = SharedMemories(arena["memory"]) if cargo.layout.memory else None
        rows = arena["rows"][:, : cargo.items]
        book = OrderBook(worker, cargo.source, cargo.layout, rows, memory, cargo.seed, parameters)
        super().__init__(book, setup.mode == "emulate")
        self._worker, self._records = worker, setup.records.fd
        self._wanted = arena["wanted"].numpy()
        self._text, self._statistics = arena["errors"][worker], arena["statistics"][worker].numpy()
        self._inbox = Inbox(setup.orders.fd, arena["taken"].numpy()[worker : worker + 1])

    def run(self) -> None:
        now = time.monotonic()
        self._say(Record(READY, 0, -1, -1, now, now, 0, 0))
        while (message := self._inbox.next()) is not None:
            for told in self.carry_out(message, self._inbox.orders(message, self._worker), message.sent):
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
    held = getattr(forkserver._forkserver, "_forkserver_alive_fd", None)
    if held is not None:
        os.close(held)
    if sys.platform == "linux":
        parent = os.getppid()
        pr_set_pdeathsig = 1
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent or parent == 1:
            os._exit(1)
