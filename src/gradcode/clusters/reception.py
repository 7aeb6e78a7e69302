"""A master that takes some time to receive each reply, one after the other."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Container
from dataclasses import replace

from gradcode.protocol import Failure, Loss, Reply


class Reception:
    """When replies are received: each takes ``seconds``, in the order in which they came.

    Args:
        seconds: per reply.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._free = -math.inf
        self._ends: dict[int, float] = {}  # slot -> when its reply is received

    def end(self, slot: int, came: float) -> float:
        """When the next reply, that to the order of ``slot``, is received; asked again, the same.

        It is the next one once those that came before are received, or nobody waits for them any more.
        """
        if slot not in self._ends:
            self._free = self._ends[slot] = max(came, self._free) + self.seconds
        return self._ends[slot]


class Inbox:
    """What has come to a master under a virtual clock: it is told in that order, of replies once they are received.

    A reply that nobody waits for any more is not received, unless that has begun.

    Args:
        seconds: per reply.
        wanted: the slots that somebody waits for, kept up to date by others.
    """

    def __init__(self, seconds: float, wanted: Container[int]) -> None:
        self.lost: set[int] = set()  # workers whose loss has not been told
        self._reception, self._wanted = Reception(seconds), wanted
        self._events: deque[tuple[float, Reply | Failure | Loss]] = deque()

    def put(self, event: Reply | Failure | Loss, now: float) -> None:
        """Something has come."""
        self._events.append((now, event))
        if isinstance(event, Loss):
            self.lost.add(event.worker)

    @property
    def due(self) -> float:
        """When the first event can be taken; inf: there is none."""
        while self._events:
            came, event = self._events[0]
            if not isinstance(event, Reply):
                return came
            if event.order.slot in self._wanted:
                return self._reception.end(event.order.slot, came)
            self._events.popleft()
        return math.inf

    def take(self, time: float) -> Reply | Failure | Loss:
        """The first event, which is due; ``time``: now, in seconds since the iteration's start."""
        _, event = self._events.popleft()
        if isinstance(event, Loss):
            self.lost.discard(event.worker)
        return replace(event, time=time) if isinstance(event, Reply) else event
