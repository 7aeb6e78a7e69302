"""Workers as the master of a real cluster sees them, and what they have said."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from gradcode.clusters.post import Message, PlannedOrder, Record


class Hand(Protocol):
    """The master's side of one worker, whichever process it is at the moment."""

    worker: int
    ready: bool  # this process has said that it is ready
    gone: bool  # it is not started again
    deaths: int  # in a row, without a reply between them
    again: float  # when to start it again; 0: it runs
    heard: float  # when it last said anything, or was started

    @property
    def silent_since(self) -> float:
        """Since when it owes an answer and says nothing."""
        ...

    def post(self, orders: tuple[PlannedOrder, ...], message: Message) -> None:
        """Gives orders, now or when there is a process that can read them."""
        ...

    def kill(self) -> None:
        """Ends the process, be it running or stopped."""
        ...

    def forget(self) -> None:
        """Drops what belonged to a process that is dead or killed."""
        ...


class Arrival(NamedTuple):
    """A record that has come ``at`` a time of this process's monotonic clock, and what is needed for a reply."""

    hand: Hand
    record: Record
    at: float
    cargo: Any = None
