"""What clusters of real processes share: an iteration in real time, injected delays, lost and silent workers."""

from __future__ import annotations

import math
import time
import warnings
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor

from gradcode.clusters.carrier import DelayMode
from gradcode.clusters.driver import NOTICE_BYTES, ON_SHORTFALL, Ledger, OnShortfall, Standing, Wait, iterate
from gradcode.clusters.edge import check_edges
from gradcode.clusters.injected import Injected, delay_table
from gradcode.clusters.inspection import STRIKES, Inspection
from gradcode.clusters.passage import Passage, checked
from gradcode.clusters.post import ABANDONED, MISSING, NOT_FINITE, READY, REPLY, Message, PlannedOrder, Record
from gradcode.clusters.reception import Reception
from gradcode.clusters.roster import Arrival, Hand
from gradcode.clusters.worker import OrderBook
from gradcode.delays import Delays, DelayTable
from gradcode.delays.law import Source as DelaySource
from gradcode.errors import GradcodeError, GradcodeWarning, Shortfall
from gradcode.network import Traffic, Transmission, Uplink
from gradcode.protocol import (
    Event,
    Expired,
    Failure,
    Iteration,
    Keep,
    Layout,
    Loss,
    Order,
    Outcome,
    Reply,
    Scheme,
    Source,
    Work,
)
from gradcode.topology import Branch, tree

_LONGEST_PAUSE = 30.0  # seconds
_LONGEST_WAIT = 3600.0  # seconds: more than that the kernel's timers may not take


def unsendable(reason: object) -> GradcodeError:
    """What to say when the session's parts cannot be pickled."""
    return GradcodeError(
        f"the model, the loss or the dataset cannot be sent to worker processes: {reason}. Define classes and "
        f"functions at the top of a module (no lambdas, no local functions), and open files and connections "
        f"in the workers, not before"
    )


class _UnwantedError(Exception):
    """The parent of this edge node does not want its answer any more."""


