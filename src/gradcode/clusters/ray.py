"""A cluster of Ray actors, on one machine or many: parameters in Ray's object store, orders as actor calls."""

from __future__ import annotations

import sys
import time
import uuid
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from gradcode.clusters.carrier import DelayMode
from gradcode.clusters.driver import OnShortfall, below
from gradcode.clusters.inspection import as_array
from gradcode.clusters.nursery import ctrl_c_later
from gradcode.clusters.post import ERROR, READY, Record
from gradcode.clusters.ray_actor import Actor, Cargo, EdgeSetup, Ready, Setup, machine
from gradcode.clusters.ray_connection import comparable, connection, keep_actor, kept_actor, ray, why_not_sent
from gradcode.clusters.ray_hand import Call, Mail, News, RayHand
from gradcode.clusters.ray_store import BUILT_IN, free, lacking, put, text, values
from gradcode.clusters.realtime import RealTimeCluster, unsendable
from gradcode.clusters.roster import Arrival
from gradcode.clusters.roster import Hand as AnyHand
from gradcode.clusters.worker import OrderBook
from gradcode.delays import Delays, DelayTable
from gradcode.delays.law import Source as DelaySource
from gradcode.errors import GradcodeError, GradcodeWarning, WorkerError
from gradcode.network import Uplink
from gradcode.protocol import Failure, Keep, Layout, Loss, Order, Reply, Scheme, Source
from gradcode.topology import Branch

Placement = Literal["spread", "pack"]
_STRATEGY = {"spread": "SPREAD", "pack": "DEFAULT"}
_PULLS = 2  # payloads at most on their way from other machines at once


