"""Replicated self-scheduling: workers take one micro-partition at a time, and every piece of work that was done counts.

Source: a method of our own (self_scheduling.md); no paper is reproduced. It has the placement and the storage of a
gradient code of the same replication, an exact gradient, and no linear algebra.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gradcode.codes import checks
from gradcode.codes.stability import growth
from gradcode.protocol import Abandon, Combination, Floats, Iteration, Layout, Order, Reply, Scheme
from gradcode.schemes.decoding import weighted_sum
from gradcode.schemes.micro_partitions import Schedule, placed
from gradcode.schemes.registry import scheme

if TYPE_CHECKING:
    from torch import Tensor

Actions = list[Order | Abandon]

_CALL, _MESSAGE = -2, -1  # in place of a micro-partition


class SelfScheduling:
    """Workers compute one micro-partition after the other, whichever the master gives them, and then send their sums.

    The master grants the first notice of each micro-partition; a later copy is not counted. With nothing free, a worker
    computes again what has been in flight longest. When all are granted, everybody stops, and whoever owns any sends
    one message: the sum of those that were granted to it. The order of a message names its micro-partitions, so what is
    counted is what it contains.

    A worker adds to its sum what its next order says was granted meanwhile, and lets go what was refused. So it needs
    its sum, what it is computing, and what it has yet to hear of: 2 + ``ahead`` vectors. A sum that contains what was
    withdrawn, which its worker sees by the order of its message, is not used: the worker computes that message's
    micro-partitions again.

    A lost worker has forgotten what it held: unless its message has come, its micro-partitions are free again, and a
    message that was asked for before a later grant is superseded by another. After ``repeats`` losses in an iteration
    nothing is withdrawn any more: a worker that is back computes what its orders need.

    At ``deadline`` what is granted is added up and scaled by the samples behind it; if nothing is, what comes first is.

    Args:
        shares: for each of N workers the shares that it holds, its own first; ties are decided in this order.
        micro: m ≥ 1, micro-partitions of a share. There are K = N·m partitions.
        deadline: seconds, or None.
        ahead: orders that a worker has in hand beside the one it is at: 1 hides the way of notice and answer on a real
            cluster; 0 is the rule of self_scheduling.md, by which each decision is taken as late as can be, the first
            when a worker has said that it is there. 0 is quicker where that way takes less than about a tenth of a
            micro-partition.
        repeats: losses in one iteration after which what was lost is ordered again.
        notice: how long saying that a micro-partition is done takes, as a share of a message's time; for
            :meth:`duration` alone.

    Raises:
        ValueError: an argument is out of its range, or nobody holds a share.

    >>> SelfScheduling([[0, 1], [1, 0]], micro=2)
    self_scheduling(workers=2, replication=2, micro=2)
    """

    error = float("nan")
    exact = False
    done = True

    def __init__(
        self,
        shares: Sequence[Sequence[int]],
        micro: int = 8,
        deadline: float | None = None,
        *,
        ahead: int = 0,
        repeats: int = 3,
        notice: float = 0.0,
    ) -> None:
        if deadline is not None and not deadline > 0:
            raise ValueError(f"deadline={deadline!r} must be a positive number of seconds, or None to have none")
        if not notice >= 0:
            raise ValueError(f"notice={notice!r} must be a share of a message's time, 0 or more")
        self.workers = checks.integer("workers", len(shares), 1)
        self.micro = checks.integer("micro", micro, 1)
        self.shares = [list(own) for own in shares]
        for worker, own in enumerate(self.shares):
            if own[:1] != [worker] or len(set(own)) < len(own) or not set(own) <= set(range(self.workers)):
                raise ValueError(
                    f"shares[{worker}]={own} must be different shares from 0 to {self.workers - 1}, {worker} first"
                )
        self.partitions = self.workers * self.micro
        self.deadline = deadline
        self.ahead = checks.integer("ahead", ahead, 0)
        self._repeats = checks.integer("repeats", repeats, 0)
        self._notice = notice
        # Between two losses a worker is called, given each micro-partition that it holds, and asked, each once at most.
        # So all that has slots of its own, and orders are the same from iteration to iteration.
        places = [
            (worker, piece)
            for worker, own in enumerate(self.shares)
            for piece in (
                *(share * self.micro + place for share in own for place in range(self.micro)),
                _CALL,
                _MESSAGE,
            )
        ]
        self._places = {place: slot for slot, place in enumerate(places)}
        self.layout = Layout(rows=self.workers, slots=(1 + self._repeats) * len(places))
        self._iteration: Iteration | None = None
        self._target = Combination({})
        self._single: list[Combination] = []  # each micro-partition's part of the target
        self._schedule = Schedule(self.shares, self.micro)
        self._open: dict[int, tuple[int, int]] = {}  # slot of a held order -> worker, micro-partition
        self._asked: dict[int, tuple[int, list[int]]] = {}  # worker -> slot of its message, and what is in it
        self._waiting: set[int] = set()  # workers whose message has not come
        self._granted: list[list[int]] = [[] for _ in self.shares]  # slots, which their workers have yet to be told of
        self._refused: list[list[int]] = [[] for _ in self.shares]
        self._late = self._stopped = False
        self._losses = 0

    def __repr__(self) -> str:
        deadline = "" if self.deadline is None else f", deadline={self.deadline}"
        replication = max(map(len, self.shares))
        return f"self_scheduling(workers={self.workers}, replication={replication}, micro={self.micro}{deadline})"

    @property
    def inner(self) -> tuple[Scheme | None, ...]:
        return ()

    # One iteration

    def start(self, iteration: Iteration) -> Sequence[Order | Abandon]:
        self.done = self._late = self._stopped = False
        self._iteration = iteration
        self._schedule = Schedule(self.shares, self.micro, iteration.target)
        self._open, self._asked, self._waiting = {}, {}, set()
        self._granted, self._refused = [[] for _ in self.shares], [[] for _ in self.shares]
        self._losses = 0
        if iteration.target != self._target:
            self._target = iteration.target
            self._single = [Combination({piece: 1.0}).of(self._target) for piece in range(self.partitions)]
        return self._give(iteration.workers) if self.ahead else self._call(iteration.workers)

    def receive(self, reply: Reply) -> Sequence[Order | Abandon]:
        worker, slot = reply.order.worker, reply.order.slot
        if slot not in self._open:
            self._waiting.discard(worker)
            self.done = self._stopped and not self._waiting
            return ()
        _, piece = self._open.pop(slot)
        if piece == _CALL:
            return self._give([worker])
        (self._granted if self._schedule.finish(worker, piece) else self._refused)[worker].append(slot)
        return self._collect() if self._enough() else self._give([worker])

    def lose(self, worker: int) -> Sequence[Order | Abandon]:
        assert self._iteration is not None
        if self._losses == self._repeats:
            return ()  # the driver gives again what is open, and a message computes again what it needs
        self._losses += 1
        gone = [slot for slot, (owner, _) in self._open.items() if owner == worker]
        safe = worker in self._asked and worker not in self._waiting  # its message has come
        if worker in self._waiting:
            gone.append(self._asked[worker][0])
        if not safe:
            self._asked.pop(worker, None)
            self._waiting.discard(worker)
        for slot in gone:
            self._open.pop(slot, None)
        self._granted[worker], self._refused[worker] = [], []
        self._schedule.withdraw(worker, grants=not safe)
        actions: Actions = [Abandon(tuple(gone))] if gone else []
        if self._enough():
            return actions + (self._collect() if self._stopped else [])
        self._stopped = False
        return actions + self._give([*(own for own in self._iteration.workers if own != worker), worker])

    def expire(self) -> Sequence[Order | Abandon]:
        """The sum of what is granted."""
        self._late = True
        return self._collect() if not self._stopped and self._enough() else ()

    def lacking(self, workers: Collection[int]) -> str:
        """Shares of which something is missing, and none of these workers holds them; see :class:`Scheme`."""
        missing = sorted({piece // self.micro for piece in self._target if piece not in self._schedule.owner})
        holders = {share: [own for own, held in enumerate(self.shares) if share in held] for share in missing}
        lost = [f"{share} (held by {holders[share]})" for share in missing if not set(holders[share]) & set(workers)]
        if not lost:
            return ""
        return (
            f"Nobody is left of those who hold share {', '.join(lost)}: have them started again, take a larger "
            f"replication than {max(map(len, self.shares))}, or let the iteration end with what is granted, by a "
            f'deadline or on_shortfall="approximate"'
        )

    def _enough(self) -> bool:
        return bool(self._schedule.owner) if self._late else not self._schedule.missing

    def _order(self, worker: int, piece: int, combination: Combination) -> Order:
        """A held order for a micro-partition, or one for the worker's message, with what it has yet to be told."""
        assert self._iteration is not None
        slot = self._losses * len(self._places) + self._places[worker, piece]
        granted, self._granted[worker] = tuple(self._granted[worker]), []
        refused, self._refused[worker] = tuple(self._refused[worker]), []
        return Order(
            worker,
            self._iteration.serial,
            slot,
            worker,
            combination,
            hold=piece != _MESSAGE,
            running=piece == _MESSAGE,
            granted=granted,
            refused=refused,
        )

    def _call(self, workers: Sequence[int]) -> Actions:
        """Asks ``workers`` to say that they are there: who is late takes nothing until then."""
        actions: Actions = []
        for worker in workers:
            order = self._order(worker, _CALL, Combination({}))
            self._open[order.slot] = (worker, _CALL)
            actions.append(order)
        return actions

    def _give(self, workers: Sequence[int]) -> Actions:
        """Fills the hands of ``workers``, everybody's first order before anybody's second."""
        actions: Actions = []
        for depth in range(1 + self.ahead):
            for worker in workers:
                if len(self._schedule.hands[worker]) > depth:
                    continue
                piece = self._schedule.take(worker)
                if piece is not None:
                    order = self._order(worker, piece, self._single[piece])
                    self._open[order.slot] = (worker, piece)
                    actions.append(order)
        return actions

    def _collect(self) -> Actions:
        """Everybody stops; whoever owns what it has not been asked for sends one message of all that it owns."""
        actions: Actions = [Abandon(tuple(self._open))] if self._open else []
        self._open, self._stopped = {}, True
        self._schedule.stop()
        for worker in sorted(set(self._schedule.owner.values())):
            owned = self._schedule.owned(worker)
            if worker in self._asked and self._asked[worker][1] == owned:
                continue
            if worker in self._waiting:
                actions.append(Abandon((self._asked[worker][0],)))
            order = self._order(worker, _MESSAGE, Combination(dict.fromkeys(owned, 1.0)).of(self._target))
            self._asked[worker] = (order.slot, owned)
            self._waiting.add(worker)
            actions.append(order)
        self.done = not self._waiting
        return actions

    def gradient(self, rows: Tensor, out: Tensor) -> None:
        import torch

        assert self._iteration is not None
        sizes, granted = self._iteration.sizes, list(self._schedule.owner)
        total, counted = int(sizes[list(self._iteration.target)].sum()), int(sizes[granted].sum())
        self.exact = counted == total
        scale = 1.0 if self.exact or not counted else total / counted
        weights = np.zeros(self.workers)
        weights[list(self._asked)] = scale
        weighted_sum(rows, weights, out)
        most = max((len(owned) for _, owned in self._asked.values()), default=0)
        rounding = growth(most + len(self._asked) + 3, torch.finfo(out.dtype).eps / 2)
        if rows.dtype != out.dtype:  # a message is rounded once more
            rounding = (1 + rounding) * (1 + torch.finfo(rows.dtype).eps / 2) - 1
        self.error = scale * rounding + (0.0 if self.exact else max(1.0, scale - 1))

    # How long it takes

    def duration(self, compute: Floats, communicate: Floats) -> Floats:
        """Seconds of an iteration, (samples, N, stages) and (samples, N) per message -> (samples,).

        From notice to notice until all is granted, or the deadline; then the slowest owner brings its message. Equal,
        draw by draw, to the event-by-event simulation with instant abandoning if messages take no time, or those of all
        sizes as long (``notice=1``). inf: some share has no holder that ever ends.
        """
        message = communicate[:, : self.workers]
        notice: Floats | float = self._notice * message if self._notice else 0.0
        stop, owners = self.granted(compute[:, :, 0], notice, 0.0 if self.ahead else notice)
        arrivals: Floats = np.where(owners, stop[:, None] + message, stop[:, None]).max(axis=1, initial=0.0)
        return arrivals

    def granted(self, pace: Floats, latency: Floats | float = 0.0, start: Floats | float = 0.0) -> tuple[Floats, Any]:
        """When everybody stops, the sums left out, and who owns something by then.

        Args:
            pace: X/m, (samples, N) seconds per micro-partition.
            latency: λ, (samples, N) or a number: seconds of a notice and its answer.
            start: D, (samples, N) or a number: seconds before a worker's first work; with ``ahead=0`` also before it
                takes any.

        Returns:
            (samples,) seconds, and (samples, N) bool.
        """
        latencies, starts = np.broadcast_to(latency, pace.shape), np.broadcast_to(start, pace.shape)
        stop, owners = np.full(len(pace), np.inf), np.zeros(pace.shape, dtype=bool)
        for sample, rows in enumerate(zip(pace.tolist(), latencies.tolist(), starts.tolist(), strict=True)):
            stop[sample], own = self._replay(*rows)
            owners[sample, own] = True
        return stop, owners

    def _replay(self, pace: list[float], latency: list[float], start: list[float]) -> tuple[float, list[int]]:
        """One iteration's events: (when, worker) a notice comes; at equal times by worker."""
        schedule = Schedule(self.shares, self.micro)
        for depth in range(1 + self.ahead if self.ahead else 0):
            for worker in range(self.workers):
                if len(schedule.hands[worker]) == depth:
                    schedule.take(worker)
        ends = [(start[w] + (pace[w] + latency[w] if schedule.hands[w] else 0.0), w) for w in range(self.workers)]
        heapq.heapify(ends)
        late = np.inf if self.deadline is None else self.deadline
        while ends and ends[0][0] < np.inf:
            now, worker = heapq.heappop(ends)
            if now > late and schedule.owner:
                break
            if schedule.hands[worker]:  # else it says that it is there
                schedule.finish(worker, schedule.hands[worker][0])
                if now > late or not schedule.missing:
                    return now, list(schedule.owner.values())
            while len(schedule.hands[worker]) <= self.ahead and schedule.take(worker) is not None:
                pass
            if schedule.hands[worker]:
                heapq.heappush(ends, (now + pace[worker] + latency[worker], worker))
        return (float(late) if schedule.owner else np.inf), list(schedule.owner.values())

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            raise ValueError(f"{self!r} keeps no state between iterations, got {sorted(state)}")


