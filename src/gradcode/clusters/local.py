"""A cluster of processes on one machine: parameters and replies in shared memory, orders over pipes."""

from __future__ import annotations

import os
import pickle
import select
import selectors
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from multiprocessing.context import ForkContext, ForkServerContext
from typing import Any, cast

import torch
from torch import Tensor

from gradcode.clusters import process
from gradcode.clusters.arena import Arena, Parcel, Region, pack
from gradcode.clusters.carrier import DelayMode
from gradcode.clusters.driver import OnShortfall, below
from gradcode.clusters.hand import Hand
from gradcode.clusters.nursery import ctrl_c_later, open_server
from gradcode.clusters.post import Descriptor, Message
from gradcode.clusters.realtime import RealTimeCluster, unsendable
from gradcode.clusters.roster import Arrival
from gradcode.clusters.roster import Hand as AnyHand
from gradcode.clusters.worker import OrderBook
from gradcode.delays import Delays, DelayTable
from gradcode.delays.law import Source as DelaySource
from gradcode.errors import WorkerError
from gradcode.network import Uplink
from gradcode.protocol import Failure, Keep, Layout, Order, Reply, Scheme, Source
from gradcode.topology import Branch

_GIVE_UP = 3  # deaths in a row, without a reply between them, after which a worker is not started again