class RayCluster(RealTimeCluster):
    """One Ray actor per worker.

    Parameters go into Ray's object store once per iteration, and workers read them there. A worker's reply stays in
    the store of its machine until the scheme still wants it. A worker that is behind is told what is over, and stops
    after the partition it is at. A lost actor, node or connection is a straggler and is replaced within the iteration,
    as soon as there is room for it. Leaving the ``with`` block leaves no actor behind.

    Args:
        workers: N; may be left out where there is a topology.
        address: None starts a Ray of its own on this machine; ``"auto"`` or ``"host:port"`` joins a running one. A Ray
            that the program has connected to already is used as it is.
        delays: injected delays, for experiments: anything of :mod:`gradcode.delays`; None: none.
        topology: edge nodes between master and workers: a list of how many workers each has, or a nested list. They
            are actors too, without resources of their own, and have their workers on their machine if there is room.
        resources: that each worker takes: ``num_cpus`` (1 by default), ``num_gpus``, ``memory`` in bytes, or any
            resource that the nodes were given.
        placement: ``"spread"`` the workers over the nodes, or ``"pack"`` them onto few.
        runtime_env: Ray's runtime environment of the workers.
        delay_mode, threads: as those of :class:`gradcode.LocalCluster`.
        on_shortfall: when too few workers are left: ``"wait"`` for them to return; ``"approximate"`` takes what there
            is; ``"raise"`` raises.
        patience: seconds after which a silent worker that owes an answer is killed and started again; None: never.
        max_restarts: of a worker in a row, without a reply between them, before it is gone for good; None: no end.
        start_timeout: seconds in which all workers must be ready at first. One that is started again and takes longer
            waits for room on; unless ``on_shortfall`` is ``"wait"``, training then goes on as if it were gone.
        uplink: decides slot by slot, in real time, which of the replies that are ready the master fetches next: a reply
            stays in the store of its machine until all of its bytes have been served. None: fetched as they come.
        seed: of the drawn delays, and of the uplink's channel; None: the session's.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        workers: int | None = None,
        address: str | None = None,
        delays: Delays | DelaySource | DelayTable | None = None,
        *,
        topology: Sequence[Any] | None = None,
        resources: Mapping[str, float] | None = None,
        placement: Placement = "spread",
        runtime_env: Mapping[str, Any] | None = None,
        delay_mode: DelayMode = "extra",
        threads: int = 1,
        on_shortfall: OnShortfall = "wait",
        patience: float | None = None,
        max_restarts: int | None = 3,
        start_timeout: float = 120.0,
        uplink: Uplink | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(workers, topology, delays, delay_mode, threads, on_shortfall, patience, uplink, seed)
        if placement not in _STRATEGY:
            raise ValueError(f"placement={placement!r} must be one of {', '.join(_STRATEGY)}")
        if max_restarts is not None and max_restarts < 0:
            raise ValueError(f"max_restarts={max_restarts} must not be negative; None restarts without end")
        if not start_timeout > 0:
            raise ValueError(f"start_timeout={start_timeout} must be a positive number of seconds")
        self.address, self.max_restarts, self.start_timeout = address, max_restarts, start_timeout
        self.resources = {"num_cpus": 1.0, **(resources or {})}
        for name, amount in self.resources.items():
            if not isinstance(amount, int | float) or not 0 <= amount < float("inf"):
                raise ValueError(f"resources: {name}={amount!r} must be a number from 0")
        others = {name: amount for name, amount in self.resources.items() if name not in BUILT_IN}
        self._options: dict[str, Any] = {"scheduling_strategy": _STRATEGY[placement]}
        self._options |= {name: amount for name, amount in self.resources.items() if name in BUILT_IN}
        self._options |= {"resources": others} if others else {}
        self.runtime_env = dict(runtime_env or {})
        self._hands: list[RayHand] = []
        self._opened_with: ExitStack | None = None
        self._shared: Any = None  # what the workers read in this iteration
        self._kept_objects: dict[int, Any] = {}  # entry -> what is kept there, with buffers
        self._mail = Mail()
        self._pulling: set[int] = set()  # slots whose payloads are on their way
        self._due: list[Arrival] = []  # whose payloads are fetched after those

    @property
    def pids(self) -> tuple[int | None, ...]:
        """The process of each worker, on its machine; None while it is being started again."""
        known = self.below()
        return tuple(known.get(worker) for worker in self._branch.workers if self._hands)

    @property
    def edge_pids(self) -> tuple[int | None, ...]:
        """The process of each edge node, on its machine; None while it is being started again."""
        known = self.below()
        return tuple(known.get(-1 - branch.edge) for branch in self._branch.edges if self._hands)

    def below(self) -> dict[int, int | None]:
        """All processes below: of workers by their number w, of edge nodes e as −1 − e."""
        known: dict[int, int | None] = {}
        for own, hand in zip(self._branch.children, self._hands, strict=False):
            if isinstance(own, int):
                known[own] = hand.pid
            elif hand.ready:
                known[-1 - own.edge] = hand.pid
                with suppress(ray.exceptions.RayError):  # a stopped one says nothing
                    known |= ray.get(hand.actor.below.remote(), timeout=2.0)
        return known

    @property
    def nodes(self) -> tuple[str | None, ...]:
        """The Ray node of each of the master's children; None while it is being started again."""
        return tuple(hand.node for hand in self._hands)

    @property
    def unfinished(self) -> tuple[int, ...]:
        """Calls that each worker has been given and has not ended: at most two, the second of which may be stale."""
        return tuple(len(hand.calls) for hand in self._hands)

    @property
    def _is_open(self) -> bool:
        return self._opened_with is not None

    # What workers remember

    @property
    def memory(self) -> Tensor | None:
        """Fetched from the workers; that of one who cannot be reached is zero."""
        if not self._layout.memory:
            return None
        memory = self.parameters.new_zeros(self._layout.memory, 2, self._source.length)
        asked = {hand.actor.memories.remote(): hand.worker for hand in self._hands if hand.ready}
        ready, _ = ray.wait([*asked], num_returns=len(asked), timeout=self.start_timeout) if asked else ([], [])
        missing = set(range(self.workers))
        for said, copies_of in zip(ready, values(ready), strict=True):
            if not isinstance(copies_of, Exception):
                missing.discard(asked[said])
                for row, copies in copies_of.items():
                    memory[row] = torch.from_numpy(copies.copy())
        if missing:
            what = f"what workers {sorted(missing)} remember"
            warnings.warn(f"{what} cannot be fetched and is saved as zero", GradcodeWarning, stacklevel=4)
        return memory

    def _restore(self, memory: Tensor | None, kept: tuple[Tensor, Tensor]) -> None:
        for entry, saved in enumerate(zip(*kept, strict=True)):
            self._kept_objects[entry] = put(tuple(own.numpy() for own in saved))
        if memory is not None:
            memories = put(as_array(memory.contiguous()))
            for hand in self._hands:
                if hand.ready:
                    hand.actor.remember.remote(memories)

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
        self._opened_with = ExitStack()
        self._connect(self._opened_with)
        items, pitch = layout.row_shape(source.length, reply_dtype.itemsize)
        self.parameters = like.new_zeros(source.length)
        self.buffers = torch.zeros(source.buffers, dtype=torch.float64)
        row_dtype = reply_dtype if layout.codec is None else torch.uint8
        self.rows = torch.zeros(layout.rows, pitch, dtype=row_dtype)[:, :items]
        self._layout = layout
        self._examine_with(OrderBook(-1, source, layout, self.rows, None, seed, self.parameters))
        self._name, self._machine = uuid.uuid4().hex, machine()
        self._mail, self._node = Mail(), ray.get_runtime_context().get_node_id()
        self._sent_source = self._send(source)
        self._cargo, self._inner = Cargo(layout, seed, like.dtype, reply_dtype), tuple(inner)
        factory = ray.remote(concurrency_groups={"compute": 1, "control": 1}, max_restarts=0, max_task_retries=0)(Actor)
        self._actors = factory.options(**self._options)
        others = {key: self._options[key] for key in ("scheduling_strategy", "runtime_env") if key in self._options}
        self._edge_actors = factory.options(num_cpus=0, **others)
        self._hands = [
            RayHand(child, self._name, lambda: self._shared, self._mail, isinstance(own, Branch), self._kept_objects)
            for child, own in enumerate(self._branch.children)
        ]
        self._check_room()
        for hand in self._hands:
            self._start(hand)
        self._await_ready()

    def _connect(self, until_closed: ExitStack) -> None:
        cpus = self.workers * self.resources["num_cpus"]
        made = until_closed.enter_context(connection(self.address, cpus, self.runtime_env))
        if self.runtime_env and not made:
            self._options["runtime_env"] = self.runtime_env

    def _send(self, source: Source) -> Any:
        """The object that the source is in, which all workers read."""
        try:
            return put(source)
        except GradcodeError:
            raise
        except Exception as error:  # whatever a user's own __reduce__ or __getstate__ raises
            raise unsendable(why_not_sent(source, error)) from error

    def _check_room(self) -> None:
        """Says at once what a Ray of our own will never have, and of a running one what it does not have yet."""
        short = lacking(self.workers, self.resources)
        if short and self.address is None:
            raise GradcodeError(f"{short}; ask for less with resources=..., or take fewer workers")
        if short:
            wait = f"waiting up to {self.start_timeout:g} s for nodes to be added"
            warnings.warn(f"{short}; {wait}", GradcodeWarning, stacklevel=7)

    def _await_ready(self) -> None:
        until = time.monotonic() + self.start_timeout
        while not all(hand.ready for hand in self._hands):
            self._poll(max(0.0, until - time.monotonic()))
            for hand in self._hands:
                if hand.deaths:
                    who = self._branch.names[hand.worker]
                    raise WorkerError(f"{who} could not start:\n{hand.reason}{_advice(hand.reason)}")
            if time.monotonic() >= until and not all(hand.ready for hand in self._hands):
                late = [hand.worker for hand in self._hands if not hand.ready]
                why = lacking(self.workers, self.resources) or "No node has room for one more, or torch loads slowly"
                raise WorkerError(
                    f"workers {late} were not ready after start_timeout={self.start_timeout:g} s. {why}; free now: "
                    f"{free()}. Ask for less with resources=..., add nodes, or allow more time"
                )

    def close(self) -> None:
        """Ends every actor, and a Ray of our own with them. May be called twice."""
        if self._opened_with is None:
            return
        with ctrl_c_later():
            for hand in self._hands:
                hand.over(self._serial)
                if hand.edge or not (hand.ready and keep_actor(comparable(self._options), hand.actor)):
                    hand.kill()
                hand.forget()
            self._hands = []
            self._shared = self._sent_source = None
            self._kept_objects.clear()
            self._pulling.clear()
            self._due.clear()
            opened, self._opened_with = self._opened_with, None
            opened.close()

    def _start(self, hand: AnyHand) -> None:
        hand = cast(RayHand, hand)
        try:
            if hand.edge:  # never one that was kept, whose workers would be another's
                actor = self._edge_actors.remote(sys.path)
            else:
                actor = kept_actor(comparable(self._options)) or self._actors.remote(sys.path)
        except ValueError as error:
            raise GradcodeError(
                f"runtime_env={self.runtime_env}: {text(error)}. Folders are sent only by the connection that a "
                f"RayCluster makes: give them to your own ray.init, or do not call it"
            ) from error
        own, edge = self._branch.children[hand.worker], None
        if isinstance(own, Branch):
            scheme = self._inner[hand.worker]
            assert scheme is not None
            edge = EdgeSetup(
                own,
                scheme,
                self._table,
                self._options,
                below(self.on_shortfall),
                self.patience,
                self.max_restarts,
                self.start_timeout,
            )
        setup = Setup(
            self._name,
            hand.worker,
            own.edge if isinstance(own, Branch) else own,
            self._cargo,
            self._mode,
            self.threads,
            self._machine,
            not self._up,
            edge,
        )
        hand.start(actor, setup, self._sent_source)

    def _spent(self, hand: AnyHand) -> bool:
        return self.max_restarts is not None and hand.deaths > self.max_restarts

    # One iteration

    def _keep(self, keep: Keep) -> None:
        if keep.vector is None:
            self._share()
            self._kept_objects[keep.version.entry] = self._shared
        else:
            self._kept_objects[keep.version.entry] = put((keep.vector.numpy(), np.zeros(0)))

    def _kept(self) -> tuple[Tensor, Tensor]:
        vectors = self.parameters.new_zeros(self._layout.kept, self._source.length)
        buffers = torch.zeros(self._layout.kept, self._source.buffers, dtype=torch.float64)
        for entry, own in self._kept_objects.items():
            for kept, saved in zip((vectors[entry], buffers[entry]), ray.get(own), strict=True):
                kept[: len(saved)] = torch.from_numpy(saved.copy())
        return vectors, buffers

    def _want(self, orders: Sequence[Order]) -> None:
        if orders:
            self._share()

    def _share(self) -> None:
        if self._shared is None:
            self._shared = put((self.parameters.numpy(), self.buffers.numpy()))

    def _unwant(self, slots: Sequence[int]) -> None:
        for hand in self._hands:
            hand.abandon(self._serial, slots)
        self._pulling.difference_update(slots)

    def _over(self) -> None:
        for hand in self._hands:
            hand.over(self._serial)
        self._shared = None
        self._pulling.clear()
        self._due.clear()

    def _listen(self, seconds: float | None, awaits: int) -> tuple[list[Arrival], list[AnyHand]]:
        starting = [hand.started for hand in self._hands if hand.loading and not hand.late]
        if starting:
            soonest = max(0.0, min(starting) + self.start_timeout - time.monotonic())
            seconds = soonest if seconds is None else min(seconds, soonest)
        arrivals: list[Arrival] = []
        dead: list[AnyHand] = []
        for news in self._mail.take(seconds, awaits):
            if isinstance(news, Arrival):
                self._pulled(news)
            elif news.actor is news.hand.actor and news.hand not in dead:
                self._learn(news, arrivals, dead)
        self._note_overdue()
        return self._fetched(arrivals), dead

    def _fetched(self, arrivals: list[Arrival]) -> list[Arrival]:
        """With the payloads that are wanted and on this machine already, all of them at once; not before an uplink."""
        if self._passage.there:
            return arrivals
        here = [
            index
            for index, (hand, record, _, _) in enumerate(arrivals)
            if record.serial == self._serial
            and record.sent >= 0
            and record.slot in self._open_orders
            and cast(RayHand, hand).node == self._node
        ]
        with suppress(ray.exceptions.RayError):  # then they are fetched one by one, and each has its own fate
            arrays = ray.get([arrivals[index].cargo[0] for index in here], timeout=0)
            for index, array in zip(here, arrays, strict=True):
                arrivals[index] = arrivals[index]._replace(cargo=(array, *arrivals[index].cargo[1:]))
        return arrivals

    def _learn(self, news: News, arrivals: list[Arrival], dead: list[AnyHand]) -> None:
        hand, call, value = news.hand, news.call, news.value
        if isinstance(value, BaseException) and news.payload is not None:
            values([news.payload])  # Ray prints errors that nobody has looked at
        if isinstance(value, ray.exceptions.RayActorError):
            hand.reason = text(value)
            dead.append(hand)
        elif call is None:
            self._loaded(hand, value, arrivals, dead)
        elif isinstance(value, BaseException):
            self._failed(hand, call, value, arrivals)
        elif (arrival := hand.take(news)) is not None:
            arrivals.append(arrival)

    def _loaded(self, hand: RayHand, value: Any, arrivals: list[Arrival], dead: list[AnyHand]) -> None:
        if isinstance(value, Ready):
            hand.is_ready(value, self._machine)
            now = time.monotonic()
            arrivals.append(Arrival(hand, Record(READY, 0, -1, -1, now, now, 0, 0), now))
        else:
            hand.reason = text(value)
            hand.kill()
            dead.append(hand)

    def _failed(self, hand: RayHand, call: Call, error: BaseException, arrivals: list[Arrival]) -> None:
        """A call that never came to the actor's own code: its parameters are lost, or its answer cannot be kept."""
        hand.end(call)
        cause = getattr(error, "cause", None) or error
        if isinstance(cause, ray.exceptions.ObjectLostError):
            self._shared = None
            if call.message.serial == self._serial:
                self._queue.append(Loss(hand.worker, time.monotonic() - self._start_time))
        else:
            now = time.monotonic()
            slot = call.message.orders[0].slot if call.message.orders else 0
            record = Record(ERROR, slot, call.message.serial, -1, now, now, 0, 0)
            arrivals.append(Arrival(hand, record, now, (None, None, text(error))))

    def _note_overdue(self) -> None:
        """A worker that finds no room: wait on and say so, or go on without it until it is there."""
        now = time.monotonic()
        for hand in self._hands:
            if not hand.loading or hand.late or not self._up or now < hand.started + self.start_timeout:
                continue
            hand.late = True
            if self.on_shortfall == "wait":
                warnings.warn(
                    f"worker {hand.worker} has found no room, or was not ready, for {self.start_timeout:g} s; it joins "
                    f"when a node is added",
                    GradcodeWarning,
                    stacklevel=7,
                )
            else:
                hand.gone = True
                self._tell_loss(hand)

    def _answer(self, arrival: Arrival, order: Order, time: float) -> Reply | Failure | None:
        payload, statistics, _ = arrival.cargo
        reply = Reply(order, None, time, statistics, arrival.record.change, arrival.record.clipped)
        if arrival.record.sent < 0:
            return self._inspection.examine(reply)
        if len(self._pulling) >= _PULLS:
            self._due.append(arrival)
            return None
        try:
            array = payload if isinstance(payload, np.ndarray) else ray.get(payload, timeout=0)
        except ray.exceptions.GetTimeoutError:  # it is on another machine, and now on its way
            self._pulling.add(order.slot)
            payload.future().add_done_callback(lambda _: self._mail.put(arrival, urgent=True))
            return None
        except ray.exceptions.RayTaskError as error:  # there is no room for it where it was computed
            said = text(error).strip().splitlines()[-1]
            return Failure(
                order.worker,
                time,
                f"the reply of worker {order.worker} cannot be kept on its machine: {said}. Start Ray there with a "
                f"larger object store (`ray start --object-store-memory=BYTES`), or free the disk under its temporary "
                f"folder (/tmp/ray)",
            )
        except ray.exceptions.RayError:  # it is lost with its node
            self._queue.append(Loss(order.worker, time))
            return None
        return self._inspection.take(reply, array)

    def _pulled(self, arrival: Arrival) -> None:
        """A payload is here: the reply takes its turn, and the next payload may be fetched."""
        if arrival.record.serial == self._serial:
            self._pulling.discard(arrival.record.slot)
            self._queue.append(arrival)
            self._queue.extend(self._due)
            self._due.clear()

    def _why(self, arrival: Arrival) -> str:
        return str(arrival.cargo[2])


def _advice(reason: str) -> str:
    if "No module named" not in reason:
        return ""
    return (
        "\nThe workers' machines need the packages and modules of model, loss and dataset: install them there, or send "
        'the folder with runtime_env={"working_dir": "FOLDER"}'
    )
