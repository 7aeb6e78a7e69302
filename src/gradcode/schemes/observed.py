"""Coded schemes that learn, when an iteration ends, from when whose message came."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np

from gradcode.protocol import Action, Floats, Iteration, Reply
from gradcode.schemes.coded import Coded


class ObservedCoded(Coded):
    """Notes the times of the messages, and has them learned from; see :class:`Coded`."""

    _times: Floats
    """(N,) seconds at which each worker's message came in this iteration, NaN: it has not."""

    @abstractmethod
    def _learn(self, end: float) -> None:
        """The iteration has ended after ``end`` seconds."""

    def start(self, iteration: Iteration) -> Sequence[Action]:
        self._times = np.full(self.workers, np.nan)
        return super().start(iteration)

    def receive(self, reply: Reply) -> Sequence[Action]:
        self._times[reply.order.worker] = reply.time
        actions = super().receive(reply)
        self._learn_if_done()
        return actions

    def expire(self) -> Sequence[Action]:
        actions = super().expire()
        self._learn_if_done()
        return actions

    def _learn_if_done(self) -> None:
        if self.done:
            end = float(np.nanmax(self._times))
            self._learn(end if self.deadline is None or not self._late else max(end, self.deadline))
