"""A cluster of processes on one machine: parameters and replies in shared memory, orders over pipes."""

from __future__ import annotations

import os
import pickle
import selectors
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, cast

import torch
from torch import Tensor

from gradcode.clusters import process
from gradcode.clusters.arena import Arena, Region, pack
from gradcode.clusters.carrier import DelayMode
from gradcode.clusters.driver import OnShortfall
from gradcode.clusters.hand import Hand
from gradcode.clusters.nursery import ctrl_c_later, open_server
from gradcode.clusters.post import Descriptor
from gradcode.clusters.realtime import RealTimeCluster, unsendable
from gradcode.clusters.roster import Arrival
from gradcode.clusters.roster import Hand as AnyHand
from gradcode.clusters.worker import OrderBook
from gradcode.delays import Delays, DelayTable
from gradcode.delays.law import Source as DelaySource
from gradcode.errors import WorkerError
from gradcode.protocol import Failure, Layout, Order, Reply, Source

_GIVE_UP = 3  # deaths in a row, without a reply between them, after which a worker is not started again


class LocalCluster(RealTimeCluster):
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
        super().__init__(workers, delays, delay_mode, threads, on_shortfall, patience, seed)
        self._hands: list[Hand] = []
        self._selector: selectors.BaseSelector | None = None
        self._resources = ExitStack()

    @property
    def pids(self) -> tuple[int | None, ...]:
        """The process of each worker, None while it is being started again."""
        return tuple(hand.pid for hand in self._hands)

    @property
    def memory(self) -> Tensor | None:
        return self._memory

    @property
    def _is_open(self) -> bool:
        return self._selector is not None

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The memories, also of another kind of cluster."""
        if self._memory is not None:
            self._memory.copy_(state["memory"])

    # Opening and closing

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
        self._memory = self._arena["memory"] if layout.memory else None
        self._wanted, self._taken = self._arena["wanted"].numpy(), self._arena["taken"].numpy()
        self._wanted.fill(-1)
        self._statistics = self._arena["statistics"].numpy()
        self._examine_with(OrderBook(-1, source, layout, self.rows, None, seed, self.parameters))
        try:
            self._parcel = pack(process.Cargo(source, layout, items, seed))
        except (pickle.PicklingError, AttributeError, TypeError, ValueError, RuntimeError) as error:
            raise unsendable(error) from error
        self._resources.callback(os.close, self._parcel.fd)
        self._hands = [Hand(worker, self._selector, self._taken[worker : worker + 1]) for worker in range(self.workers)]
        for hand in self._hands:
            self._start(hand)
        self._await_ready()

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

    def _start(self, hand: AnyHand) -> None:
        hand = cast(Hand, hand)
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

    def _spent(self, hand: AnyHand) -> bool:
        return hand.deaths > _GIVE_UP and self.on_shortfall != "wait"

    # One iteration

    def _want(self, orders: Sequence[Order]) -> None:
        for order in orders:
            self._wanted[order.slot] = order.serial

    def _unwant(self, slots: Sequence[int]) -> None:
        for slot in slots:
            self._wanted[slot] = -1

    def _over(self) -> None:
        self._wanted.fill(-1)

    def _listen(self, seconds: float | None, awaits: int) -> tuple[list[Arrival], list[AnyHand]]:
        assert self._selector is not None
        arrivals: list[Arrival] = []
        dead: list[AnyHand] = []
        events = self._selector.select(seconds)
        now = time.monotonic()
        for key, _ in events:
            hand, occasion = key.data
            if occasion == "death":
                dead.append(hand)
            elif occasion == "orders":
                hand.flush()
            else:
                arrivals += [Arrival(hand, record, now) for record in hand.read()]
                hand.flush()
        for hand in dead:  # all its replies come before its loss
            arrivals += [Arrival(hand, record, now) for record in cast(Hand, hand).read()]
        return arrivals, dead

    def _answer(self, arrival: Arrival, order: Order, time: float) -> Reply | Failure:
        sent = arrival.record.sent
        payload = self._book.payload(order, None if sent < 0 else sent)
        statistics = self._statistics[order.worker, list(order.combination)]
        return self._inspection.examine(Reply(order, payload, time, statistics))

    def _why(self, arrival: Arrival) -> str:
        return process.read_text(self._arena["errors"][arrival.hand.worker])
