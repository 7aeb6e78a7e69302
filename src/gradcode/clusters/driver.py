"""One driver for every cluster: it holds a scheme's conversation with whoever carries out its orders.

:func:`iterate` is a generator. It yields a :class:`Wait` (orders to carry out, slots to abandon, a deadline) and is
sent the next event. The root blocks around it, an edge node waits for parent and children at once, and the simulator
resumes it from its heap: the same rules everywhere.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from gradcode.errors import NonFiniteLoss, Shortfall, WorkerError
from gradcode.protocol import (
    Abandon,
    Action,
    Combination,
    Event,
    Expired,
    Failure,
    Floats,
    Iteration,
    Keep,
    Loss,
    Order,
    Outcome,
    Reply,
    Scheme,
    Version,
    Work,
)

if TYPE_CHECKING:
    from torch import Tensor

OnShortfall = Literal["wait", "approximate", "raise"]
ON_SHORTFALL: tuple[OnShortfall, ...] = ("wait", "approximate", "raise")

NOTICE_BYTES = 16  # of an answer without payload


def below(on_shortfall: OnShortfall) -> OnShortfall:
    """What edge nodes do: one that falls short says so, else its parent would take an approximation for exact."""
    return "raise" if on_shortfall == "approximate" else on_shortfall


def size_up(payload: Tensor | None) -> int:
    """Bytes of an answer on its way to the master."""
    return NOTICE_BYTES if payload is None else payload.numel() * payload.element_size()


@dataclass(frozen=True, slots=True)
class Wait:
    """What the driver asks of the cluster before the next event.

    Args:
        orders: to carry out now.
        abandoned: slots that nobody needs any more.
        deadline: seconds from the start at which to send :class:`Expired`; None: never.
        open: slot -> order, neither answered nor abandoned; the cluster may look, not write.
        shortfall: nothing is open and nothing is to come: only a worker that returns can help.
        awaits: answers that must come at least, before anything else is done.
        kept: what to keep for the workers before they are given the orders.
    """

    orders: Sequence[Order]
    abandoned: tuple[int, ...]
    deadline: float | None
    open: Mapping[int, Order]
    shortfall: bool = False
    awaits: int = 1
    kept: Sequence[Keep] = ()


@dataclass(slots=True)
class Standing:
    """What a master knows of its children beyond an iteration.

    ``owners``: row -> worker. ``holders``: worker -> the kept versions that it has been sent, or has sent.
    """

    owners: dict[int, int] = field(default_factory=dict)
    holders: dict[int, set[Version]] = field(default_factory=dict)

    def keep(self, keep: Keep) -> None:
        """An entry is kept anew."""
        for worker, held in self.holders.items():
            self.holders[worker] = {version for version in held if version.entry != keep.version.entry}
        if keep.origin is not None:
            self.holders.setdefault(keep.origin, set()).add(keep.version)

    def send(self, order: Order) -> int:
        """An order is given: how many kept vectors its worker must be sent besides."""
        held = self.holders.setdefault(order.worker, set())
        missing = order.needs - held
        held |= missing
        return len(missing)


@dataclass(slots=True)
class Ledger:
    """What is known of a running iteration; ends as its :class:`Outcome`."""

    workers: int
    iteration: Iteration
    statistics: int
    slots: int
    standing: Standing
    vector: int = 0  # bytes of the parameters, or of a kept vector
    edges: bool = False  # whether there are edge nodes among the workers
    arrivals: Floats = field(init=False)
    open: dict[int, Order] = field(default_factory=dict)
    alive: set[int] = field(init=False)
    used: set[int] = field(default_factory=set)  # slots
    asked: set[int] = field(default_factory=set)
    heard: set[int] = field(default_factory=set)
    lost: set[int] = field(default_factory=set)
    refused: set[int] = field(default_factory=set)
    corrupt: frozenset[int] = frozenset()  # of whom nothing is believed
    failures: list[Failure] = field(default_factory=list)
    work: list[Work] = field(default_factory=list)
    bytes_up: int = 0
    bytes_down: int = 0
    uploads: int = 0
    notices: int = 0
    clipped: int = 0
    computations: float = 0.0
    overruns: float = 0.0
    _told: list[tuple[Order, Floats]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.arrivals = np.full(self.workers, np.nan)
        self.alive = set(self.iteration.workers)

    def take(self, reply: Reply) -> None:
        """Books an answer: its time, its bytes and its statistics."""
        order = reply.order
        self.open.pop(order.slot)
        self.heard.add(order.worker)
        self.arrivals[order.worker] = reply.time
        self.bytes_up += size_up(reply.payload)
        if reply.payload is None:
            self.notices += 1
        else:
            self.uploads += 1
            self.clipped += reply.clipped
        self._told.append((order, reply.statistics))

    def heard_of(self, combination: Combination) -> Floats:
        """(len(combination), S) statistics of each partition; NaN where nothing was heard of it."""
        known, nothing = self._by_partition(), np.full(self.statistics, np.nan)
        return np.array([known.get(partition, nothing) for partition in combination])

    def outcome(
        self,
        time: float,
        sending: float,
        last: float,
        compute: Floats | None,
        communicate: Floats | None,
        start: Floats | None,
    ) -> Outcome:
        """The iteration as it ended after ``time`` seconds; the rest as in :class:`Outcome`."""
        known = self._by_partition()
        return Outcome(
            time=time,
            arrivals=self.arrivals,
            stragglers=tuple(sorted(self.asked - self.heard)),
            lost=tuple(sorted(self.lost)),
            statistics=self._mean(known),
            losses={partition: float(values[0]) for partition, values in known.items()},
            bytes_up=self.bytes_up,
            bytes_down=self.bytes_down + self.vector * len(self.asked),
            computations=self.computations,
            overruns=self.overruns,
            work=tuple(self.work),
            sending=sending,
            last=last,
            compute=compute,
            communicate=communicate,
            start=start,
            refused=tuple(sorted(self.refused)),
            corrupt=tuple(sorted(self.corrupt)),
            uploads=self.uploads,
            notices=self.notices,
            downloads=len(self.asked),
            clipped=self.clipped,
        )

    def _by_partition(self) -> dict[int, Floats]:
        """The statistics of each partition as they were heard first."""
        known: dict[int, Floats] = {}
        for order, statistics in self._told:
            if order.worker in self.corrupt or order.at is not None:  # of an earlier iteration's samples
                continue
            for partition, values in zip(order.combination, statistics, strict=False):
                if self.iteration.sizes[partition] and not (self.edges and np.isnan(values).all()):
                    first = known.setdefault(partition, values)
                    if order.block is not None and first is not values:
                        # What took part in one block shows in its own reply only; the rest is the same in all.
                        known[partition] = np.maximum(first, values)
        return known

    def _mean(self, known: Mapping[int, Floats]) -> Floats:
        """Statistics weighted by samples; in the partitions' order, so that the bits do not tell who came first."""
        if not known:
            return np.full(self.statistics, np.nan)
        partitions = sorted(known)
        mean: Floats = np.average(
            [known[j] for j in partitions], axis=0, weights=self.iteration.sizes[partitions].astype(np.float64)
        )
        return mean


