"""Gradient coding with loads in proportion to the speeds that workers show.

Source: the code is the heterogeneity-aware one of Wang et al. 2019 (gradient_codes.md 2.8, RECONSTRUCTED there). That
its speeds are observed, and when it is formed anew, is ours.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from gradcode import codes
from gradcode.codes import checks
from gradcode.codes.code import Indices
from gradcode.codes.heterogeneous import proportional_loads
from gradcode.delays import SpeedHistory
from gradcode.errors import GradcodeWarning
from gradcode.protocol import Action, Floats, Iteration
from gradcode.schemes.observed import ObservedCoded
from gradcode.schemes.registry import scheme

# Within how many times the others' time a message that nobody waited for would have come, as far as is known.
_LATE = 2.0
# A worker that is gone: too slow for a partition, whatever the others are.
_GONE = 1e-12


class Heterogeneous(ObservedCoded):
    """Forms the code anew when workers left or came, or everybody would be done earlier with other loads.

    Earlier by more than ``gain`` of the time, as the speeds are known. Without stragglers all are then done at about
    the same time, and it takes a worker that is slower than it mostly is to make a straggler.

    A worker's speed is its load over the time at which its message came, the way of the message included, as a running
    mean (:class:`gradcode.delays.SpeedHistory`). A message that is not waited for is taken to need twice the time: a
    worker that is late again and again gets less and less, until its messages come and show how fast it is. Who is slow
    keeps a partition, or nobody would see that it has become faster; who is gone gets none, and counts no more among
    the stragglers that the code stands. Every worker must be able to read all data.

    Before anything is known all speeds are alike. Where the code of new loads is refused, for a rounding error above
    its limit, the one that there is stays, and a GradcodeWarning says so once.

    Args:
        workers: N.
        stragglers: s, of whom any may be slow or lost in an iteration.
        partitions: K; None: 4·N. The more, the finer the loads.
        deadline: seconds after which the least squares of what has come are taken; None: none.
        gain: by what share of it the predicted time of the last worker must fall, in [0, 1).
        weight: of the newest time in a worker's speed.

    Raises:
        ValueError: an argument is out of its range, or K(s + 1) leaves nothing to apportion.

    >>> Heterogeneous(workers=4, stragglers=1)
    heterogeneous(workers=4, stragglers=1, partitions=16)
    """

    def __init__(
        self,
        workers: int,
        stragglers: int = 1,
        partitions: int | None = None,
        deadline: float | None = None,
        *,
        gain: float = 0.1,
        weight: float = 0.1,
    ) -> None:
        workers = checks.integer("workers", workers, 1)
        self.stragglers = checks.integer("stragglers", stragglers, 0, workers - 1, f"there are {workers} workers")
        count = 4 * workers if partitions is None else checks.integer("partitions", partitions, 1)
        if count * (stragglers + 1) <= workers and workers > 1:
            raise ValueError(
                f"partitions={count} on {workers} workers leave nothing to apportion: take several for each worker"
            )
        if not 0 <= gain < 1:
            raise ValueError(f"gain={gain!r} must be at least 0 and below 1: by how much an iteration must be shorter")
        self.gain = gain
        self.history = SpeedHistory(workers, weight)
        self._refused = False
        self._speeds = np.ones(workers)  # that the present code is made for
        super().__init__(codes.heterogeneous(self._speeds, count, self.stragglers), deadline)

    def __repr__(self) -> str:
        deadline = "" if self.deadline is None else f", deadline={self.deadline}"
        size = f"workers={self.workers}, stragglers={self.stragglers}, partitions={self.partitions}"
        return f"heterogeneous({size}{deadline})"

    @property
    def loads(self) -> Indices:
        """(N,) partitions of each worker, in this iteration or the last one."""
        return self._loads.astype(np.int64)

    # One iteration

    def start(self, iteration: Iteration) -> Sequence[Action]:
        self._apportion(set(iteration.workers))
        return super().start(iteration)

    def _learn(self, end: float) -> None:
        """How fast everybody is."""
        assert self._iteration is not None
        for worker in self._iteration.workers:
            if np.isnan(self._times[worker]):
                self.history.unfinished(worker, self._loads[worker], _LATE * end)
            else:
                self.history.finished(worker, self._loads[worker], self._times[worker])

    def _apportion(self, there: set[int]) -> None:
        """Takes the code for the speeds of now, if that is worth it."""
        speeds = self.history.speeds
        present = np.isin(np.arange(self.workers), list(there))
        total = self.partitions * (self.stragglers + 1)
        if total > self.workers:
            # With this much everybody's quota is a partition at least, however many are lifted to it.
            speeds = np.maximum(speeds, speeds.sum() / (total - self.workers))
        speeds = np.where(present, speeds, _GONE * speeds.max())
        loads = proportional_loads(speeds, self.partitions, self.stragglers)
        left = (self._loads > loads)[~present].any() or (loads > self._loads)[self._loads == 0].any()
        if left or (loads / speeds).max() < (1 - self.gain) * (self._loads / speeds).max():
            self._use(speeds)

    def _use(self, speeds: Floats) -> None:
        try:
            code = codes.heterogeneous(speeds, self.partitions, self.stragglers)
        except ValueError as error:
            if not self._refused:
                self._refused = True
                warnings.warn(f"{self!r} keeps its loads: {error}", GradcodeWarning, stacklevel=2)
            return
        self._speeds = speeds
        super().__init__(code, self.deadline)

    # Beyond an iteration

    def state_dict(self) -> dict[str, Any]:
        """The speeds that were seen, and those that the code is made for."""
        return {"history": self.history.state_dict(), "speeds": self._speeds.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Knows what another knew.

        Raises:
            ValueError: the state is not that of this scheme.
        """
        if len(state.get("speeds", ())) != self.workers:
            raise ValueError(f"the state is not that of {self!r}: it has {sorted(state)}")
        self.history.load_state_dict(state["history"])
        self._use(np.array(state["speeds"]))


@scheme(
    "heterogeneous",
    summary="rows of a code whose loads follow the speeds that workers show; any s may straggle",
    trade_off="nobody waits for steadily slower machines; all must be able to read all data",
)
def heterogeneous(
    workers: int,
    stragglers: int = 1,
    partitions: int | None = None,
    deadline: float | None = None,
    *,
    gain: float = 0.1,
    weight: float = 0.1,
) -> Heterogeneous:
    """Gradient coding with loads by observed speed; see :class:`Heterogeneous` for the arguments.

    Raises:
        ValueError: an argument is out of its range.
    """
    return Heterogeneous(workers, stragglers, partitions, deadline, gain=gain, weight=weight)
