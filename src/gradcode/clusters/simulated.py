"""A cluster under a virtual clock: real gradients, drawn times, hundreds of workers on one machine."""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from gradcode.clusters.driver import ON_SHORTFALL, Ledger, OnShortfall, Wait, iterate
from gradcode.clusters.injected import Injected, delay_table
from gradcode.clusters.inspection import Inspection
from gradcode.clusters.once import Once
from gradcode.clusters.worker import MissingError, OrderBook, SharedMemories
from gradcode.delays import Delays, DelayTable
from gradcode.delays.law import Source as DelaySource
from gradcode.errors import GradcodeError, Shortfall
from gradcode.protocol import (
    Event,
    Expired,
    Failure,
    Iteration,
    Layout,
    Loss,
    Order,
    Outcome,
    Reply,
    Scheme,
    Source,
    Work,
)
from gradcode.training.seeding import preserved


class ScriptedLoss(NamedTuple):
    """A worker dies ``time`` seconds into an iteration (counted from 0)."""

    iteration: int
    worker: int
    time: float


@dataclass(slots=True)
class _Hand:
    """What one simulated worker is doing: times are seconds from the iteration's start."""

    queue: deque[tuple[int, Order]] = field(default_factory=deque)  # (message, order)
    order: Order | None = None
    message: int = -1
    load: int = 0
    free: float = 0.0
    began: float = 0.0
    computed: float = 0.0
    pace: float = 0.0
    ticket: int = -1