def iterate(scheme: Scheme, ledger: Ledger, on_shortfall: OnShortfall = "wait") -> Generator[Wait, Event, None]:
    """Carries one iteration of ``scheme`` through its events, until it is done.

    Raises:
        Shortfall: too few workers are left and ``on_shortfall`` is "raise", or "approximate" has nothing to use.
        WorkerError: the iteration cannot end because workers' own code raised, or sent what was refused.
        NonFiniteLoss: likewise, with numbers that are not finite.
    """
    serial = ledger.iteration.serial
    actions: Sequence[Action] = scheme.start(ledger.iteration)
    again: list[Order] = []
    expired_at: float | None = None
    while True:
        orders, abandoned, kept = _book(actions, ledger)
        if scheme.done:
            ledger.corrupt = frozenset(getattr(scheme, "corrupt", ()))
            return
        deadline = scheme.deadline if scheme.deadline != expired_at else None
        short = not ledger.open and deadline is None
        if short and (ledger.failures or on_shortfall != "wait"):
            actions = _fall_short(scheme, ledger, on_shortfall)
            continue
        awaits = max(1, min(getattr(scheme, "awaits", 1), len(ledger.open)))
        event = yield Wait((*again, *orders), abandoned, deadline, ledger.open, short, awaits, kept)
        actions, again = (), []
        match event:
            case Reply(order=order):
                if order.serial == serial and order.slot in ledger.open:
                    ledger.take(event)
                    actions = scheme.receive(event)
            case Loss(worker=worker):
                ledger.lost.add(worker)
                ledger.standing.holders.pop(worker, None)
                mine = [slot for slot, order in ledger.open.items() if order.worker == worker]
                again = [ledger.open[slot] for slot in mine] if event.returning else []
                if not event.returning:
                    ledger.alive.discard(worker)
                    for slot in mine:
                        del ledger.open[slot]
                actions = scheme.lose(worker)
                cancelled = {slot for action in actions if isinstance(action, Abandon) for slot in action.slots}
                again = [order for order in again if order.slot not in cancelled]
            case Failure(worker=worker):
                if event.kind in ("misshapen", "not finite"):
                    ledger.refused.add(worker)
                dropped = tuple(slot for slot, order in ledger.open.items() if order.worker == worker)
                if dropped:  # else it is one more error of orders that are given up already
                    ledger.failures.append(event)
                    told = getattr(scheme, "forget", scheme.lose) if event.kind == "forgotten" else scheme.lose
                    actions = [Abandon(dropped), *told(worker)]
            case Expired():
                expired_at = scheme.deadline
                actions = scheme.expire()


