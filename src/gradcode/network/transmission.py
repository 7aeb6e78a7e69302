"""Messages through an uplink: what a controller decides about data, told of replies of so many bytes."""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradcode.errors import GradcodeError
from gradcode.network.channel import Floats
from gradcode.network.radio import Controller, Slot

ENOUGH = 1e-9  # data units by which a message may be short of its size: rounding (two_stage.md, section 11)
_CHUNK = 256  # slots that are drawn at once
_SILENCE = 100_000  # slots in a row without anything served although somebody waits, after which nobody believes in it


@dataclass(frozen=True)
class Uplink:
    """What a cluster needs to send its replies through an uplink.

    Args:
        controller: decides; every run begins with a copy of it as it is.
        unit: bytes in one of its data units.

    Raises:
        ValueError: ``unit`` is not positive, or the controller runs systems side by side.
    """

    controller: Controller
    unit: float = 1000.0

    def __post_init__(self) -> None:
        if not 0 < self.unit < math.inf:
            raise ValueError(f"unit={self.unit} must be a positive number of bytes")
        shape = np.shape(self.controller.queues.data)
        if shape != (self.controller.radio.workers,):
            raise ValueError(f"controller={self.controller!r} has queues of shape {shape}: give it plain numbers")

    @property
    def workers(self) -> int:
        """N."""
        return self.controller.radio.workers

    def start(self, seed: int) -> Transmission:
        """A run with drawn gains and harvests, nothing under way; a slot begins at once."""
        return Transmission(self, seed)


@dataclass(frozen=True, eq=False)
class Traffic:
    """What passed through an uplink during an iteration, (N,) bytes of each worker.

    Args:
        slots: that began.
        offered: of the replies that became ready.
        admitted, served: went into the queues, and left them.
        withdrawn: of replies that nobody wanted any more, and that were not admitted yet.
        backlog: still in the queues at the end. Nobody waits for it, and yet it is sent: what is admitted is never
            lost.
    """

    slots: int
    offered: Floats
    admitted: Floats
    served: Floats
    withdrawn: Floats
    backlog: Floats


@dataclass(slots=True)
class _Message:
    """Data units of one reply; ``key`` None: nobody wants it any more, and it is as long as what was admitted."""

    key: int | None
    size: float
    admitted: float = 0.0
    served: float = 0.0