class RealTimeCluster(ABC):
    """A cluster whose clock is the real one; see the arguments of its kinds."""

    parameters: Tensor
    buffers: Tensor
    rows: Tensor

    def __init__(
        self,
        workers: int | None,
        topology: Sequence[Any] | None,
        delays: Delays | DelaySource | DelayTable | None,
        delay_mode: DelayMode,
        threads: int,
        on_shortfall: OnShortfall,
        patience: float | None,
        uplink: Uplink | None,
        seed: int | None,
    ) -> None:
        self.topology = tree(workers, topology)
        if delay_mode not in ("extra", "emulate"):
            raise ValueError(f'delay_mode={delay_mode!r} must be "extra" or "emulate"')
        if threads < 1:
            raise ValueError(f"threads={threads} must be at least 1")
        if on_shortfall not in ON_SHORTFALL:
            raise ValueError(f"on_shortfall={on_shortfall!r} must be one of {', '.join(ON_SHORTFALL)}")
        if patience is not None and not patience > 0:
            raise ValueError(f"patience={patience} must be a positive number of seconds, or None")
        self.workers, self.threads = len(self.topology.workers), threads
        self._branch = self.topology  # who the master's children are
        self.on_shortfall, self.patience = on_shortfall, patience
        self._delays, self._mode, self._seed = delays, delay_mode, seed
        self.uplink = checked(uplink, self.topology)
        self.traffic: Traffic | None = None
        self._transmission: Transmission | None = None
        self._passage: Passage[Arrival] = Passage(None)  # of the iteration that runs
        self._start_time = self._ended = 0.0  # when it started, and when the last one ended
        self._hands: Sequence[Hand] = ()
        self._queue: deque[Arrival | Loss | Failure] = deque()
        self._shown: set[tuple[int, str]] = set()
        self._opened = time.monotonic()
        self._up = False  # every worker has been ready once
        self._serial = -1  # of the iteration that runs; −1: none
        self._open_orders: dict[int, Order] = {}
        self._between_iterations: list[tuple[int, Record]] = []
        self._lost_between: set[int] = set()  # workers that died, of which no scheme was told
        self._standing = Standing()
        self._wanted_above: Callable[[], bool] = lambda: True  # an edge node's: whether its parent still waits

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    @abstractmethod
    def memory(self) -> Tensor | None:
        """See :class:`gradcode.protocol.Cluster`."""

    @property
    @abstractmethod
    def _is_open(self) -> bool: ...

    @abstractmethod
    def _open(
        self,
        source: Source,
        layout: Layout,
        seed: int,
        like: Tensor,
        reply_dtype: torch.dtype,
        inner: Sequence[Scheme | None],
    ) -> None:
        """Starts the children and waits until they are ready."""

    @abstractmethod
    def close(self) -> None:
        """Ends every worker, running or stopped, and leaves nothing behind. May be called twice."""

    @abstractmethod
    def _start(self, hand: Hand) -> None:
        """Starts a worker, for the first time or again."""

    @abstractmethod
    def _spent(self, hand: Hand) -> bool:
        """Whether a worker that has died is not to be started again."""

    @abstractmethod
    def _listen(self, seconds: float | None, awaits: int) -> tuple[list[Arrival], list[Hand]]:
        """Waits at most ``seconds`` (None: for ever); what has come, and who is dead, after all it has said.

        Answers may be held back until there are ``awaits`` of them, for none before that one is the last.
        """

    @abstractmethod
    def _answer(self, arrival: Arrival, order: Order, time: float) -> Reply | Failure | None:
        """The reply that has come, examined; None: it will come again when it is here."""

    @abstractmethod
    def _why(self, arrival: Arrival) -> str:
        """The text that a worker left with an error."""

    @abstractmethod
    def _keep(self, keep: Keep) -> None:
        """Keeps it for the workers."""

    @abstractmethod
    def _kept(self) -> tuple[Tensor, Tensor]:
        """(kept, length) and (kept, buffers): all that is kept."""

    @abstractmethod
    def _want(self, orders: Sequence[Order]) -> None:
        """These orders are wanted from now on."""

    @abstractmethod
    def _unwant(self, slots: Sequence[int]) -> None:
        """Tells workers that nobody needs these slots any more."""

    @abstractmethod
    def _over(self) -> None:
        """Tells workers that the iteration is over."""

    @property
    def _edges(self) -> tuple[int, ...]:
        """Children that are edge nodes."""
        return tuple(child for child, own in enumerate(self._branch.children) if isinstance(own, Branch))

    def alive(self) -> tuple[int, ...]:
        if self._is_open and self._serial < 0:
            self._between()  # deaths since the last iteration are seen before the next one is planned
        return tuple(hand.worker for hand in self._hands if not hand.gone)

    def away(self) -> tuple[int, ...]:
        return tuple(hand.worker for hand in self._hands if not hand.gone and not hand.ready)

    def clock(self) -> float:
        return time.monotonic() - self._opened

    def state_dict(self) -> dict[str, Any]:
        """The workers' memories and what is kept for them; real time leaves nothing else to restore."""
        memory = self.memory
        kept = tuple(own.clone() for own in self._kept())
        return {"memory": None if memory is None else memory.clone(), "kept": kept}

    def open(
        self,
        source: Source,
        layout: Layout,
        seed: int,
        like: Tensor,
        reply_dtype: torch.dtype,
        inner: Sequence[Scheme | None] = (),
    ) -> None:
        """Starts the workers and waits until they are ready; see :class:`gradcode.protocol.Cluster`.

        Raises:
            GradcodeError: the cluster is open already, or something cannot be sent to the workers.
            WorkerError: a worker could not start.
        """
        if self._is_open:
            raise GradcodeError(
                f"this {type(self).__name__} is in use already: give every session a cluster of its own"
            )
        check_edges(layout, inner)
        self._branch = self.topology if any(inner) else self.topology.flat
        try:
            self._table = self._make_table(seed if self._seed is None else self._seed)
            self._source, self._ended = source, time.monotonic()
            if self.uplink is not None:
                self._transmission = self.uplink.start(seed if self._seed is None else self._seed)
            self._standing = Standing()
            self._open(source, layout, seed, like, reply_dtype, inner)
        except BaseException:
            self.close()
            raise
        self._up = True
        self._opened = time.monotonic()

    def _make_table(self, seed: int) -> DelayTable | None:
        """The delays of the whole cluster."""
        return delay_table(self._delays, self.topology, seed)

    def _examine_with(self, book: OrderBook) -> None:
        """``book`` knows the sizes of answers and where they lie."""
        self._book, self._inspection = book, Inspection(book, self._edges)

    # One iteration

    def run(self, scheme: Scheme, iteration: Iteration) -> Outcome:
        """One iteration; see :class:`gradcode.protocol.Cluster`.

        Raises:
            GradcodeError: the cluster is not open.
            WorkerError: workers raised and the iteration cannot end without them.
            Shortfall: too few workers are left.
            NonFiniteLoss: it cannot end without replies that hold NaN or infinity.
        """
        if not self._is_open:
            raise GradcodeError(f"this {type(self).__name__} is closed: open a new one")
        self._between()
        self._carry(scheme, iteration, time.monotonic())
        now = time.monotonic() - self._start_time
        self._show_failures()
        self._exclude()
        return self._ledger.outcome(now, self._ordered, self._last, *self._injected.known)

    def serve(self, scheme: Scheme, iteration: Iteration, given: float, wanted: Callable[[], bool]) -> bool:
        """An edge node's iteration, which its parent has ``given``; False: it is no longer ``wanted``.

        Raises:
            WorkerError, Shortfall, NonFiniteLoss: as :meth:`run`.
        """
        self._between()
        self._wanted_above = wanted
        try:
            self._carry(scheme, iteration, given)
        except _UnwantedError:
            return False
        finally:
            self._show_failures()
            self._exclude()
        return True

    @property
    def ledger(self) -> Ledger:
        """What is known of the last iteration."""
        return self._ledger

    def _carry(self, scheme: Scheme, iteration: Iteration, start: float) -> None:
        self._start_time = start
        self._serial, self._number = iteration.serial, iteration.number
        self._ledger = Ledger(
            len(self._hands),
            iteration,
            self._source.statistics,
            scheme.layout.slots,
            self._standing,
            vector=self._source.length * self._source.itemsize,
            edges=bool(self._edges),
        )
        self._ledger.lost |= self._lost_between
        self._lost_between.clear()
        for worker, record in self._between_iterations:
            self._book_work(worker, record, False)
        self._between_iterations.clear()
        relayed = self._branch.edge < 0 and not self._edges
        self._injected = Injected(self._table, iteration.number, self._branch, relayed, self._book)
        self._reception = Reception(self._injected.receive)
        self._passage = Passage(self._transmission)
        if self._transmission is not None:
            self._transmission.wait(start - self._ended)
        self._ordered, self._last = 0.0, self._start_time
        driver = iterate(scheme, self._ledger, self.on_shortfall)
        event: Event | None = None
        try:
            while True:
                wait = next(driver) if event is None else driver.send(event)
                # Injected delays begin with the parent's order, however long it took to come here.
                self._give(wait, start if event is None else time.monotonic())
                if event is None:
                    self._ordered = time.monotonic() - self._start_time
                event = self._next(wait)
        except StopIteration:
            pass
        finally:
            # Before the optimizer writes: whoever reads its parameters in place reads torn ones from now on.
            self._over()
            self._serial, self._open_orders = -1, {}
            self._ended, self._passage = time.monotonic(), Passage(None)
            if self._transmission is not None:
                self.traffic = self._transmission.end(self._ended - self._start_time)

    def _between(self) -> None:
        """Takes in what happened since the last iteration: late records, deaths, workers due to start again."""
        self._lost_between |= {event.worker for event in self._queue if isinstance(event, Loss)}
        self._queue.clear()
        self._poll(0.0)

    def _give(self, wait: Wait, now: float) -> None:
        """Says what is not wanted any more, then gives the new orders, one message per worker."""
        if wait.abandoned:
            self._unwant(wait.abandoned)
            self._passage.withdraw(wait.abandoned)
        for keep in wait.kept:
            self._keep(keep)
        self._injected.give(wait.orders)
        orders: dict[int, list[Order]] = {}
        # A worker whose loss the scheme has yet to hear of gets its open orders, these among them, after that.
        lost = {event.worker for event in self._queue if isinstance(event, Loss)}
        for order in wait.orders:
            if order.worker not in lost:
                orders.setdefault(order.worker, []).append(order)
        self._want([order for mine in orders.values() for order in mine])
        # Everything is made ready first: a worker that has its orders may want the core that the master is on.
        ready = [
            (
                self._hands[worker],
                tuple(PlannedOrder.of(order) for order in mine),
                tuple((self._injected.pace(order), *self._injected.link(worker)) for order in mine),
            )
            for worker, mine in orders.items()
        ]
        for hand, planned, delays in ready:
            pause = max(0.0, self._start_time + self._injected.wait(hand.worker) - now)
            hand.post(planned, Message(self._serial, self._number, now, 0, None, delays, pause))

    def _next(self, wait: Wait) -> Event:
        self._open_orders = dict(wait.open)
        while True:
            while self._queue and self._receive(self._queue[0], wait.deadline):
                event = self._open_up(self._queue.popleft())
                if event is not None:
                    return event
            if not self._wanted_above():
                raise _UnwantedError
            now = time.monotonic() - self._start_time
            if wait.deadline is not None and now >= wait.deadline:
                self._poll(0.0)  # at equal times replies come before the deadline
                if not self._queue or not self._receive(self._queue[0], wait.deadline):
                    return Expired(now)
                continue
            if wait.shortfall and not any(hand.again for hand in self._hands):
                raise Shortfall(
                    f"iteration {self._number} cannot be finished: workers {sorted(self._ledger.heard)} answered and "
                    f"nothing is under way"
                )
            # Whoever receives replies one after the other, or slot by slot, does not wait for several.
            awaits = 1 if self._reception.seconds or self._passage.there else wait.awaits
            until = min(math.inf if wait.deadline is None else wait.deadline, self._passage.due)
            self._poll(None if until == math.inf else max(0.0, until - now), awaits)

    def _receive(self, event: Arrival | Loss | Failure, deadline: float | None) -> bool:
        """Waits until the reply that is next in the queue is received; False: the deadline comes before that."""
        if not self._reception.seconds or not isinstance(event, Arrival) or event.record.slot not in self._open_orders:
            return True
        end = self._reception.end(event.record.slot, event.at)
        until = end if deadline is None else min(end, self._start_time + deadline)
        time.sleep(max(0.0, until - time.monotonic()))
        self._queue[0] = event._replace(at=max(end, event.at))
        return until == end

    def _open_up(self, event: Arrival | Loss | Failure) -> Event | None:
        """What a thing in the queue means for the driver; None: nothing, for nobody waits for it any more."""
        if not isinstance(event, Arrival):
            return event
        hand, record, at, _ = event
        order = self._open_orders.get(record.slot)
        if order is None or order.worker != hand.worker:
            return None
        self._last = at if self._passage.there else record.ended
        return self._answer(event, order, at - self._start_time)

    def _poll(self, seconds: float | None, awaits: int = 1) -> None:
        """Waits for something to happen, or ``awaits`` answers to come, at most ``seconds``, and books it."""
        now = time.monotonic()
        for hand in self._hands:
            if hand.again and now >= hand.again:
                self._start(hand)
        times = [hand.again for hand in self._hands if hand.again]
        if self.patience is not None and self._serial >= 0:
            owing = self._owing
            times += [self._hands[w].silent_since + self._patience_with(w) for w in owing if self._hands[w].ready]
        if times:
            soonest = max(0.0, min(times) - now)
            seconds = soonest if seconds is None else min(seconds, soonest)
        if seconds is not None:
            seconds = min(seconds, _LONGEST_WAIT)  # whoever waits asks again
        arrivals, dead = self._listen(seconds, awaits)
        arrivals.sort(key=lambda arrival: (arrival.record.ended, arrival.hand.worker))
        for arrival in arrivals:
            self._hear(arrival)
        for hand in sorted(dead, key=lambda hand: hand.worker):
            self._bury(hand)
        if self.patience is not None and self._serial >= 0:
            self._kill_silent()
        self._pass_slots(time.monotonic())

    @property
    def _owing(self) -> set[int]:
        """Workers that owe an answer: none whose answers are all on their way through the uplink."""
        return {order.worker for slot, order in self._open_orders.items() if slot not in self._passage}

    def _pass_slots(self, now: float) -> None:
        """The slots of the uplink up to now: what arrives in them is in the queue."""
        while self._passage.due <= now - self._start_time:
            self._queue.extend(arrival._replace(at=now) for arrival in self._passage.land())
            self._passage.begin()

    def _pass_on(self, arrival: Arrival) -> None:
        """A reply is ready: it is in the queue, unless there is an uplink to pass."""
        record = arrival.record
        if not self._passage.there:
            self._queue.append(arrival)
        elif record.slot in self._open_orders:
            self._pass_slots(arrival.at)
            size = NOTICE_BYTES if record.sent < 0 else record.sent
            self._passage.put(arrival, arrival.hand.worker, record.slot, size, arrival.at - self._start_time)

    def _hear(self, arrival: Arrival) -> None:
        hand, record, at, _ = arrival
        hand.heard = at
        if record.kind == READY:
            hand.ready, hand.gone = True, False
            return
        if record.kind == REPLY or record.computed:
            hand.deaths = 0  # it can work, be it too late
        if self._serial < 0:
            self._between_iterations.append((hand.worker, record))
            return
        current = record.serial == self._serial
        self._book_work(hand.worker, record, current)
        if record.kind == ABANDONED or not current:
            return
        if record.kind == REPLY:
            self._pass_on(arrival)
        else:
            kinds: dict[int, Literal["not finite", "forgotten"]] = {NOT_FINITE: "not finite", MISSING: "forgotten"}
            kind: Literal["raised", "not finite", "forgotten"] = kinds.get(record.kind, "raised")
            self._queue.append(Failure(hand.worker, at - self._start_time, self._why(arrival), kind))

    def _book_work(self, worker: int, record: Record, current: bool) -> None:
        """Enters what a worker has done, be it for an iteration that is over."""
        self._ledger.computations += record.computed
        self._ledger.overruns += record.overruns
        kind = "compute" if record.kind == REPLY and current else "abandon"
        began, ended = record.began - self._start_time, record.ended - self._start_time
        self._ledger.work.append(Work(worker, began, ended, kind))

    def _bury(self, hand: Hand) -> None:
        """A worker is dead: it is started again, now or after a pause, unless it dies again and again."""
        hand.forget()
        self._passage.lose(hand.worker)
        self._inspection.forgive(hand.worker)
        self._standing.holders.pop(hand.worker, None)
        hand.deaths += 1
        hand.gone = hand.gone or not self._up or self._spent(hand)
        if not hand.gone:
            pause = 0.0 if hand.deaths <= 2 else min(_LONGEST_PAUSE, 0.1 * 2.0 ** min(hand.deaths - 2, 10))
            # Also where there is no pause: if starting it is interrupted, the next look at it tries again.
            hand.again = time.monotonic() + pause
            if not pause:
                self._start(hand)
        self._tell_loss(hand)

    def _tell_loss(self, hand: Hand) -> None:
        if self._serial >= 0:
            now = time.monotonic() - self._start_time
            self._queue.append(Loss(hand.worker, now, returning=not hand.gone))
        else:
            self._lost_between.add(hand.worker)

    def _kill_silent(self) -> None:
        """``patience``: a silent worker is made a lost one, by killing it; its death is then seen as any other."""
        now = time.monotonic()
        for worker in self._owing:
            hand = self._hands[worker]
            if hand.ready and now - hand.silent_since > self._patience_with(worker):
                hand.kill()
                hand.heard = now

    def _patience_with(self, child: int) -> float:
        """An edge node has to be patient itself before it can answer."""
        assert self.patience is not None
        own = self._branch.children[child]
        return self.patience * (2 + max(map(len, own.above)) if isinstance(own, Branch) else 1)

    def _exclude(self) -> None:
        """A worker whose replies are refused again and again is given no more work."""
        for worker in self._inspection.excluded:
            hand = self._hands[worker]
            if not hand.gone:
                hand.kill()
                hand.forget()
                hand.gone, hand.again = True, 0.0
                warnings.warn(
                    f"{self._branch.names[worker]} is excluded: its last {STRIKES} replies were refused",
                    GradcodeWarning,
                    stacklevel=5,
                )

    def _show_failures(self) -> None:
        """A traceback is shown once, with the worker's number, though training goes on."""
        for failure in (own for own in self._ledger.failures if own.kind != "forgotten"):
            last = failure.message.strip().rsplit("\n", 1)[-1] if failure.kind == "raised" else failure.kind
            if (failure.worker, last) not in self._shown:
                self._shown.add((failure.worker, last))
                who = self._branch.names[failure.worker]
                what = f"{who} raised" if failure.kind == "raised" else f"a reply of {who} was refused"
                warnings.warn(
                    f"{what} in iteration {self._number} and it was treated as a straggler (shown once):\n"
                    f"{failure.message}",
                    GradcodeWarning,
                    stacklevel=5,
                )
