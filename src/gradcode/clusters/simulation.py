"""Iterations under a virtual clock: a master's heap of events, and below it those of its edge nodes."""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Literal

import numpy as np

from gradcode.clusters.driver import Ledger, Wait, below, iterate, size_up
from gradcode.clusters.injected import Injected
from gradcode.clusters.passage import Passage
from gradcode.clusters.reception import Inbox
from gradcode.clusters.station import Station
from gradcode.clusters.worker import Answer, MissingError
from gradcode.errors import GradcodeError, NonFiniteLoss
from gradcode.protocol import Event, Expired, Failure, Iteration, Loss, Order, Reply, Scheme, Work
from gradcode.topology import Branch

_BELOW, _RECEIVED, _COMPUTED, _REPLY, _LANDED, _LOSS, _DEADLINE, _SLOT = range(-2, 6)
_NEVER = (np.inf, _DEADLINE)


@dataclass(slots=True)
class _Hand:
    """What one child is doing: times are seconds from the start of the training's iteration."""

    queue: deque[tuple[int, Order]] = field(default_factory=deque)  # (message, order)
    order: Order | None = None
    message: int = -1
    load: float = 0.0
    free: float = 0.0
    began: float = 0.0
    computed: float = 0.0
    pace: float = 0.0
    answer: Answer | None = None  # under way
    ticket: int = -1
    run: Run | None = None  # of an edge node that is at it


