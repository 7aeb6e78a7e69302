"""The master's side of one actor: its calls that are under way, and what waits for it."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, NamedTuple

from gradcode.clusters.post import REPLY, Message, PlannedOrder, Plans
from gradcode.clusters.ray_actor import Ready, Said, Setup
from gradcode.clusters.ray_connection import ray
from gradcode.clusters.roster import Arrival
from gradcode.protocol import Version

UNFINISHED = 2  # messages at most that an actor is given before it has ended one


@dataclass(eq=False, slots=True)
class Call:
    """A message that an actor has been given, and how many answers to it are to come."""

    message: Message
    left: int


class News(NamedTuple):
    """Something that has come from an actor, in the order of coming.

    ``call``: what it answers; None: the actor says that it can begin. ``value`` may be an exception. ``payload``: the
    object that holds the answer's payload, wherever it is. ``at``: when it came, by this process's monotonic clock.
    """

    hand: RayHand
    actor: Any
    call: Call | None
    value: Any
    payload: Any
    at: float


class Mail:
    """Takes what comes from Ray's threads to the master's, which is woken up when it is worth it."""

    def __init__(self) -> None:
        self._come: list[News | Arrival] = []
        self._enough, self._urgent = 1, False
        self._changed = threading.Condition()

    def put(self, thing: News | Arrival, urgent: bool) -> None:
        with self._changed:
            self._come.append(thing)
            self._urgent = self._urgent or urgent
            if self._urgent or len(self._come) >= self._enough:
                self._changed.notify()

    def wake(self) -> None:
        """Has whoever waits look around, though nothing has come."""
        with self._changed:
            self._urgent = True
            self._changed.notify()

    def take(self, seconds: float | None, enough: int) -> list[News | Arrival]:
        """All that has come, after waiting until it is ``enough`` or urgent, at most ``seconds`` (None: for ever)."""
        with self._changed:
            self._enough = enough
            self._changed.wait_for(lambda: self._urgent or len(self._come) >= enough, seconds)
            come, self._come, self._urgent = self._come, [], False
        return come


class RayHand:
    """One worker, whichever actor it is at the moment.

    Args:
        worker: its index.
        cluster: names the cluster to the actor.
        parameters: what the workers read in this iteration, in the object store.
        mail: takes what comes.
        edge: it is an edge node, which passes the parameters on as the object they are in.
        kept: the objects in which what the master keeps is, by entry.
    """

    def __init__(
        self,
        worker: int,
        cluster: str,
        parameters: Callable[[], Any],
        mail: Mail,
        edge: bool,
        kept: Mapping[int, Any],
    ) -> None:
        self.worker = worker
        self.ready = False
        self.gone = False
        self.deaths = 0
        self.again = 0.0
        self.heard = 0.0
        self.started = 0.0  # when the actor was asked for
        self.pid: int | None = None
        self.node: str | None = None
        self.actor: Any = None
        self.loading = False  # an actor is asked for and has not said that it can begin
        self.calls: list[Call] = []
        self.reason = ""  # of the last death
        self.late = False  # in getting ready, and said to be
        self._cluster, self._parameters, self._mail, self.edge = cluster, parameters, mail, edge
        self._kept = kept
        self._asked = 0.0
        self._plans = Plans()
        self._waiting: deque[tuple[tuple[PlannedOrder, ...], Message]] = deque()
        self._unwanted: set[int] = set()  # slots of the iteration that runs
        self._offset = 0.0  # of the actor's clock

    @property
    def silent_since(self) -> float:
        """Since when it owes an answer and says nothing."""
        return max(self.heard, self._asked)

    def start(self, actor: Any, setup: Setup, source: Any) -> None:
        """Lets ``actor`` be this worker from now on; it takes its time, and orders wait."""
        self.actor, self.loading = actor, True
        self._plans = Plans()
        self._await(actor.load.remote(setup, [source]), None, None)
        self.ready, self.again, self.heard = False, 0.0, time.monotonic()
        self.started = self.heard

    def is_ready(self, said: Ready, machine: str) -> None:
        """The actor can begin."""
        self.ready, self.loading, self.pid, self.node = True, False, said.pid, said.node
        self.late = False
        self.heard = time.monotonic()
        self._offset = 0.0 if said.machine == machine else math.inf
        self.flush()

    def post(self, orders: tuple[PlannedOrder, ...], message: Message) -> None:
        """Gives orders, now or when the actor has ended what it has; never a queue of stale ones."""
        while self._waiting and self._waiting[0][1].serial < message.serial:
            self._waiting.popleft()
        self._waiting.append((orders, message))
        self.flush()

    def flush(self) -> None:
        """Gives what has been waiting, as far as the actor may have it."""
        while self._waiting and self.ready and len(self.calls) < UNFINISHED:
            orders, message = self._waiting.popleft()
            wanted = [index for index, own in enumerate(orders) if own.slot not in self._unwanted]
            if wanted:
                self._call(
                    message._replace(
                        orders=tuple(orders[index] for index in wanted),
                        delays=tuple(message.delays[index] for index in wanted),
                        settled=tuple(message.settled[index] for index in wanted) if message.settled else (),
                    )
                )

    def _call(self, message: Message) -> None:
        assert message.orders is not None
        if self._asked <= self.heard:
            self._asked = time.monotonic()
        call = Call(message, len(message.orders))
        self.calls.append(call)
        parameters = [self._parameters()] if self.edge else self._parameters()
        needs: set[Version] = set().union(*(own.order(self.worker, message.serial).needs for own in message.orders))
        kept = [(version, self._kept[version.entry]) for version in sorted(needs)]
        record, payload = self.actor.carry_out.remote(parameters, self._plans.number(message), kept)
        self._await(record, call, payload)
        for _ in message.orders[1:]:
            record, payload = self.actor.carry_on.remote()
            self._await(record, call, payload)

    def _await(self, record: Any, call: Call | None, payload: Any) -> None:
        """Has what ``record`` will hold put among the news, as soon as it is there."""
        actor = self.actor

        def came(future: Future[Any]) -> None:
            error = future.exception()
            value = future.result() if error is None else error
            # An answer alone can wait for others; but not if the actor then gets what it has waited for.
            usual = isinstance(value, Said) and value.record.kind == REPLY and not self._waiting
            self._mail.put(News(self, actor, call, value, payload, time.monotonic()), urgent=not usual)

        record.future().add_done_callback(came)

    def over(self, serial: int) -> None:
        """The iteration of ``serial`` is over: its orders need not be begun, nor ended."""
        self._waiting.clear()
        self._unwanted.clear()
        if any(call.message.serial == serial for call in self.calls):
            self.actor.over.remote(self._cluster, serial)

    def abandon(self, serial: int, slots: Collection[int]) -> None:
        """Nobody needs these slots of the iteration any more."""
        self._unwanted.update(slots)
        mine = {
            order.slot for call in self.calls if call.message.serial == serial for order in call.message.orders or ()
        }
        if not mine.isdisjoint(slots):
            self.actor.abandon.remote(self._cluster, serial, tuple(mine.intersection(slots)))

    def take(self, news: News) -> Arrival | None:
        """What its worker says in answer to a call; None: there was nothing more to say."""
        assert news.call is not None
        self.end(news.call)
        return None if news.value is None else self._arrival(news.value, news)

    def end(self, call: Call) -> None:
        """One answer to the call has come; with the last the actor may have the next message."""
        call.left -= 1
        if not call.left:
            self.calls.remove(call)
            self.flush()

    def _arrival(self, said: Said, news: News) -> Arrival:
        """What was said, in times of the master's clock.

        The clock of another machine is ahead by what a call seems to take on its way, less what it takes at least: the
        least that was ever seen is taken for the clock.
        """
        if self._offset:
            assert news.call is not None
            self._offset = min(self._offset, said.started - news.call.message.sent)
        began, ended = said.record.began - self._offset, said.record.ended - self._offset
        record = said.record._replace(began=began, ended=ended)
        return Arrival(self, record, news.at, (news.payload, said.statistics, said.text))

    def kill(self) -> None:
        """Ends the actor, be it running or stopped."""
        if self.actor is not None:
            ray.kill(self.actor)

    def forget(self) -> None:
        """Drops an actor that is dead or killed, and its calls."""
        self.ready = False
        self.actor = self.pid = self.node = None
        self.loading = False
        self.calls = []
        self._waiting.clear()  # what is still open is given again