@scheme(
    "self_scheduling",
    summary="workers take one micro-partition at a time, some held by several; each sends the sum of what it did first",
    trade_off="near the fluid bound where the network is quick against the work; a notice for every micro-partition",
)
def self_scheduling(
    workers: int,
    replication: int = 2,
    micro: int = 8,
    deadline: float | None = None,
    *,
    placement: Literal["cyclic", "random"] = "cyclic",
    seed: int = 0,
    ahead: int = 0,
    repeats: int = 3,
    notice: float = 0.0,
) -> SelfScheduling:
    """Replicated self-scheduling; see :class:`SelfScheduling`.

    Args:
        workers: N.
        replication: r, holders of each share, from 1 to N.
        micro: m, micro-partitions of a share; near the square root of a share's seconds over those of a notice.
        deadline: seconds, or None.
        placement: "cyclic" or "random"; see :func:`gradcode.schemes.micro_partitions.placed`.
        seed: of a random placement.
        ahead, repeats, notice: see the class.

    Raises:
        ValueError: an argument is out of its range.

    >>> self_scheduling(workers=8, replication=3)
    self_scheduling(workers=8, replication=3, micro=8)
    """
    shares = placed(workers, replication, placement, seed)
    return SelfScheduling(shares, micro, deadline, ahead=ahead, repeats=repeats, notice=notice)
