"""A cluster of processes on one machine: parameters and replies in shared memory, orders over pipes."""

from __future__ import annotations

import os
import selectors
import time
import warnings
from collections import deque
from contextlib import ExitStack
from typing import Any, Self

import torch
from torch import Tensor

from gradcode.clusters import process
from gradcode.clusters.arena import Arena, Region
from gradcode.clusters.driver import ON_SHORTFALL, Ledger, OnShortfall, Wait, iterate
from gradcode.clusters.hand import Hand
from gradcode.clusters.injected import NOTICE_BYTES, compute_times, delay_table
from gradcode.clusters.nursery import ctrl_c_later, open_server
from gradcode.clusters.post import (
    ABANDONED,
    ERROR,
    MISSING,
    READY,
    REPLY,
    Descriptor,
    Message,
    PlannedOrder,
    Record,
)
from gradcode.clusters.process import DelayMode
from gradcode.clusters.worker import OrderBook
from gradcode.delays import Delays, DelayTable
from gradcode.delays.law import Source as DelaySource
from gradcode.errors import GradcodeError, GradcodeWarning, Shortfall, WorkerError
from gradcode.protocol import (
    Event,
    Expired,
    Failure,
    Floats,
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

_GIVE_UP = 3  # deaths in a row, without a reply between them, after which a worker is not started again
_LONGEST_PAUSE = 30.0  # seconds
_LONGEST_WAIT = 3600.0  # seconds: more than that the kernel's timers may not take


class LocalCluster:
    """One process per worker on this machine.

    Parameters, buffers and reply rows lie in shared memory; the master decodes where they lie. A dead worker is
    noticed at once, counted as a straggler and started again within the iteration; a stopped one never holds the
    master up. Leaving the ``with`` block, an exception, Ctrl-C and a SIGKILL of the master leave no process and no
    shared memory behind.

    Scripts must protect their main module with ``if __name__ == "__main__":``, as with any use of multiprocessing,
    and model, loss and dataset must be picklable (defined at the top of a module).

    Args:
        workers: N.
        delays: injected delays, for experiments: anything of :mod:`gradcode.delays`; None: none.
        delay_mode: ``"extra"`` adds sleep to real computing; ``"emulate"`` makes each partition end at an absolute
            time with the real computing inside, so that cores shared by the workers do not distort a comparison.
        threads: torch threads per worker.
        on_shortfall: when too few workers are left: ``"wait"`` starts lost workers again and again, with growing
            pauses; ``"approximate"`` takes what there is; ``"raise"`` raises.
        patience: seconds after which a silent worker that owes an answer is killed and started again; None: never.
        seed: of the drawn delays; None: the session's.

    Raises:
        ValueError: an argument is out of its range.
        PlatformError: the platform cannot run worker processes.
    """

    def __init__(
        self,
        workers: int,
        delays: Delays | DelaySource | DelayTable | None = None,
        *,
        delay_mode: DelayMode = "extra",
        threads: int = 1,
        on_shortfall: OnShortfall = "wait",
        patience: float | None = None,
        seed: int | None = None,
    ) -> None:
        if workers < 1:
            raise ValueError(f"workers={workers} must be at least 1")
        if delay_mode not in ("extra", "emulate"):
            raise ValueError(f'delay_mode={delay_mode!r} must be "extra" or "emulate"')
        if threads < 1:
            raise ValueError(f"threads={threads} must be at least 1")
        if on_shortfall not in ON_SHORTFALL:
            raise ValueError(f"on_shortfall={on_shortfall!r} must be one of {', '.join(ON_SHORTFALL)}")
        if patience is not None and not patience > 0:
            raise ValueError(f"patience={patience} must be a positive number of seconds, or None")
        self.workers, self.threads = workers, threads
        self.on_shortfall, self.patience = on_shortfall, patience
        self._delays, self._mode, self._seed = delays, delay_mode, seed
        self._hands: list[Hand] = []
        self._selector: selectors.BaseSelector | None = None
        self._resources = ExitStack()
        self._events: deque[Event] = deque()
        self._shown: set[tuple[int, str]] = set()
        self._opened = time.monotonic()
        self._up = False  # every worker has been ready once
        self._serial = -1  # of the iteration that runs; −1: none
        self._open_orders: dict[int, Order] = {}
        self._between_iterations: list[tuple[int, Record]] = []
        self._owners: dict[int, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def pids(self) -> tuple[int | None, ...]:
        """The process of each worker, None while it is being started again."""
        return tuple(hand.pid for hand in self._hands)

    def alive(self) -> tuple[int, ...]:
        return tuple(hand.worker for hand in self._hands if not hand.gone)

    def clock(self) -> float:
        return time.monotonic() - self._opened

    def state_dict(self) -> dict[str, Any]:
        """Nothing: real time leaves nothing to restore."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing, also of another kind of cluster: the numbers do not depend on it."""

    # Opening and closing

    def open(self, source: Source, layout: Layout, seed: int, like: Tensor, reply_dtype: torch.dtype) -> None:
        """Starts the workers and waits until they are ready; see :class:`gradcode.protocol.Cluster`.

        Raises:
            GradcodeError: the cluster is open already, or something cannot be sent to the workers.
            WorkerError: a worker could not start.
        """
        if self._selector is not None:
            raise GradcodeError("this LocalCluster is in use already: give every session a cluster of its own")
        try:
            self._open(source, layout, seed, like, reply_dtype)
        except BaseException:
            self.close()
            raise

    def _open(self, source: Source, layout: Layout, seed: int, like: Tensor, reply_dtype: torch.dtype) -> None:
        items, pitch = layout.row_shape(source.length, reply_dtype.itemsize)
        row_dtype = torch.uint8 if layout.codec is not None else reply_dtype
        self._regions = {
            "parameters": Region((source.length,), like.dtype),
            "buffers": Region((source.buffers,), torch.float64),
            "rows": Region((layout.rows, pitch), row_dtype),
            "memory": Region((layout.memory, 2, source.length), like.dtype),
            "statistics": Region((self.workers, source.partitions, source.statistics), torch.float64),
            "wanted": Region((layout.slots,), torch.int64),
            "taken": Region((self.workers,), torch.int64),
            "errors": Region((self.workers, process.TEXT), torch.uint8),
        }
        self._selector = selectors.DefaultSelector()
        self._resources.callback(self._selector.close)
        self._context = self._resources.enter_context(open_server())
        self._arena = Arena(self._regions)
        self._resources.callback(self._arena.close)
        self.parameters, self.buffers = self._arena["parameters"], self._arena["buffers"]
        self.rows = self._arena["rows"][:, :items]
        self.memory = self._arena["memory"] if layout.memory else None
        self._wanted, self._taken = self._arena["wanted"].numpy(), self._arena["taken"].numpy()
        self._wanted.fill(-1)
        self._statistics = self._arena["statistics"].numpy()
        self._book = OrderBook(-1, source, layout, self.rows, None, seed, self.parameters)
        self._table = delay_table(self._delays, self.workers, seed if self._seed is None else self._seed)
        self._source = source
        self._parcel = process.packed(source, layout, items, seed)
        self._resources.callback(os.close, self._parcel.fd)
        self._hands = [Hand(worker, self._selector, self._taken[worker : worker + 1]) for worker in range(self.workers)]
        for hand in self._hands:
            self._start(hand)
        self._await_ready()
        self._up = True
        self._opened = time.monotonic()

    def _await_ready(self) -> None:
        while not all(hand.ready for hand in self._hands):
            self._poll(None)
            for hand in self._hands:
                if hand.deaths or hand.gone:
                    raise WorkerError(self._why_not_started(hand))

    def _why_not_started(self, hand: Hand) -> str:
        left = process.read_text(self._arena["errors"][hand.worker])
        if left:
            return f"worker {hand.worker} could not start:\n{left}"
        return (
            f"worker {hand.worker} ended before it was ready. Protect the main module of your script with "
            f'if __name__ == "__main__": since every worker imports it; and see its own message above, if any'
        )

    def close(self) -> None:
        """Ends every worker, running or stopped, and frees the shared memory. May be called twice."""
        with ctrl_c_later():
            for hand in self._hands:
                hand.kill()
            for hand in self._hands:
                hand.forget()
            self._hands = []
            self._resources.close()
            self._selector = None

    def _start(self, hand: Hand) -> None:
        self._arena["errors"][hand.worker, :4] = 0
        hand.start(
            self._context,
            lambda orders, records: process.Setup(
                hand.worker,
                self._regions,
                Descriptor(self._arena.fd),
                self._parcel,
                Descriptor(self._parcel.fd),
                orders,
                records,
                self._mode,
                self.threads,
            ),
        )

    # One iteration

    def run(self, scheme: Scheme, iteration: Iteration) -> Outcome:
        """One iteration; see :class:`gradcode.protocol.Cluster`.

        Raises:
            GradcodeError: the cluster is not open.
            WorkerError: workers raised and the iteration cannot end without them.
            Shortfall: too few workers are left.
        """
        if self._selector is None:
            raise GradcodeError("this LocalCluster is closed: open a new one")
        self._between()
        self._start_time = time.monotonic()
        self._serial, self._number = iteration.serial, iteration.number
        self._ledger = Ledger(self.workers, iteration, self._source.statistics, scheme.layout.slots, self._owners)
        for worker, record in self._between_iterations:
            self._book_work(worker, record, False)
        self._between_iterations.clear()
        self._compute = compute_times(self._table, iteration.number, self.workers)
        self._stage, self._stages, self._transport = 0, dict[int, int](), dict[int, Floats]()
        self._ordered, self._last = 0.0, self._start_time
        driver = iterate(scheme, self._ledger, self.on_shortfall)
        event: Event | None = None
        try:
            while True:
                wait = next(driver) if event is None else driver.send(event)
                self._give(wait)
                if event is None:
                    self._ordered = time.monotonic() - self._start_time
                event = self._next(wait)
        except StopIteration:
            pass
        finally:
            # Before the optimizer writes: whoever still works on this iteration reads torn parameters from now on.
            self._wanted.fill(-1)
            self._open_orders = {}
        now = time.monotonic() - self._start_time
        self._show_failures()
        size = self.parameters.numel() * self.parameters.element_size()
        self._ledger.bytes_down += size * len(self._ledger.asked)
        communicate = None
        if self._table is not None:
            communicate = self._table.communicate(iteration.number, self._book.full_size)
        compute = None if self._table is None else self._compute
        return self._ledger.outcome(now, self._ordered, self._last, compute, communicate)

    def _between(self) -> None:
        """Takes in what happened since the last iteration: late records, deaths, workers due to start again."""
        self._serial = -1
        self._poll(0.0)
        self._events.clear()

    def _give(self, wait: Wait) -> None:
        """Says what is not wanted any more, then gives the new orders, one message per worker."""
        for slot in wait.abandoned:
            self._wanted[slot] = -1
        orders: dict[int, list[Order]] = {}
        fresh = [order.slot for order in wait.orders if order.slot not in self._stages]
        self._stages.update(dict.fromkeys(fresh, self._stage))
        self._stage += bool(fresh)
        # A worker whose loss the scheme has yet to hear of gets its open orders, these among them, after that.
        lost = {event.worker for event in self._events if isinstance(event, Loss)}
        for order in wait.orders:
            if order.worker not in lost:
                orders.setdefault(order.worker, []).append(order)
                self._wanted[order.slot] = order.serial
        # Everything is made ready first: a worker that has its orders may want the core that the master is on.
        ready = [
            (
                self._hands[worker],
                tuple(PlannedOrder.of(order) for order in mine),
                tuple(self._delays_of(order) for order in mine),
            )
            for worker, mine in orders.items()
        ]
        now = time.monotonic()
        for hand, planned, delays in ready:
            hand.post(planned, Message(self._serial, self._number, now, 0, None, delays))

    def _delays_of(self, order: Order) -> tuple[float, float]:
        """Injected seconds per unit of load of an order, and those of its answer's message."""
        if self._table is None:
            return 0.0, 0.0
        stage = min(self._stages[order.slot], self._compute.shape[1] - 1)
        size = NOTICE_BYTES if order.hold else self._book.size(order)
        if size not in self._transport:
            self._transport[size] = self._table.communicate(self._number, size)
        return float(self._compute[order.worker, stage]), float(self._transport[size][order.worker])

    def _next(self, wait: Wait) -> Event:
        self._open_orders = dict(wait.open)
        while not self._events:
            now = time.monotonic() - self._start_time
            if wait.deadline is not None and now >= wait.deadline:
                self._poll(0.0)  # at equal times replies come before the deadline
                if not self._events:
                    return Expired(now)
                continue
            if wait.shortfall and not any(hand.again for hand in self._hands):
                raise Shortfall(
                    f"iteration {self._number} cannot be finished: workers {sorted(self._ledger.heard)} answered and "
                    f"nothing is under way"
                )
            self._poll(None if wait.deadline is None else wait.deadline - now)
        return self._events.popleft()

    def _poll(self, seconds: float | None) -> None:
        """Waits for something to happen, at most ``seconds``, and books it as events."""
        assert self._selector is not None
        now = time.monotonic()
        for hand in self._hands:
            if hand.again and now >= hand.again:
                self._start(hand)
        times = [hand.again for hand in self._hands if hand.again]
        if self.patience is not None and self._serial >= 0:
            owing = {order.worker for order in self._open_orders.values()}
            times += [self._hands[w].silent_since + self.patience for w in owing if self._hands[w].ready]
        if times:
            soonest = max(0.0, min(times) - now)
            seconds = soonest if seconds is None else min(seconds, soonest)
        if seconds is not None:
            seconds = min(seconds, _LONGEST_WAIT)  # whoever waits asks again
        records: list[tuple[Hand, Record]] = []
        dead: list[Hand] = []
        for key, _ in self._selector.select(seconds):
            hand, what = key.data
            if what == "orders":
                hand.flush()
            elif what == "records":
                records += [(hand, record) for record in hand.read()]
            else:
                dead.append(hand)
        for hand in dead:  # all its replies come before its loss
            records += [(hand, record) for record in hand.read()]
        records.sort(key=lambda pair: (pair[1].ended, pair[0].worker))
        for hand, record in records:
            self._hear(hand, record)
        for hand in sorted(dead, key=lambda hand: hand.worker):
            self._bury(hand)
        if self.patience is not None and self._serial >= 0:
            self._kill_silent()

    def _hear(self, hand: Hand, record: Record) -> None:
        hand.heard = time.monotonic()
        hand.flush()
        if record.kind == READY:
            hand.ready = True
            return
        if self._serial < 0:
            self._between_iterations.append((hand.worker, record))
            return
        current = record.serial == self._serial
        self._book_work(hand.worker, record, current)
        if record.kind == ABANDONED or not current:
            return
        now = time.monotonic() - self._start_time
        if record.kind == REPLY:
            hand.deaths = 0
            self._last = record.ended
            order = self._open_orders.get(record.slot)
            if order is not None and order.worker == hand.worker:
                payload = self._book.payload(order, None if record.sent < 0 else record.sent)
                partitions = list(order.combination)
                self._events.append(Reply(order, payload, now, self._statistics[hand.worker, partitions]))
        elif record.kind in (ERROR, MISSING):
            message = process.read_text(self._arena["errors"][hand.worker])
            self._events.append(Failure(hand.worker, now, message))

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
        hand.deaths += 1
        hand.gone = not self._up or (hand.deaths > _GIVE_UP and self.on_shortfall != "wait")
        if not hand.gone:
            pause = 0.0 if hand.deaths <= 2 else min(_LONGEST_PAUSE, 0.1 * 2.0 ** min(hand.deaths - 2, 10))
            # Also where there is no pause: if starting it is interrupted, the next look at it tries again.
            hand.again = time.monotonic() + pause
            if not pause:
                self._start(hand)
        if self._serial >= 0:
            now = time.monotonic() - self._start_time
            self._events.append(Loss(hand.worker, now, returning=not hand.gone))

    def _kill_silent(self) -> None:
        """``patience``: a silent worker is made a lost one, by killing it; its death is then seen as any other."""
        assert self.patience is not None
        now = time.monotonic()
        for worker in {order.worker for order in self._open_orders.values()}:
            hand = self._hands[worker]
            if hand.ready and now - hand.silent_since > self.patience:
                hand.kill()
                hand.heard = now

    def _show_failures(self) -> None:
        """A traceback is shown once, with the worker's number, though training goes on."""
        for failure in self._ledger.failures:
            last = failure.message.strip().rsplit("\n", 1)[-1]
            if (failure.worker, last) not in self._shown:
                self._shown.add((failure.worker, last))
                warnings.warn(
                    f"worker {failure.worker} raised in iteration {self._number} and was treated as a straggler "
                    f"(shown once):\n{failure.message}",
                    GradcodeWarning,
                    stacklevel=4,
                )