class Run:
    """One iteration of a station: the heap of its events, and the runs of its edge nodes.

    Args:
        station: whose.
        scheme: its rules.
        iteration: what they are told.
        day: seconds on the cluster's clock at which the training's iteration began.
        start: seconds after that at which this run begins.
    """

    def __init__(self, station: Station, scheme: Scheme, iteration: Iteration, day: float, start: float) -> None:
        world = station.world
        self.station, self.scheme, self.iteration, self.world = station, scheme, iteration, world
        self.day, self.start, self.now = day, start, start
        self.ledger = Ledger(
            len(station.books),
            iteration,
            world.source.statistics,
            scheme.layout.slots,
            station.standing,
            vector=world.parameters.numel() * world.parameters.element_size(),
            edges=any(station.nodes),
        )
        self.injected = Injected(world.table, iteration.number, station.branch, station.relayed, station.books[0])
        self.inbox = Inbox(self.injected.receive, self.ledger.open)
        self.passage: Passage[Reply] = Passage(world.uplink)
        since = day + start - station.ended
        self.hands = [_Hand(free=start + max(0.0, float(busy) - since)) for busy in station.busy]
        self.heap: list[tuple[float, int, int, int]] = []
        self.tickets = count()
        self.done = False
        self.error: GradcodeError | None = None
        self.sending = 0.0
        names = [
            child.edge + world.workers if isinstance(child, Branch) else child for child in station.branch.children
        ]
        for loss in world.losses:
            if loss.iteration == iteration.number and loss.worker in names and loss.time >= start:
                heapq.heappush(self.heap, (loss.time, _LOSS, names.index(loss.worker), next(self.tickets)))
        self._running: dict[int, Run] = {}  # edge nodes that are at work
        mine = world.on_shortfall if station.branch.edge < 0 else below(world.on_shortfall)
        self._driver = iterate(scheme, self.ledger, mine)

    def begin(self) -> None:
        """Gives the first orders."""
        began = time.monotonic()
        self._resume(None)
        self.sending = time.monotonic() - began

    # What happens next

    @property
    def due(self) -> tuple[float, int]:
        """When something happens here or below, and of which kind; ``inf``: never.

        At equal times edge nodes come first, then what is received, then messages that are ready to be sent, replies
        that come, losses, the deadline, and last a slot of the uplink, in which all that is ready by then takes part.
        """
        if self.done:
            return _NEVER
        while self.heap and self.heap[0][1] != _LOSS and self.hands[self.heap[0][2]].ticket != self.heap[0][3]:
            heapq.heappop(self.heap)  # abandoned, or lost with its child
        times = [(self.inbox.due, _RECEIVED), *(event[:2] for event in self.heap[:1])]
        if self._wait.deadline is not None:
            times.append((max(self.now, self.start + self._wait.deadline), _DEADLINE))
        if self._running:
            times.append((self._soonest()[0], _BELOW))
        times.append((max(self.now, self.passage.due), _LANDED if self.passage.landing else _SLOT))
        return min(times)

    def step(self) -> None:
        """Lets the next thing happen."""
        at, kind = self.due
        self.now = max(self.now, at)
        if kind == _BELOW:
            self._step_below(self._soonest()[1])
        elif kind == _DEADLINE:
            self._resume(Expired(self.now - self.start))
        elif kind == _LANDED:
            for reply in self.passage.land():
                self.inbox.put(reply, self.now)
        elif kind == _SLOT:
            self.passage.begin()
        elif kind != _RECEIVED:
            _, _, child, _ = heapq.heappop(self.heap)
            if kind == _COMPUTED:
                self._send(child)
            elif kind == _LOSS:
                self.inbox.put(self._lose(child), self.now)
            else:
                self._pass_on(self._finish(child))
        while not self.done and self.inbox.due <= self.now:
            event = self.inbox.take(self.now - self.start)
            self._resume(self.station.inspection.examine(event) if isinstance(event, Reply) else event)

    def stop(self) -> None:
        """Nobody needs this iteration any more: whoever is still at it is free, or will be."""
        for child, hand in enumerate(self.hands):
            if hand.order is not None:
                self._stop(child)
        self.done = True
        self.station.busy = np.array([max(0.0, hand.free - self.now) for hand in self.hands])
        self.station.ended = self.day + self.now

    def _soonest(self) -> tuple[float, int]:
        """When something happens below, and under which child."""
        return min((run.due[0], child) for child, run in self._running.items())

    def _resume(self, event: Event | None) -> None:
        try:
            self._wait: Wait = next(self._driver) if event is None else self._driver.send(event)
        except StopIteration:
            self.done = True
            self.stop()
            return
        self._abandon(self._wait.abandoned)
        for keep in self._wait.kept:
            self.station.keep(keep)
        self._give(self._wait.orders)

    # Orders

    def _give(self, orders: Sequence[Order]) -> None:
        self.injected.give(orders)
        message = next(self.tickets)
        for order in orders:
            if order.worker not in self.inbox.lost:  # else it is given when the driver has heard of the loss
                self.hands[order.worker].queue.append((message, order))
        for child in {order.worker for order in orders}:
            self._work_on(child)

    def _work_on(self, child: int) -> None:
        """Lets an idle child begin its next order."""
        hand = self.hands[child]
        if hand.order is not None or not hand.queue:
            return
        hand.message, order = hand.queue.popleft()
        hand.order, hand.pace = order, self.injected.pace(order)
        hand.began = max(self.now, hand.free, self.start + self.injected.wait(child))
        if self.station.nodes[child] is not None:
            self._begin_below(child, order)
            return
        book = self.station.books[child]
        book.begin(order.serial)
        later = [other for message, other in hand.queue if message == hand.message]
        hand.load = book.load(order, later)
        hand.computed = hand.began + (hand.load * hand.pace if hand.load else 0.0)
        open_ended = order.codec is not None or (order.compare is not None and order.compare.threshold is not None)
        if open_ended and self.injected.link(child)[1]:
            self._due_at(child, hand.computed, _COMPUTED)  # only the message itself says how long it is
        else:
            sent = None if order.hold else book.size(order)
            self._due_at(child, hand.computed + self.injected.message(child, sent))

    def _send(self, child: int) -> None:
        """A message is ready: its bytes say when it comes."""
        hand = self.hands[child]
        assert hand.order is not None
        answer, _ = self._carry_out(child, hand.order)
        hand.answer = answer
        self._due_at(child, self.now + self.injected.message(child, None if answer is None else answer.sent))

    def _due_at(self, child: int, at: float, kind: int = _REPLY) -> None:
        hand = self.hands[child]
        hand.ticket = next(self.tickets)
        if np.isfinite(at):
            heapq.heappush(self.heap, (at, kind, child, hand.ticket))

    def _finish(self, child: int) -> Reply | Failure:
        hand = self.hands[child]
        order = hand.order
        assert order is not None
        self.ledger.work.append(self._work(child, hand.began, hand.computed, "compute"))
        answer, message = self._answer(child, order)
        hand.order, hand.free, hand.run = None, self.now, None
        self._work_on(child)
        if answer is None:
            return message
        payload = self.station.books[child].payload(order, answer.sent)
        return Reply(order, payload, self.now - self.start, answer.statistics, answer.change, answer.clipped)

    def _pass_on(self, event: Reply | Failure) -> None:
        """What has come from a child is at the master, unless there is an uplink to pass."""
        if self.passage.there and isinstance(event, Reply):
            self.passage.put(event, event.order.worker, event.order.slot, size_up(event.payload), self.now)
        else:
            self.inbox.put(event, self.now)

    def _answer(self, child: int, order: Order) -> tuple[Answer | None, Failure]:
        hand, node = self.hands[child], self.station.nodes[child]
        if node is not None:
            assert hand.run is not None
            if hand.run.error is not None:
                kind: Literal["raised", "not finite"] = "raised"
                if isinstance(hand.run.error, NonFiniteLoss):
                    kind = "not finite"
                return None, Failure(child, self.now - self.start, str(hand.run.error), kind)
            station = self.station.below[child]
            assert station is not None
            return node.answer(order, hand.run.ledger, station.rows, self.station.rows[order.row]), _UNUSED
        self.ledger.computations += hand.load
        if hand.answer is not None:
            answer, hand.answer = hand.answer, None
            return answer, _UNUSED
        return self._carry_out(child, order)

    def _carry_out(self, child: int, order: Order) -> tuple[Answer | None, Failure]:
        hand, book = self.hands[child], self.station.books[child]
        later = [other for message, other in hand.queue if message == hand.message]
        try:
            return book.carry_out(order, self.iteration.number, _always, later), _UNUSED
        except MissingError as error:
            return None, Failure(child, self.now - self.start, str(error), "forgotten")

    # Edge nodes

    def _begin_below(self, child: int, order: Order) -> None:
        hand, node, station = self.hands[child], self.station.nodes[child], self.station.below[child]
        assert node is not None and station is not None
        iteration = node.iteration(
            order, self.iteration.number, self.iteration.sizes, station.alive(), station.away(self.day + hand.began)
        )
        hand.ticket = -1
        hand.run = self._running[child] = Run(station, node.scheme, iteration, self.day, hand.began)
        self._go_on_below(child, hand.run.begin)

    def _step_below(self, child: int) -> None:
        self._go_on_below(child, self._running[child].step)

    def _go_on_below(self, child: int, move: Callable[[], None]) -> None:
        """Lets an edge node go on; when it is done, its answer is under way."""
        hand, run = self.hands[child], self._running[child]
        try:
            move()
        except GradcodeError as error:
            run.error = error
            run.stop()
        if run.done:
            assert hand.order is not None
            self._count(child)
            hand.computed = run.now
            size = self.station.books[child].size(hand.order)
            self._due_at(child, hand.computed + self.injected.message(child, size))

    def _count(self, child: int) -> None:
        """An edge node has ended, and with it the computing of its workers."""
        self.ledger.computations += self._running.pop(child).ledger.computations

    def _stop_below(self, child: int) -> None:
        run = self._running.get(child)
        if run is not None:
            run.now = max(run.now, self.now)
            run.stop()
            self._count(child)

    # Endings

    def _lose(self, child: int) -> Loss:
        hand, station = self.hands[child], self.station
        hand.queue.clear()
        self.passage.lose(child)
        self._stop_below(child)
        hand.order, hand.run, hand.ticket, hand.free = None, None, -1, self.now + self.world.restart
        hand.answer = None
        station.back[child] = self.day + hand.free
        station.books[child].forget()
        lower = station.below[child]
        if lower is not None:
            lower.forget(self.day + hand.free)
        return Loss(child, self.now - self.start)

    def _abandon(self, slots: Sequence[int]) -> None:
        if not slots:
            return
        gone = set(slots)
        self.passage.withdraw(slots)
        for child, hand in enumerate(self.hands):
            hand.queue = deque(entry for entry in hand.queue if entry[1].slot not in gone)
            if hand.order is not None and hand.order.slot in gone:
                self._stop(child)
                self._work_on(child)

    def _stop(self, child: int) -> None:
        """Ends what a child is at because nobody wants it any more."""
        hand = self.hands[child]
        assert hand.order is not None
        self._stop_below(child)
        load, elapsed = (0.0 if hand.run is not None else hand.load), self.now - hand.began
        done = load if self.now >= hand.computed or not hand.pace else max(0.0, elapsed) // hand.pace
        hand.free = max(hand.free, self.now)
        # Nobody waits for ever for the end of a partition: what never ends is an injected sleep.
        if self.world.abandon == "partition" and done < load and elapsed > 0 and np.isfinite(hand.pace):
            done = min(load, done + 1)
            hand.free = hand.began + done * hand.pace
        if elapsed > 0:
            self.ledger.work.append(self._work(child, hand.began, hand.free, "abandon"))
            self.ledger.computations += done
        hand.order, hand.run, hand.answer, hand.ticket = None, None, None, -1

    def _work(self, child: int, began: float, ended: float, kind: str) -> Work:
        return Work(child, began - self.start, ended - self.start, kind)


_UNUSED = Failure(-1, 0.0, "")


def _always(order: Order, cost: float = 1.0) -> bool:
    return True
