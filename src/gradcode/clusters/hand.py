"""The master's side of one worker process: its pipes, its death, and what waits for it."""

from __future__ import annotations

import os
import selectors
import time
from collections.abc import Callable
from multiprocessing.context import ForkContext, ForkServerContext
from multiprocessing.process import BaseProcess
from typing import Literal

import numpy as np
import numpy.typing as npt

from gradcode.clusters.post import Descriptor, Message, Outbox, PlannedOrder, Record, Records
from gradcode.clusters.process import Setup
from gradcode.errors import WorkerError

Occasion = Literal["orders", "records", "death"]
"""What a selector's key means: an order's pipe has room, records have come, the process has ended."""


class Hand:
    """One worker, whichever process it is at the moment.

    Args:
        worker: its index.
        selector: watches the pipes and the end of the process; keys carry (hand, occasion).
        taken: (1,) shared counter of the messages that the process has read.
    """

    def __init__(self, worker: int, selector: selectors.BaseSelector, taken: npt.NDArray[np.int64]) -> None:
        self.worker = worker
        self.ready = False  # this process has said that it is ready
        self.gone = False  # it is not started again
        self.deaths = 0  # in a row, without a reply between them
        self.again = 0.0  # when to start it again; 0: it runs
        self.heard = 0.0  # when it last said anything, or was started
        self._asked = 0.0  # when it was first given work after that
        self._selector, self._taken = selector, taken
        self._process: BaseProcess | None = None
        self._outbox: Outbox | None = None
        self._records: Records | None = None
        self._death = -1
        self._writing = False
        self._held_back: list[tuple[tuple[PlannedOrder, ...], Message]] = []

    @property
    def pid(self) -> int | None:
        """The process, None while there is none."""
        return None if self._process is None else self._process.pid

    @property
    def descriptors(self) -> tuple[int, ...]:
        """This side's ends of the pipes, and what tells of the process's end."""
        ends = [end.fd for end in (self._outbox, self._records) if end is not None]
        return (*ends, self._death) if self._death >= 0 else tuple(ends)

    @property
    def silent_since(self) -> float:
        """Since when it owes an answer and says nothing."""
        return max(self.heard, self._asked)

    @property
    def unread(self) -> int:
        """Messages that lie unread in the pipe."""
        return 0 if self._outbox is None else self._outbox.unread

    def start(
        self,
        context: ForkServerContext | ForkContext,
        main: Callable[[Setup], None],
        name: str,
        setup: Callable[[Descriptor, Descriptor], Setup],
    ) -> None:
        """Starts a process that runs ``main``; it takes its time, and orders wait in its pipe.

        Raises:
            WorkerError: the fork server is gone.
        """
        orders_in, orders_out = os.pipe()
        records_in, records_out = os.pipe()
        self._outbox, self._records = Outbox(orders_out, self._taken), Records(records_in)
        try:
            arguments = (setup(Descriptor(orders_in), Descriptor(records_out)),)
            child = context.Process(target=main, args=arguments, name=name, daemon=True)
            child.start()
        except (EOFError, ConnectionError):
            self.forget()
            raise WorkerError(
                "the fork server ended before it could start a worker: protect the main module of your script with "
                'if __name__ == "__main__":'
            ) from None
        finally:
            os.close(orders_in)
            os.close(records_out)
        self._process = child
        self._death = _death_of(child)
        self._selector.register(records_in, selectors.EVENT_READ, (self, "records"))
        self._selector.register(self._death, selectors.EVENT_READ, (self, "death"))
        self.ready, self.again, self.heard = False, 0.0, time.monotonic()
        waiting, self._held_back = self._held_back, []
        for orders, message in waiting:
            self.post(orders, message)

    def post(self, orders: tuple[PlannedOrder, ...], message: Message) -> None:
        """Gives orders, now or when there is a process that can read them."""
        if self._outbox is None:
            self._held_back = [held for held in self._held_back if held[1].serial == message.serial]
            self._held_back.append((orders, message))
        else:
            if self._asked <= self.heard:
                self._asked = message.sent
            self._outbox.send(orders, message)
            self._watch_writing()

    def flush(self) -> None:
        """Writes what has been waiting for room in the pipe."""
        if self._outbox is not None:
            self._outbox.flush()
            self._watch_writing()

    def read(self) -> list[Record]:
        """Every record that has come."""
        return [] if self._records is None else self._records.read()

    def kill(self) -> None:
        """Sends SIGKILL, which also ends a stopped process; a worker owns nothing that would need tidying up."""
        if self._process is not None:
            self._process.kill()

    def forget(self) -> None:
        """Waits for the end of a process that is dead or killed, and closes its pipes."""
        # Each thing is forgotten before it is closed: an interruption in between must not close it twice.
        self.ready = self._writing = False
        process, self._process = self._process, None
        ends: list[Outbox | Records] = [end for end in (self._outbox, self._records) if end is not None]
        self._outbox = self._records = None
        death, self._death = self._death, -1
        if process is not None:
            process.join()
        for descriptor in (death, *(end.fd for end in ends)):
            if descriptor >= 0 and descriptor in self._selector.get_map():
                self._selector.unregister(descriptor)
        for end in ends:
            end.close()
        if process is not None:
            if death not in (-1, process.sentinel):
                os.close(death)
            process.close()

    def _watch_writing(self) -> None:
        """A half-written message goes on as soon as its pipe has room."""
        assert self._outbox is not None
        if self._outbox.stuck and not self._writing:
            self._selector.register(self._outbox.fd, selectors.EVENT_WRITE, (self, "orders"))
        elif self._writing and not self._outbox.stuck:
            self._selector.unregister(self._outbox.fd)
        self._writing = self._outbox.stuck


def _death_of(child: BaseProcess) -> int:
    """A descriptor that becomes readable when the process ends.

    A pidfd where there is one: the end of a pipe, which serves elsewhere, may have been inherited by others.
    """
    if hasattr(os, "pidfd_open") and child.pid is not None:
        try:
            return os.pidfd_open(child.pid)
        except OSError:  # it is gone already, or the kernel forbids it
            pass
    return child.sentinel
