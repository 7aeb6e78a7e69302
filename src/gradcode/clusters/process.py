"""A worker process of the local cluster."""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing import forkserver
from typing import Literal, NamedTuple

import numpy as np
import torch

from gradcode.clusters.arena import Arena, Parcel, Region, pack, unpack
from gradcode.clusters.post import ABANDONED, ERROR, MISSING, READY, REPLY, Descriptor, Inbox, Message, Record
from gradcode.clusters.worker import MissingGrantError, OrderBook
from gradcode.errors import GradcodeError
from gradcode.protocol import Layout, Order, Source

DelayMode = Literal["extra", "emulate"]
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


def packed(source: Source, layout: Layout, items: int, seed: int) -> Parcel:
    """The cargo in shared memory.

    Raises:
        GradcodeError: a part of it cannot be pickled.
    """
    try:
        return pack(Cargo(source, layout, items, seed))
    except (pickle.PicklingError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise GradcodeError(
            f"the model, the loss or the dataset cannot be sent to worker processes: {error}. Define classes and "
            f"functions at the top of a module (no lambdas, no local functions), and open files and connections "
            f"in the workers, not before"
        ) from error


def main(setup: Setup) -> None:
    """Runs until the master closes the orders' pipe or dies."""
    _die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the master, which closes the cluster
    _be_polite()
    _keep_memory()
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


class _Loop:
    """Takes messages, carries out their orders, and looks in between whether they are still wanted."""

    def __init__(self, setup: Setup, cargo: Cargo, arena: Arena) -> None:
        self.worker, self.emulate, self.records = setup.worker, setup.mode == "emulate", setup.records.fd
        self.wanted = arena["wanted"].numpy()
        self.text, self.statistics = arena["errors"][self.worker], arena["statistics"][self.worker].numpy()
        parameters = arena["parameters"]
        cargo.source.bind(parameters, arena["buffers"], self.worker)
        memory = arena["memory"] if cargo.layout.memory else None
        rows = arena["rows"][:, : cargo.items]
        self.book = OrderBook(self.worker, cargo.source, cargo.layout, rows, memory, cargo.seed, parameters)
        self.inbox = Inbox(setup.orders.fd, arena["taken"].numpy()[self.worker : self.worker + 1])
        self.counted = 0
        self.overruns = 0
        self.busy_until = 0.0  # end of the last work, real or injected
        self.due = self.began = 0.0  # on the way through the message at hand

    def run(self) -> None:
        now = time.monotonic()
        self._say(Record(READY, 0, -1, -1, now, now, 0, 0))
        while (message := self.inbox.next()) is not None:
            self._carry_out(message)

    def _carry_out(self, message: Message) -> None:
        orders = self.inbox.orders(message, self.worker)
        # Work begins when it is given to an idle worker, not when this process gets a core that others use too.
        self.due = max(message.sent, self.busy_until)
        said = False
        for index, order in enumerate(orders):
            self.began = self.due
            self.pace, self.transport = message.delays[index]
            said = self._one(order, message.number, orders[index + 1 :])
        if not said:
            self._record(ABANDONED, orders[-1].slot, message.serial, -1)

    def _one(self, order: Order, number: int, later: list[Order]) -> bool:
        """Carries out one order; whether the master has been told of it."""
        if not self._wanted(order):
            return False
        try:
            answer = self.book.carry_out(order, number, self._end_of_partition, later)
        except MissingGrantError as error:
            _leave(self.text, str(error))
            self._record(MISSING, order.slot, order.serial, -1)
            return True
        except Exception:
            # What an unwanted order raised may come of parameters in the middle of a step: nobody is told.
            if not self._wanted(order):
                return False
            _leave(self.text, traceback.format_exc())
            self._record(ERROR, order.slot, order.serial, -1)
            return True
        if answer is None or not self._delay(order, self.transport):
            return False
        for partition, values in zip(order.combination, answer.statistics, strict=False):
            self.statistics[partition] = values
        self._record(REPLY, order.slot, order.serial, -1 if answer.sent is None else answer.sent)
        return True

    def _wanted(self, order: Order) -> bool:
        return int(self.wanted[order.slot]) == order.serial

    def _end_of_partition(self, order: Order) -> bool:
        if self.emulate and self.pace:
            self.overruns += time.monotonic() > self.due + self.pace
        return self._delay(order, self.pace)

    def _delay(self, order: Order, seconds: float) -> bool:
        """An injected delay after real work; whether the order is still wanted at its end.

        ``emulate``: it ends at an absolute time, the end of the one before it plus ``seconds``, with the real work
        inside. ``extra``: it begins now.
        """
        now = self.busy_until = time.monotonic()
        if not seconds:
            self.due = max(self.due, now)
            return self._wanted(order)
        due = (self.due if self.emulate else now) + seconds
        if not self._wait_until(due, order):
            return False
        self.due = self.busy_until = due
        return True

    def _wait_until(self, due: float, order: Order) -> bool:
        """Sleeps; a message that comes wakes it up, for it may say that the order is no longer wanted."""
        while self._wanted(order):
            left = due - time.monotonic()
            if left <= 0:
                return True
            if self.inbox.ended:
                sys.exit(0)
            self.inbox.wait(None if np.isinf(left) else left)
        return False

    def _record(self, kind: int, slot: int, serial: int, sent: int) -> None:
        computed, self.counted = self.book.computed - self.counted, self.book.computed
        overruns, self.overruns = self.overruns, 0
        self._say(Record(kind, slot, serial, sent, self.began, time.monotonic(), computed, overruns))

    def _say(self, record: Record) -> None:
        try:
            os.write(self.records, record.pack())
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


def _be_polite() -> None:
    """Workers are batch work: one that wakes up does not push the master, who is giving out orders, off its core."""
    if hasattr(os, "SCHED_BATCH"):
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _keep_memory() -> None:
    """Has the C library keep the memory that autograd frees, for the next iteration.

    Large gradients are otherwise given back to the kernel after each backward pass and come again page by page, zeroed:
    a third of the time of a large layer with few samples. Where there is no glibc nothing changes.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        m_mmap_max, m_trim_threshold = -4, -1
        mallopt(m_mmap_max, 0)
        mallopt(m_trim_threshold, (1 << 31) - 1)


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