class SimulatedCluster:
    """Carries out orders under a virtual clock, events in order of time, ties broken by worker index.

    Gradients are real; each partition's is computed once per iteration, however many workers hold it. A worker does
    its orders one after the other; an order of m partitions takes m times its compute delay and then the time of
    its message.

    Args:
        workers: N.
        delays: how long work takes: anything of :mod:`gradcode.delays`, or a recorded or scripted ``DelayTable``.
            None: everything is instant.
        abandon: ``"instant"``: a worker whose work is no longer wanted is free at once; ``"partition"``: it first
            ends the partition it is at, as real clusters do.
        losses: workers that die, and when.
        restart: seconds after which a lost worker is back.
        on_shortfall: ``"wait"``, ``"approximate"`` or ``"raise"`` when too few workers are left.
        seed: of the drawn delays; None: the session's.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        workers: int,
        delays: Delays | DelaySource | DelayTable | None = None,
        *,
        abandon: Literal["instant", "partition"] = "instant",
        losses: Sequence[Sequence[float]] = (),
        restart: float = 0.0,
        on_shortfall: OnShortfall = "wait",
        seed: int | None = None,
    ) -> None:
        if workers < 1:
            raise ValueError(f"workers={workers} must be at least 1")
        if abandon not in ("instant", "partition"):
            raise ValueError(f'abandon={abandon!r} must be "instant" or "partition"')
        if on_shortfall not in ON_SHORTFALL:
            raise ValueError(f"on_shortfall={on_shortfall!r} must be one of {', '.join(ON_SHORTFALL)}")
        self.workers = workers
        self.on_shortfall = on_shortfall
        self._delays, self._seed = delays, seed
        self._abandon, self._restart = abandon, restart
        self._losses = [_scripted(loss, workers) for loss in losses]
        self._now = 0.0
        self._table: DelayTable | None = None
        self._books: list[OrderBook] = []
        self._owners: dict[int, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def open(self, source: Source, layout: Layout, seed: int, like: Tensor, reply_dtype: torch.dtype) -> None:
        """See :class:`gradcode.protocol.Cluster`.

        Raises:
            GradcodeError: the cluster is open already.
        """
        if self._books:
            raise GradcodeError("this SimulatedCluster is in use already: give every session a cluster of its own")
        self._owners = {}
        self._source = Once(source.copy())
        self._layout = layout
        self.parameters = like.new_zeros(source.length)
        self.buffers = torch.zeros(source.buffers, dtype=torch.float64)
        items, pitch = layout.row_shape(source.length, reply_dtype.itemsize)
        row_dtype = reply_dtype if layout.codec is None else torch.uint8
        self.rows = torch.zeros(layout.rows, pitch, dtype=row_dtype)[:, :items]
        self._memory = like.new_zeros(layout.memory, 2, source.length) if layout.memory else None
        self._source.bind(self.parameters, self.buffers, 0)
        memories = None if self._memory is None else SharedMemories(self._memory)
        self._books = [
            OrderBook(worker, self._source, layout, self.rows, memories, seed, like) for worker in range(self.workers)
        ]
        self._table = delay_table(self._delays, self.workers, seed if self._seed is None else self._seed)
        self._busy = np.zeros(self.workers)
        self._back = np.zeros(self.workers)  # when those that were lost have been started again
        self._inspection = Inspection(self._books[0])

    @property
    def memory(self) -> Tensor | None:
        return self._memory

    def alive(self) -> tuple[int, ...]:
        return tuple(worker for worker in range(self.workers) if worker not in self._inspection.excluded)

    def away(self) -> tuple[int, ...]:
        return tuple(worker for worker in self.alive() if self._back[worker] > self._now)

    def clock(self) -> float:
        return self._now

    def close(self) -> None:
        self._books, self._table = [], None

    def state_dict(self) -> dict[str, Any]:
        """The memories, and how long workers are still busy with what nobody wants (``abandon="partition"``)."""
        return {"memory": self._memory, "busy": self._busy.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self._memory is not None:
            self._memory.copy_(state["memory"])
        self._busy = np.array(state.get("busy", np.zeros(self.workers)), dtype=np.float64)

    def run(self, scheme: Scheme, iteration: Iteration) -> Outcome:
        """One iteration; see :class:`gradcode.protocol.Cluster`.

        What a worker's own code raises is raised as it is, with its traceback.

        Raises:
            GradcodeError: the cluster is not open.
            Shortfall: the iteration can never end.
        """
        if not self._books:
            raise GradcodeError("this SimulatedCluster is closed: open a new one")
        with preserved():  # workers seed the generators that the master's own code draws from
            self._source.renew()
            self._source.prepare(iteration.number)
            return _Run(self, scheme, iteration).to_its_end()


class _Run:
    """One iteration of a simulated cluster: the heap of events, and what every worker is doing."""

    def __init__(self, cluster: SimulatedCluster, scheme: Scheme, iteration: Iteration) -> None:
        self.cluster, self.scheme, self.iteration = cluster, scheme, iteration
        self.ledger = Ledger(
            cluster.workers, iteration, cluster._source.statistics, scheme.layout.slots, cluster._owners
        )
        self.injected = Injected(cluster._table, iteration.number, cluster.workers, cluster._books[0])
        self.hands = [_Hand(free=float(busy)) for busy in cluster._busy]
        self.heap: list[tuple[float, int, int, int, Loss | None]] = []
        self.tickets = count()
        self.now = self.sending = 0.0
        for loss in cluster._losses:
            if loss.iteration == iteration.number:
                event = Loss(loss.worker, loss.time)
                heapq.heappush(self.heap, (loss.time, 1, loss.worker, next(self.tickets), event))

    def to_its_end(self) -> Outcome:
        driver = iterate(self.scheme, self.ledger, self.cluster.on_shortfall)
        event: Event | None = None
        began = time.monotonic()
        try:
            while True:
                wait = next(driver) if event is None else driver.send(event)
                if event is None:
                    self.sending = time.monotonic() - began
                self._abandon(wait.abandoned)
                self._give(wait.orders)
                event = self._next(wait)
        except StopIteration:
            pass
        return self._end()

    def _give(self, orders: Sequence[Order]) -> None:
        self.injected.give(orders)
        message = next(self.tickets)
        for order in orders:
            self.hands[order.worker].queue.append((message, order))
        for worker in {order.worker for order in orders}:
            self._work_on(worker)

    def _work_on(self, worker: int) -> None:
        """Lets an idle worker begin its next order."""
        hand = self.hands[worker]
        if hand.order is not None or not hand.queue:
            return
        hand.message, order = hand.queue.popleft()
        book = self.cluster._books[worker]
        book.begin(order.serial)
        hand.order, hand.pace = order, self.injected.pace(order)
        hand.began = max(self.now, hand.free)
        hand.load = book.load(order)
        hand.computed = hand.began + (hand.load * hand.pace if hand.load else 0.0)
        finish = hand.computed + self.injected.message(order)
        hand.ticket = next(self.tickets)
        if np.isfinite(finish):
            heapq.heappush(self.heap, (finish, 0, worker, hand.ticket, None))

    def _next(self, wait: Wait) -> Event:
        while self.heap:
            at, kind, worker, ticket, loss = self.heap[0]
            if wait.deadline is not None and at > wait.deadline:
                break
            heapq.heappop(self.heap)
            if kind == 0 and self.hands[worker].ticket != ticket:
                continue  # abandoned, or lost with its worker
            self.now = at
            if loss is not None:
                hand = self.hands[worker]
                hand.queue.clear()
                hand.order, hand.ticket, hand.free = None, -1, at + self.cluster._restart
                self.cluster._back[worker] = self.cluster._now + hand.free
                self.cluster._books[worker].forget()
                return loss
            return self._finish(worker)
        if wait.deadline is not None:
            self.now = max(self.now, wait.deadline)
            return Expired(self.now)
        raise Shortfall(
            f"iteration {self.iteration.number} never ends: {self.scheme!r} has replies of workers "
            f"{sorted(self.ledger.heard)} and waits for workers that never answer (infinite delay); "
            f"give the scheme a deadline or a higher tolerance"
        )

    def _finish(self, worker: int) -> Reply | Failure:
        hand = self.hands[worker]
        order = hand.order
        assert order is not None
        book = self.cluster._books[worker]
        later = [other for message, other in hand.queue if message == hand.message]
        try:
            answer = book.carry_out(order, self.iteration.number, _always, later)
        except MissingError as error:
            answer, message = None, str(error)
        self.ledger.computations += hand.load
        self.ledger.work.append(Work(worker, hand.began, hand.computed, "compute"))
        hand.order, hand.free = None, self.now
        self._work_on(worker)
        if answer is None:
            return Failure(worker, self.now, message)
        reply = Reply(order, book.payload(order, answer.sent), self.now, answer.statistics)
        return self.cluster._inspection.examine(reply)

    def _abandon(self, slots: Sequence[int]) -> None:
        if not slots:
            return
        gone = set(slots)
        for worker, hand in enumerate(self.hands):
            hand.queue = deque(entry for entry in hand.queue if entry[1].slot not in gone)
            if hand.order is not None and hand.order.slot in gone:
                self._stop(worker)
                self._work_on(worker)

    def _stop(self, worker: int) -> None:
        """Ends what a worker is at because nobody wants it any more."""
        hand = self.hands[worker]
        assert hand.order is not None
        load, elapsed = hand.load, max(0.0, self.now - hand.began)
        done = load if self.now >= hand.computed or not hand.pace else int(elapsed // hand.pace)
        hand.free = max(hand.free, self.now)
        # Nobody waits for ever for the end of a partition: what never ends is an injected sleep.
        if self.cluster._abandon == "partition" and done < load and elapsed > 0 and np.isfinite(hand.pace):
            done += 1
            hand.free = hand.began + done * hand.pace
        if elapsed > 0:
            self.ledger.work.append(Work(worker, hand.began, hand.free, "abandon"))
            self.ledger.computations += done
        hand.order, hand.ticket = None, -1

    def _end(self) -> Outcome:
        for worker, hand in enumerate(self.hands):
            if hand.order is not None:
                self._stop(worker)
        self.cluster._busy = np.array([max(0.0, hand.free - self.now) for hand in self.hands])
        self.cluster._now += self.now
        size = self.cluster.parameters.numel() * self.cluster.parameters.element_size()
        self.ledger.bytes_down += size * len(self.ledger.asked)
        return self.ledger.outcome(
            self.now, self.sending, time.monotonic(), self.injected.compute, self.injected.communicate
        )


def _always(order: Order) -> bool:
    return True


def _scripted(loss: Sequence[float], workers: int) -> ScriptedLoss:
    """A scripted loss as a user may write it.

    Raises:
        ValueError: it is not (iteration, worker, seconds).
    """
    if len(loss) != 3 or loss[0] != int(loss[0]) or loss[1] not in range(workers) or not loss[2] >= 0:
        raise ValueError(
            f"losses: {tuple(loss)} must be (iteration, worker, seconds), the worker from 0 to {workers - 1}"
        )
    return ScriptedLoss(int(loss[0]), int(loss[1]), float(loss[2]))
