"""How master and worker processes of one machine talk: a pipe each way per worker, and nothing with a lock.

A dead or stopped process can hold nothing up. The master writes without blocking and leaves at most two messages
unread; later ones wait with it and are replaced by those of a newer serial, so a worker that is behind gets the
newest orders, never a queue of stale ones. Workers send short fixed records, each in one write.
"""

from __future__ import annotations

import os
import pickle
import select
import struct
from collections import deque
from multiprocessing import reduction
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gradcode.protocol import Block, Codec, Combination, Compare, Occasion, Order, Past, Version

UNREAD = 2
_LENGTH = struct.Struct("<I")
_RECORD = struct.Struct("<BxxxIqqdddddq")

READY, REPLY, ABANDONED, ERROR, MISSING, NOT_FINITE = range(6)


class Record(NamedTuple):
    """What a worker says: times are ``time.monotonic()``, which all processes of a machine share.

    ``sent`` is the number of payload bytes, −1 for none; ``computed`` and ``overruns`` count partitions since the
    worker's last record; ``change`` is the squared distance that the order wanted to know; ``clipped`` counts the
    coordinates that its codec clipped.
    """

    kind: int
    slot: int
    serial: int
    sent: int
    began: float
    ended: float
    computed: float
    overruns: float
    change: float = float("nan")
    clipped: int = 0

    def pack(self) -> bytes:
        return _RECORD.pack(*self)


class PlannedOrder(NamedTuple):
    """An order without its serial: what stays the same from one iteration to the next."""

    slot: int
    row: int
    combination: Combination
    block: Block | None
    codec: Codec | None
    hold: bool
    granted: tuple[int, ...]
    memory: int
    compare: Compare | None
    subtract: tuple[Past, ...]
    remember: Version | None
    at: Occasion | None

    @classmethod
    def of(cls, order: Order) -> PlannedOrder:
        return cls(
            order.slot,
            order.row,
            order.combination,
            order.block,
            order.codec,
            order.hold,
            order.granted,
            order.memory,
            order.compare,
            order.subtract,
            order.remember,
            order.at,
        )

    def order(self, worker: int, serial: int) -> Order:
        return Order(worker, serial, *self)


class Message(NamedTuple):
    """Orders for one worker, given at ``sent`` (``time.monotonic()``).

    ``orders`` are sent the first time only, then their number ``plan``. ``delays`` are the injected ones, per order:
    seconds per unit of load, per answer, and per byte of it; ``wait`` are the seconds before which nothing is begun.
    """

    serial: int
    number: int
    sent: float
    plan: int
    orders: tuple[PlannedOrder, ...] | None
    delays: tuple[tuple[float, float, float], ...]
    wait: float = 0.0


class Descriptor:
    """A file descriptor that a child process inherits when this is pickled for it."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __reduce__(self) -> tuple[Any, ...]:
        return _inherit, (reduction.DupFd(self.fd),)


def _inherit(duplicate: Any) -> Descriptor:
    return Descriptor(duplicate.detach())


class Plans:
    """Numbers what a worker has been told to do, so that it is told in full once only."""

    _MOST = 256

    def __init__(self) -> None:
        self._numbers: dict[tuple[PlannedOrder, ...], int] = {}
        self._given = 0

    def number(self, message: Message) -> Message:
        """The message with its plan's number; without the plan itself, if the worker knows it."""
        orders = message.orders
        assert orders is not None
        number = self._numbers.get(orders)
        if number is not None:
            return message._replace(plan=number, orders=None)
        if len(self._numbers) >= self._MOST:
            self._numbers.clear()
        # Numbers go round, so the worker keeps as many plans as the master does.
        number = self._numbers[orders] = self._given % (2 * self._MOST)
        self._given += 1
        return message._replace(plan=number)


class Outbox:
    """The master's end of the orders' pipe to one worker.

    Args:
        fd: the pipe, which becomes non-blocking.
        taken: (1,) shared counter of the messages that the worker has read.
    """

    def __init__(self, fd: int, taken: npt.NDArray[np.int64]) -> None:
        os.set_blocking(fd, False)
        self.fd, self._taken = fd, taken
        taken[0] = 0
        self._sent = 0
        self._plans = Plans()
        self._waiting: deque[Message] = deque()
        self._rest = b""

    @property
    def unread(self) -> int:
        """Messages that the worker has not read."""
        return self._sent - int(self._taken[0])

    @property
    def stuck(self) -> bool:
        """Whether a message is half written; it goes on when the pipe is writable."""
        return bool(self._rest)

    def send(self, orders: tuple[PlannedOrder, ...], message: Message) -> None:
        """Sends ``message`` about ``orders``, now or when the worker has read what it has."""
        while self._waiting and self._waiting[0].serial < message.serial:
            self._waiting.popleft()
        self._waiting.append(message._replace(orders=orders))
        self.flush()

    def flush(self) -> None:
        """Writes what may be written."""
        if self._rest:
            self._rest = self._write(self._rest)
        while self._waiting and not self._rest and self.unread < UNREAD:
            body = pickle.dumps(self._plans.number(self._waiting.popleft()), protocol=5)
            self._sent += 1
            self._rest = self._write(_LENGTH.pack(len(body)) + body)

    def _write(self, data: bytes) -> bytes:
        try:
            return data[os.write(self.fd, data) :]
        except BlockingIOError:
            return data
        except BrokenPipeError:
            return b""  # its death is noticed elsewhere

    def close(self) -> None:
        os.close(self.fd)


class Inbox:
    """The worker's end of the orders' pipe."""

    def __init__(self, fd: int, taken: npt.NDArray[np.int64]) -> None:
        self.fd, self._taken = fd, taken
        os.set_blocking(fd, False)
        self._data = bytearray()
        self._plans: dict[int, tuple[PlannedOrder, ...]] = {}
        self._messages: deque[Message] = deque()
        self.ended = False

    def wait(self, seconds: float | None) -> bool:
        """Waits for something to read, at most ``seconds`` (None: for ever), and takes it in."""
        if not self.ended and select.select([self.fd], [], [], seconds)[0]:
            self._pull()
            return True
        return False

    def next(self) -> Message | None:
        """The next message of the newest serial, waiting for one; None: the master is gone."""
        while not self._messages:
            if self.ended:
                return None
            self.wait(None)
        return self._messages.popleft()

    def orders(self, message: Message, worker: int) -> list[Order]:
        """The orders of a message."""
        return [planned.order(worker, message.serial) for planned in self._plans[message.plan]]

    def _pull(self) -> None:
        try:
            while data := os.read(self.fd, 1 << 20):
                self._data += data
            self.ended = True
        except BlockingIOError:
            pass
        while len(self._data) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(self._data)[0]
            if len(self._data) < end:
                return
            message: Message = pickle.loads(bytes(self._data[_LENGTH.size : end]))
            del self._data[:end]
            self._taken[0] += 1
            if message.orders is not None:
                self._plans[message.plan] = message.orders
            if not self._plans[message.plan]:
                continue  # it was only to wake up whoever waits
            while self._messages and self._messages[0].serial < message.serial:
                self._messages.popleft()
            self._messages.append(message)


class Records:
    """The master's end of a worker's records."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self._data = b""

    def read(self) -> list[Record]:
        """Every record that has come."""
        try:
            while data := os.read(self.fd, 1 << 16):
                self._data += data
        except BlockingIOError:
            pass
        whole = len(self._data) // _RECORD.size * _RECORD.size
        records = [Record(*fields) for fields in _RECORD.iter_unpack(self._data[:whole])]
        self._data = self._data[whole:]
        return records

    def close(self) -> None:
        os.close(self.fd)
