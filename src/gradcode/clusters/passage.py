"""Replies on their way through an uplink, as every cluster has them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Generic, TypeVar

from gradcode.network import Transmission, Uplink
from gradcode.topology import Branch

T = TypeVar("T")


def checked(uplink: Uplink | None, topology: Branch) -> Uplink | None:
    """The uplink, if it fits the workers.

    Raises:
        ValueError: it is for another number of workers, or there are edge nodes.
    """
    workers = len(topology.workers)
    if uplink is not None and topology.edges:
        raise ValueError(
            "uplink goes with workers that the master speaks to itself, not with edge nodes: leave topology out, or "
            "describe the edge nodes' links with delays=Delays(..., edges=...)"
        )
    if uplink is not None and uplink.workers != workers:
        raise ValueError(f"uplink is for {uplink.workers} workers, and there are {workers}: make it for as many")
    return uplink


class Passage(Generic[T]):
    """What is on its way to a master in one iteration, by the slot of its order; without an uplink nothing ever is.

    Args:
        transmission: the uplink's queues, which outlive the iteration.
    """

    def __init__(self, transmission: Transmission | None) -> None:
        self._transmission = transmission
        self._under_way: dict[int, tuple[int, T]] = {}  # slot -> worker, what is to arrive

    def __contains__(self, slot: int) -> bool:
        return slot in self._under_way

    @property
    def there(self) -> bool:
        """Whether there is an uplink to pass."""
        return self._transmission is not None

    @property
    def due(self) -> float:
        """When the slot of the uplink that runs ends; inf where nobody waits for that."""
        if self._transmission is None or not self._under_way:
            return math.inf
        return self._transmission.boundary

    @property
    def landing(self) -> bool:
        """Whether something arrives then."""
        return self._transmission is not None and self._transmission.landing

    def put(self, thing: T, worker: int, slot: int, size: int, now: float) -> None:
        """A worker has an answer of ``size`` bytes ready."""
        assert self._transmission is not None
        self._under_way[slot] = worker, thing
        self._transmission.put(worker, slot, size, now)

    def land(self) -> list[T]:
        """What arrives at the end of the slot, which is now."""
        assert self._transmission is not None
        return [self._under_way.pop(slot)[1] for slot in self._transmission.land()]

    def begin(self) -> None:
        """The next slot begins."""
        assert self._transmission is not None
        self._transmission.begin()

    def withdraw(self, slots: Iterable[int]) -> None:
        """Nobody wants these any more."""
        gone = [slot for slot in slots if self._under_way.pop(slot, None) is not None]
        if gone and self._transmission is not None:
            self._transmission.withdraw(gone)

    def lose(self, worker: int) -> None:
        """A worker is gone, and with it what it had not brought over."""
        self.withdraw([slot for slot, (own, _) in self._under_way.items() if own == worker])