class LocalCluster(RealTimeCluster):
    """One process per worker on this machine, and one per edge node.

    Parameters, buffers and reply rows lie in shared memory; the master decodes where they lie. A dead worker is
    noticed at once, counted as a straggler and started again within the iteration; a stopped one never holds the
    master up. Leaving the ``with`` block, an exception, Ctrl-C and a SIGKILL of the master leave no process and no
    shared memory behind.

    Scripts must protect their main module with ``if __name__ == "__main__":``, as with any use of multiprocessing,
    and model, loss and dataset must be picklable (defined at the top of a module).

    With edge nodes, each has shared memory of its own with its workers, which it starts and which die with it. It runs
    its part of the scheme and answers the master with one vector.

    Args:
        workers: N; may be left out where there is a topology.
        delays: injected delays, for experiments: anything of :mod:`gradcode.delays`; None: none.
        topology: edge nodes between master and workers: a list of how many workers each has, or a nested list.
        delay_mode: ``"extra"`` adds sleep to real computing; ``"emulate"`` makes each partition end at an absolute
            time with the real computing inside, so that cores shared by the workers do not distort a comparison.
        threads: torch threads per worker.
        on_shortfall: when too few workers are left: ``"wait"`` starts lost workers again and again, with growing
            pauses; ``"approximate"`` takes what there is; ``"raise"`` raises.
        patience: seconds after which a silent worker that owes an answer is killed and started again; None: never.
        uplink: that replies pass through in real time. They lie in shared memory as soon as they are computed, so here
            it is a delay. None: they are used at once.
        seed: of the drawn delays, and of the uplink's channel; None: the session's.

    Raises:
        ValueError: an argument is out of its range.
        PlatformError: the platform cannot run worker processes.
    """

    def __init__(
        self,
        workers: int | None = None,
        delays: Delays | DelaySource | DelayTable | None = None,
        *,
        topology: Sequence[Any] | None = None,
        delay_mode: DelayMode = "extra",
        threads: int = 1,
        on_shortfall: OnShortfall = "wait",
        patience: float | None = None,
        uplink: Uplink | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(workers, topology, delays, delay_mode, threads, on_shortfall, patience, uplink, seed)
        self._hands: list[Hand] = []
        self._selector: selectors.BaseSelector | None = None
        self._resources = ExitStack()
        self._first_edge = self.workers  # the number of edge node 0 among all processes

    @property
    def pids(self) -> tuple[int | None, ...]:
        """The process of each worker, None while it is being started again.

        Of a worker behind an edge node it is the last one.
        """
        last = [int(pid) for pid in self._arena_of_all["pids"]] if self._hands else []
        direct = {own: hand.pid for own, hand in zip(self._branch.children, self._hands, strict=True)}
        return tuple(direct.get(worker, last[worker]) for worker in self._branch.workers if last)

    @property
    def edge_pids(self) -> tuple[int, ...]:
        """The last process of each edge node."""
        return tuple(int(pid) for pid in self._arena_of_all["pids"][self.workers :]) if self._hands else ()

    @property
    def memory(self) -> Tensor | None:
        return self._memory

    @property
    def _is_open(self) -> bool:
        return self._selector is not None

    def _restore(self, memory: Tensor | None, kept: tuple[Tensor, Tensor]) -> None:
        if self._memory is not None and memory is not None:
            self._memory.copy_(memory)
        for own, saved in zip(self._kept(), kept, strict=True):
            own.copy_(saved)

    # Opening and closing

    def _open(
        self,
        source: Source,
        layout: Layout,
        seed: int,
        like: Tensor,
        reply_dtype: torch.dtype,
        inner: Sequence[Scheme | None],
    ) -> None:
        items, pitch = layout.row_shape(source.length, reply_dtype.itemsize)
        row_dtype = torch.uint8 if layout.codec is not None else reply_dtype
        children = len(self._branch.children)
        regions = {
            "rows": Region((layout.rows, pitch), row_dtype),
            "memory": Region((layout.memory, 2, source.length), like.dtype),
            "kept": Region((layout.kept, source.length), like.dtype),
            "kept buffers": Region((layout.kept, source.buffers), torch.float64),
            "statistics": Region((children, source.partitions, source.statistics), torch.float64),
            "wanted": Region((layout.slots,), torch.int64),
            "taken": Region((children,), torch.int64),
            "errors": Region((children, process.TEXT), torch.uint8),
        }
        self._selector = selectors.DefaultSelector()
        self._resources.callback(self._selector.close)
        self._context = self._resources.enter_context(self._nursery(layout))
        self._common = self._make_common(source, like)
        self._arena_of_all = self._common.open()
        self.parameters, self.buffers = self._arena_of_all["parameters"], self._arena_of_all["buffers"]
        self._arena = Arena(regions)
        self._resources.callback(self._arena.close)
        self._place = process.Place(regions, Descriptor(self._arena.fd))
        self.rows = self._arena["rows"][:, :items]
        self._memory = self._arena["memory"] if layout.memory else None
        self._wanted, self._taken = self._arena["wanted"].numpy(), self._arena["taken"].numpy()
        self._wanted.fill(-1)
        self._statistics = self._arena["statistics"].numpy()
        self._examine_with(OrderBook(-1, source, layout, self.rows, None, seed, self.parameters))
        self._cargo, self._parcel = self._packed(process.Cargo(source, layout, items, seed))
        self._inner, self._reply_dtype = tuple(inner), reply_dtype
        self._hands = [Hand(child, self._selector, self._taken[child : child + 1]) for child in range(children)]
        for hand in self._hands:
            self._start(hand)
        self._await_ready()

    def _nursery(self, layout: Layout) -> AbstractContextManager[ForkServerContext | ForkContext]:
        """Where processes are forked."""
        return open_server(compressing=layout.codec is not None)

    def _make_common(self, source: Source, like: Tensor) -> process.Place:
        """What all processes of the cluster read: parameters, buffers, and who is who."""
        regions = {
            "parameters": Region((source.length,), like.dtype),
            "buffers": Region((source.buffers,), torch.float64),
            "pids": Region((self.workers + len(self.topology.edges),), torch.int64),
        }
        arena = Arena(regions)
        self._resources.callback(arena.close)
        return process.Place(regions, Descriptor(arena.fd))

    def _packed(self, cargo: process.Cargo) -> tuple[process.Cargo | None, Parcel | None]:
        """The cargo as it goes to processes: as it is, or packed."""
        try:
            parcel = pack(cargo)
        except (pickle.PicklingError, AttributeError, TypeError, ValueError, RuntimeError) as error:
            raise unsendable(error) from error
        self._resources.callback(os.close, parcel.fd)
        return None, parcel

    def _await_ready(self) -> None:
        while not all(hand.ready for hand in self._hands):
            self._poll(None)
            for hand in self._hands:
                if hand.deaths or hand.gone:
                    raise WorkerError(self._why_not_started(hand))

    def _why_not_started(self, hand: Hand) -> str:
        left = process.read_text(self._arena["errors"][hand.worker])
        if left:
            return f"{self._branch.names[hand.worker]} could not start:\n{left}"
        return (
            f"{self._branch.names[hand.worker]} ended before it was ready. Protect the main module of your script with "
            f'if __name__ == "__main__": since every worker imports it; and see its own message above, if any'
        )

    def close(self) -> None:
        """Ends every worker, running or stopped, and frees the shared memory. May be called twice."""
        with ctrl_c_later():
            for hand in self._hands:
                hand.kill()
            for hand in self._hands:
                hand.forget()
            self._await_end_below()
            self._hands = []
            self._resources.close()
            self._selector = None

    @property
    def _edge_main(self) -> Callable[[process.Setup], None]:
        """What the process of an edge node runs, itself a cluster of this kind."""
        from gradcode.clusters.local_edge import main

        return main

    def _await_end_below(self) -> None:
        """Workers of edge nodes die with them; here until the last is gone."""
        if not self._hands or not self._edges or not hasattr(os, "pidfd_open"):
            return
        direct = self._branch.children
        others: list[int | Branch] = []
        for edge in self._branch.edges:
            mine: tuple[int | Branch, ...] = (edge, *edge.workers)
            others += [each for each in mine if each not in direct]
        pids = self._arena_of_all["pids"]
        for pid in {int(pids[self._number_of(each)]) for each in others} - {0}:
            with suppress(OSError):  # it is gone already
                end = os.pidfd_open(pid)
                select.select([end], [], [], 5.0)
                os.close(end)

    def _start(self, hand: AnyHand) -> None:
        hand = cast(Hand, hand)
        self._arena["errors"][hand.worker, :4] = 0
        own, edge = self._branch.children[hand.worker], None
        number = self._number_of(own)
        if isinstance(own, Branch):
            scheme = self._inner[hand.worker]
            assert scheme is not None
            edge = process.EdgeSetup(
                own, scheme, self._table, below(self.on_shortfall), self.patience, self._reply_dtype
            )
        hand.start(
            self._context,
            process.main if edge is None else self._edge_main,
            f"gradcode-{self._branch.names[hand.worker].replace(' ', '-')}",
            lambda orders, records: process.Setup(
                hand.worker,
                number,
                self._common,
                self._place,
                self._cargo,
                self._parcel,
                None if self._parcel is None else Descriptor(self._parcel.fd),
                orders,
                records,
                self._mode,
                self.threads,
                self._inherited(),
                edge,
            ),
        )

    def _inherited(self) -> tuple[int, ...]:
        """Descriptors that a new process has of this one: none, where the fork server makes it."""
        return ()

    def _number_of(self, child: int | Branch) -> int:
        """Its number among all processes of the cluster."""
        return self._first_edge + child.edge if isinstance(child, Branch) else child

    def _spent(self, hand: AnyHand) -> bool:
        return hand.deaths > _GIVE_UP and self.on_shortfall != "wait"

    # One iteration

    def _keep(self, keep: Keep) -> None:
        entry = keep.version.entry
        self._arena["kept"][entry].copy_(self.parameters if keep.vector is None else keep.vector)
        if keep.vector is None:
            self._arena["kept buffers"][entry].copy_(self.buffers)

    def _kept(self) -> tuple[Tensor, Tensor]:
        return self._arena["kept"], self._arena["kept buffers"]

    def _want(self, orders: Sequence[Order]) -> None:
        for order in orders:
            self._wanted[order.slot] = order.serial

    def _unwant(self, slots: Sequence[int]) -> None:
        for slot in slots:
            self._wanted[slot] = -1
        if self._edges:
            self._wake(order.worker for slot in slots if (order := self._open_orders.get(slot)) is not None)

    def _over(self) -> None:
        self._wanted.fill(-1)
        if self._edges:
            self._wake(order.worker for order in self._ledger.open.values())

    def _wake(self, children: Iterable[int]) -> None:
        """Has edge nodes look at what is wanted: they wait for their workers, who may take long."""
        for child in set(children).intersection(self._edges):
            self._hands[child].post((), Message(self._serial, self._number, time.monotonic(), 0, (), ()))

    def _listen(self, seconds: float | None, awaits: int) -> tuple[list[Arrival], list[AnyHand]]:
        assert self._selector is not None
        arrivals: list[Arrival] = []
        dead: list[AnyHand] = []
        events = self._selector.select(seconds)
        now = time.monotonic()
        for key, _ in events:
            hand, occasion = key.data
            if occasion == "parent":
                self._hear_parent()
            elif occasion == "death":
                dead.append(hand)
            elif occasion == "orders":
                hand.flush()
            else:
                arrivals += [Arrival(hand, record, now) for record in hand.read()]
                hand.flush()
        for hand in dead:  # all its replies come before its loss
            arrivals += [Arrival(hand, record, now) for record in cast(Hand, hand).read()]
        return arrivals, dead

    def _hear_parent(self) -> None:
        """An edge node's parent has said something."""

    def _answer(self, arrival: Arrival, order: Order, time: float) -> Reply | Failure:
        sent = arrival.record.sent
        payload = self._book.payload(order, None if sent < 0 else sent)
        statistics = self._statistics[order.worker, list(order.combination)]
        record = arrival.record
        return self._inspection.examine(Reply(order, payload, time, statistics, record.change, record.clipped))

    def _why(self, arrival: Arrival) -> str:
        return process.read_text(self._arena["errors"][arrival.hand.worker])
