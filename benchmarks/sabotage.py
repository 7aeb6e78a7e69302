"""What goes wrong in a soak, see soak.py: a plan drawn from a seed, workers that keep to it, signals from outside."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from gradcode.clusters.worker import Answer, EndOfPartition, OrderBook
from gradcode.protocol import Floats, Order
from gradcode.training import ModelObjective

WATCHED, NAN, SHORT, EXCLUDED = 0, 3, 6, 5  # workers: one never killed, and those that send what is refused
SOUND, NOT_FINITE, TOO_SHORT = 0, 1, 2  # what a reply is planned to be
HEAD_START = 0.03  # seconds by which a reply to be refused comes before the others, so that the master looks at it
LONG_HEAD_START, AT_FIRST = 0.05, 10  # the same for the worker to be excluded, in so many iterations
MARGIN = 20  # iterations before that in which it is not killed: it would begin anew, with nothing held against it
APART = 10  # iterations at least from one refused reply to the next


# What is planned


class Disturbance(NamedTuple):
    """A disturbance from outside: ``seconds`` of being stopped, 0 for a kill; ``after`` seconds into the iteration."""

    worker: int
    after: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class Plan:
    """What goes wrong where: a function of the seed that master and workers share.

    Args:
        pauses: (iterations, workers) seconds that a worker sleeps within its computing.
        replies: (iterations, workers) :data:`SOUND`, :data:`NOT_FINITE` or :data:`TOO_SHORT`.
        signals: iteration -> what to send.
        delays: how many of the pauses are disturbances; the others are head starts.
        last: the iteration from which on one worker sends nothing but NaN.
    """

    pauses: Floats
    replies: np.ndarray[Any, np.dtype[np.int8]]
    signals: dict[int, Disturbance]
    delays: int
    last: int


def draw(iterations: int, workers: int, seed: int, kills: float) -> Plan:
    """Draws a plan; ``kills`` is their share of the disturbances, the rest being stops and delays in equal parts.

    Raises:
        ValueError: too few workers or iterations for everything to take place.
    """
    if workers <= max(NAN, SHORT, EXCLUDED) or iterations < 40:
        raise ValueError(f"workers={workers} and iterations={iterations} must be at least 7 and 40")
    rng = np.random.default_rng(seed)
    last = iterations - max(20, iterations // 20)
    pauses, replies = np.zeros((iterations, workers)), np.zeros((iterations, workers), np.int8)
    signals: dict[int, Disturbance] = {}
    delays, number = 0, 0
    while (number := number + int(rng.integers(2, 7))) < last:
        kind = rng.choice(["kill", "stop", "delay"], p=[kills, (1 - kills) / 2, (1 - kills) / 2])
        worker, seconds = int(rng.integers(workers)), float(rng.uniform(0.02, 0.2))
        if kind == "delay":
            pauses[number, worker] = seconds
            delays += 1
        else:
            signals[number] = Disturbance(worker, float(rng.uniform(0, 0.01)), 0.0 if kind == "kill" else seconds)
    number, culprits = 0, ((NAN, NOT_FINITE), (SHORT, TOO_SHORT))
    for turn in range(iterations):
        number += APART + int(rng.integers(APART))
        if number + 1 >= last:
            break
        worker, kind = culprits[turn % 2]
        replies[number, worker] = kind
        # In the next iteration again, so that its sound reply is looked at and refusals are never three in a row.
        others = np.arange(workers) != worker
        pauses[number : number + 2, others] = np.maximum(pauses[number : number + 2, others], HEAD_START)
    replies[last:, EXCLUDED] = NOT_FINITE
    pauses[last : last + AT_FIRST, np.arange(workers) != EXCLUDED] = LONG_HEAD_START
    return Plan(pauses, replies, signals, delays, last)


# What goes wrong inside workers


class Disturbed(ModelObjective):
    """A model objective whose workers, once bound, do what the plan says."""

    plan: Plan

    def bind(self, parameters: Tensor, buffers: Tensor, worker: int) -> None:
        super().bind(parameters, buffers, worker)
        self._worker, self._number = worker, -1
        if worker == SHORT:
            _shorten(self.plan)

    def accumulate(self, number: int, partition: int, coefficient: float, out: Tensor, first: bool) -> Floats:
        self._number = number
        if first:
            time.sleep(self.plan.pauses[number, self._worker])
        return super().accumulate(number, partition, coefficient, out, first)

    def finish(self, out: Tensor) -> None:
        super().finish(out)
        if self.plan.replies[self._number, self._worker] == NOT_FINITE:
            out[self._number % self.length] = float("nan")


def _shorten(plan: Plan) -> None:
    """Lets this process, a worker's, leave out the last coordinate of some answers."""
    whole = OrderBook.carry_out

    def carry_out(
        book: OrderBook, order: Order, number: int, end_of_partition: EndOfPartition, later: Collection[Order] = ()
    ) -> Answer | None:
        answer = whole(book, order, number, end_of_partition, later)
        if answer is None or answer.sent is None or plan.replies[number, book.worker] != TOO_SHORT:
            return answer
        return dataclasses.replace(answer, sent=answer.sent - book.rows.dtype.itemsize)

    OrderBook.carry_out = carry_out  # type: ignore[method-assign]


# What goes wrong from outside


class Saboteur:
    """Sends the planned signals to worker processes, from threads of its own, in the middle of iterations.

    A process is held by a descriptor, so that no signal ever reaches another one that was given its number.
    """

    def __init__(self, plan: Plan) -> None:
        self.sent: Counter[str] = Counter()
        self._due = sorted(plan.signals.items())
        self._last = plan.last
        self._timers: list[threading.Timer] = []

    def begin(self, number: int, cluster: Any) -> None:
        """Sends what is due in iteration ``number`` or was put off; where a worker is away, to the next one."""
        if not self._due or self._due[0][0] > number:
            return
        _, (worker, after, seconds) = self._due.pop(0)
        alive = cluster.alive()
        present = {own: pid for own, pid in enumerate(cluster.pids) if pid is not None and own in alive}
        if not seconds:
            spared = (WATCHED, EXCLUDED) if number >= self._last - MARGIN else (WATCHED,)
            present = {own: pid for own, pid in present.items() if own not in spared}
        chosen = min(present, key=lambda own: (own - worker) % cluster.workers, default=None)
        if chosen is None:
            return
        try:
            process = os.pidfd_open(present[chosen])
        except ProcessLookupError:
            return
        self._timers = [timer for timer in self._timers if timer.is_alive()]
        self._timers.append(threading.Timer(after, self._kill, (process,) if not seconds else (process, seconds)))
        self._timers[-1].start()

    def _kill(self, process: int, stopped: float = 0.0) -> None:
        try:
            signal.pidfd_send_signal(process, signal.SIGSTOP if stopped else signal.SIGKILL)
            self.sent["stop" if stopped else "kill"] += 1
            if stopped:
                time.sleep(stopped)
                signal.pidfd_send_signal(process, signal.SIGCONT)
        except ProcessLookupError:  # another signal was quicker
            pass
        finally:
            os.close(process)

    def wait(self) -> None:
        """Until every signal is sent, and whoever was stopped goes on."""
        for timer in self._timers:
            timer.join()
        self._timers.clear()