def _book(actions: Sequence[Action], ledger: Ledger) -> tuple[list[Order], tuple[int, ...], list[Keep]]:
    """Enters new orders, abandoned slots and what is kept; an order abandoned after it is never sent.

    An order for a worker that is gone is not entered: nobody would answer it.

    Raises:
        ValueError: the scheme breaks a rule of the protocol.
    """
    orders: dict[int, Order] = {}
    abandoned: list[int] = []
    kept: list[Keep] = []
    for action in actions:
        if isinstance(action, Keep):
            ledger.standing.keep(action)
            kept.append(action)
        elif isinstance(action, Order):
            _check(action, ledger)
            if action.worker not in ledger.alive:
                continue
            orders[action.slot] = ledger.open[action.slot] = action
            ledger.asked.add(action.worker)
        else:
            for slot in action.slots:
                orders.pop(slot, None)
                ledger.open.pop(slot, None)
                abandoned.append(slot)
    for order in orders.values():
        ledger.bytes_down += ledger.vector * ledger.standing.send(order)
        for keep in kept:
            if keep.vector is None:  # it is sent these parameters anyway
                ledger.standing.holders[order.worker].add(keep.version)
    return list(orders.values()), tuple(abandoned), kept


def _check(order: Order, ledger: Ledger) -> None:
    if not 0 <= order.slot < ledger.slots or order.slot in ledger.used:
        raise ValueError(
            f"slot {order.slot} of {order!r} must be a new one of the {ledger.slots} that the scheme's layout has"
        )
    ledger.used.add(order.slot)
    # A worker that ends what nobody wants any more writes its own rows only, so they are never another's.
    if ledger.standing.owners.setdefault(order.row, order.worker) != order.worker:
        raise ValueError(f"row {order.row} of {order!r} belongs to worker {ledger.standing.owners[order.row]}")


def _fall_short(scheme: Scheme, ledger: Ledger, on_shortfall: OnShortfall) -> Sequence[Action]:
    """No open order, nobody restarting, no deadline, and the scheme not done."""
    number, heard = ledger.iteration.number, sorted(ledger.heard)
    if ledger.failures and on_shortfall != "approximate":
        first = ledger.failures[0]
        if first.kind == "not finite":
            raise NonFiniteLoss(
                f"the loss or the gradient of iteration {number} is not finite: {first.message}; no parameter was "
                f"changed by it. Look at the learning rate, the loss and the data, and go on from the last checkpoint"
            )
        others = sorted({failure.worker for failure in ledger.failures[1:]} - {first.worker})
        also = f" (workers {others} failed too)" if others else ""
        did = "raised" if first.kind == "raised" else "sent what cannot be used"
        raise WorkerError(f"worker {first.worker} {did} in iteration {number}{also}:\n{first.message}")
    # A stale gradient needs nobody to be heard of.
    if on_shortfall == "approximate" and (ledger.heard or scheme.layout.stale):
        actions = scheme.expire()
        if scheme.done or actions:
            return actions
    cause = f":\n{ledger.failures[0].message}" if ledger.failures else ""
    raise Shortfall(
        f"iteration {number} cannot be finished: only workers {heard} answered, {sorted(ledger.lost)} are lost and "
        f'will not return; start more workers, choose a scheme of higher tolerance, or set on_shortfall="wait" '
        f'(now "{on_shortfall}"){cause}'
    )
