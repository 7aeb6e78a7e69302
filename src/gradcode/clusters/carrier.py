"""How a worker in real time goes through its orders: injected delays, and a look in between whether they are wanted."""

from __future__ import annotations

import ctypes
import os
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from gradcode.clusters.injected import transport
from gradcode.clusters.post import ABANDONED, ERROR, MISSING, NOT_FINITE, REPLY, Message, Record
from gradcode.clusters.worker import Answer, MissingError, OrderBook
from gradcode.errors import GradcodeError, NonFiniteLoss
from gradcode.protocol import Order

DelayMode = Literal["extra", "emulate"]


class Told(NamedTuple):
    """What the master is to hear: a record, and with it an answer or a text."""

    record: Record
    answer: Answer | None = None
    text: str = ""


class Carrier(ABC):
    """Carries out messages, each with orders for one worker.

    Args:
        book: carries out one order.
        emulate: a partition ends at an absolute time with the real work inside; else its delay comes on top.
    """

    def __init__(self, book: OrderBook, emulate: bool) -> None:
        self.book, self.emulate = book, emulate
        self._counted = 0.0
        self.overruns = 0.0  # since the last record
        self._busy_until = 0.0  # end of the last work, real or injected
        self._due = self.began = 0.0  # on the way through the message at hand

    @abstractmethod
    def wanted(self, order: Order) -> bool:
        """Whether the master still waits for it."""

    @abstractmethod
    def sleep(self, seconds: float | None) -> None:
        """Waits so long (None: for ever), or until the master has said something."""

    def carry_out(self, message: Message, orders: list[Order], given: float) -> Iterator[Told]:
        """What comes of the orders, one thing at a time; at least one, and the last ends the message.

        ``given``: when the message was given, by this worker's clock. Work begins then, or after the message's wait, if
        the worker is idle, not when its process gets a core that others use too.
        """
        self._due = max(given, self._busy_until)
        if message.wait:
            self._due = max(self._due, given + message.wait)
            while any(self.wanted(order) for order in orders) and not self._slept_until(self._due):
                pass
        told = None
        for index, order in enumerate(orders):
            self.began = self._due
            self._pace, *link = message.delays[index]
            self._link = link[0], link[1]
            later = [other for other in orders[index + 1 :] if self.wanted(other)]
            told = self._one(order, message.number, later)
            if told is not None:
                yield told
        if told is None:
            yield Told(self._record(ABANDONED, orders[-1].slot, message.serial, -1))

    def _one(self, order: Order, number: int, later: list[Order]) -> Told | None:
        """Carries out one order; None: it is no longer wanted."""
        if not self.wanted(order):
            return None
        try:
            answer = self.book.carry_out(order, number, self._end_of_partition, later)
        except MissingError as error:
            return Told(self._record(MISSING, order.slot, order.serial, -1), text=str(error))
        except GradcodeError as error:  # of an edge node, whose iteration cannot end
            kind = NOT_FINITE if isinstance(error, NonFiniteLoss) else ERROR
            return Told(self._record(kind, order.slot, order.serial, -1), text=str(error))
        except Exception:
            # What an unwanted order raised may come of parameters in the middle of a step: nobody is told.
            if not self.wanted(order):
                return None
            return Told(self._record(ERROR, order.slot, order.serial, -1), text=traceback.format_exc())
        if answer is None or not self._delay(order, transport(self._link, answer.sent)):
            return None
        sent = -1 if answer.sent is None else answer.sent
        return Told(self._record(REPLY, order.slot, order.serial, sent, answer), answer)

    def _end_of_partition(self, order: Order, cost: float = 1.0) -> bool:
        seconds = self._pace * cost if cost else 0.0  # 0·inf is no delay
        if self.emulate and seconds:
            self.overruns += cost * (time.monotonic() > self._due + seconds)
        return self._delay(order, seconds)

    def _delay(self, order: Order, seconds: float) -> bool:
        """An injected delay after real work; whether the order is still wanted at its end.

        ``emulate``: it ends at an absolute time, the end of the one before it plus ``seconds``, with the real work
        inside. ``extra``: it begins now.
        """
        now = self._busy_until = time.monotonic()
        if not seconds:
            self._due = max(self._due, now)
            return self.wanted(order)
        due = (self._due if self.emulate else now) + seconds
        while self.wanted(order):
            if self._slept_until(due):
                self._due = self._busy_until = due
                return True
        return False

    def _slept_until(self, due: float) -> bool:
        """Whether it is ``due``; if not, waits until then or until the master has said something."""
        left = due - time.monotonic()
        if left > 0:
            self.sleep(None if np.isinf(left) else left)
        return left <= 0

    def _record(self, kind: int, slot: int, serial: int, sent: int, answer: Answer | None = None) -> Record:
        computed, self._counted = self.book.computed - self._counted, self.book.computed
        overruns, self.overruns = self.overruns, 0.0
        now = time.monotonic()
        record = Record(kind, slot, serial, sent, min(self.began, now), now, computed, overruns)
        return record if answer is None else record._replace(change=answer.change, clipped=answer.clipped)


def be_polite() -> None:
    """Workers are batch work: one that wakes up does not push the master, who is giving out orders, off its core."""
    if hasattr(os, "SCHED_BATCH"):
        for thread in Path("/proc/self/task").iterdir():  # those that there are already, of Ray for instance
            with suppress(OSError):
                os.sched_setscheduler(int(thread.name), os.SCHED_BATCH, os.sched_param(0))


def keep_memory() -> None:
    """Has the C library keep the memory that autograd frees, for the next iteration.

    Large gradients are otherwise given back to the kernel after each backward pass and come again page by page, zeroed:
    a third of the time of a large layer with few samples. Where there is no glibc nothing changes.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        m_mmap_max, m_trim_threshold = -4, -1
        mallopt(m_mmap_max, 0)
        mallopt(m_trim_threshold, (1 << 31) - 1)