class Transmission:
    """The messages on their way, first in first out for each worker.

    A message lies in its worker's *reservoir* until it is admitted, at most A_max of it in a slot, then in the queue,
    and has arrived at the end of the slot in which all of it has been served. All times are in seconds since the start
    of the iteration; :meth:`end` begins the next one.

    Args:
        uplink: the controller and the size of its units.
        seed: of the gains and harvests, which are a function of it and the slot's number.
    """

    def __init__(self, uplink: Uplink, seed: int) -> None:
        self.controller, self.unit = copy.deepcopy(uplink.controller), uplink.unit
        self.radio = self.controller.radio
        self.boundary = 0.0  # when the slot that runs ends and the next one begins
        self._seed, self._number = seed, 0  # of the next slot
        self._chunk = -1
        self._drawn: tuple[Floats, Floats] = (np.zeros(0), np.zeros(0))
        self._messages: list[deque[_Message]] = [deque() for _ in range(self.radio.workers)]
        self._landing: list[int] = []
        self._silent = 0
        self._reset()

    def _reset(self) -> None:
        self._slots, self._sums = 0, np.zeros((4, self.radio.workers))  # offered, admitted, served, withdrawn

    # What a cluster does with it

    @property
    def landing(self) -> bool:
        """Whether something reaches the master when the slot that runs ends."""
        return bool(self._landing)

    @property
    def waiting(self) -> bool:
        """Whether anything that is wanted is on its way."""
        return any(message.key is not None for own in self._messages for message in own)

    def put(self, worker: int, key: int, size: int, now: float) -> None:
        """A reply of ``size`` bytes, known by ``key``, is ready at its worker; it takes part from the next slot on."""
        self._catch_up(now)
        self._messages[worker].append(_Message(key, size / self.unit))
        self._sums[0, worker] += size / self.unit

    def land(self) -> list[int]:
        """The keys of what has arrived with the slot that ends now, by worker."""
        landed, self._landing = self._landing, []
        return landed

    def begin(self) -> None:
        """The next slot begins.

        Raises:
            GradcodeError: nothing has been served for very long, though something waits.
        """
        offered = np.array([sum(own.size - own.admitted for own in messages) for messages in self._messages])
        gains, harvest = self._draw()
        flow = self.controller.step(Slot(np.minimum(offered, self.radio.offer_max), gains, harvest))
        # What is admitted in a slot is served in a later one.
        for worker in np.flatnonzero(flow.served > 0).tolist():
            self._spread(worker, float(flow.served[worker]), admitting=False)
        for worker in np.flatnonzero(flow.admitted > 0).tolist():
            self._spread(worker, float(flow.admitted[worker]), admitting=True)
        for messages in self._messages:
            while messages and messages[0].served >= messages[0].size - ENOUGH:
                key = messages.popleft().key
                if key is not None:
                    self._landing.append(key)
        self._sums[1] += flow.admitted
        self._sums[2] += flow.served
        self._slots, self._number, self.boundary = self._slots + 1, self._number + 1, self.boundary + self.radio.slot
        self._silent = 0 if flow.served.any() or not self.waiting else self._silent + 1
        if self._silent > _SILENCE:
            raise GradcodeError(
                f"the uplink has served nothing for {_SILENCE} slots though replies wait: {self.controller!r} may have "
                f"no energy left (harvest_max={self.radio.harvest_max}), or finds no power worth its while"
            )

    def withdraw(self, keys: Iterable[int]) -> None:
        """Nobody wants these any more: what is admitted of them is still sent, the rest is taken out."""
        gone = set(keys)
        self._landing = [key for key in self._landing if key not in gone]
        for worker, messages in enumerate(self._messages):
            for message in messages:
                if message.key in gone:
                    self._sums[3, worker] += message.size - message.admitted
                    message.key, message.size = None, message.admitted
            if gone:
                self._messages[worker] = deque(own for own in messages if own.key is not None or own.admitted > 0)

    def end(self, now: float) -> Traffic:
        """The iteration is over: nobody wants anything any more, and times are those of the next one."""
        self._landing = []
        self.withdraw([message.key for own in self._messages for message in own if message.key is not None])
        self._catch_up(now)
        self.boundary -= now
        backlog = np.array([sum(own.size - own.served for own in messages) for messages in self._messages])
        offered, admitted, served, withdrawn = self._sums * self.unit
        traffic = Traffic(self._slots, offered, admitted, served, withdrawn, backlog * self.unit)
        self._reset()
        return traffic

    def wait(self, seconds: float) -> None:
        """So much time passes between two iterations."""
        self.boundary -= seconds

    def state_dict(self) -> dict[str, Any]:
        """Between two iterations: everything that the next one depends on."""
        left = [sum(own.size - own.served for own in messages) for messages in self._messages]
        state = self.controller.state_dict()
        return {"controller": state, "number": self._number, "boundary": self.boundary, "left": left}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there."""
        self.controller.load_state_dict(state["controller"])
        self._number, self.boundary = state["number"], state["boundary"]
        self._messages = [deque([_Message(None, own, own)] if own > 0 else []) for own in state["left"]]

    # Slots

    def _catch_up(self, now: float) -> None:
        """Begins the slots before now, in which nothing that is wanted takes part.

        Once nothing is on its way and a slot changes nothing, all others up to now are passed over.
        """
        soon = now - ENOUGH * self.radio.slot
        while self.boundary < soon:
            idle = not any(self._messages)
            before = self.controller.state_dict() if idle else None
            self.begin()
            if idle and self.controller.state_dict() == before and self.boundary < soon:
                passed = math.ceil((soon - self.boundary) / self.radio.slot)
                self._number, self._slots = self._number + passed, self._slots + passed
                self.boundary += passed * self.radio.slot

    def _draw(self) -> tuple[Floats, Floats]:
        """Gains and harvest of the next slot."""
        chunk, row = divmod(self._number, _CHUNK)
        if chunk != self._chunk:
            rng, shape = np.random.default_rng([self._seed, chunk]), (_CHUNK, self.radio.workers)
            gains = self.radio.channel.sample(rng, shape)
            self._chunk, self._drawn = chunk, (gains, rng.random(shape) * self.radio.harvest_max)
        return self._drawn[0][row], self._drawn[1][row]

    def _spread(self, worker: int, amount: float, *, admitting: bool) -> None:
        """So much of a worker's messages is admitted, or served: the oldest first."""
        for message in self._messages[worker]:
            left = message.size - message.admitted if admitting else message.admitted - message.served
            part = min(amount, left)
            if admitting:
                message.admitted += part
            else:
                message.served += part
            amount -= part
            if amount <= 0:
                return
