"""A cluster under a virtual clock: real gradients, drawn times, hundreds of workers on one machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from gradcode.clusters.driver import ON_SHORTFALL, OnShortfall
from gradcode.clusters.edge import check_edges
from gradcode.clusters.injected import delay_table
from gradcode.clusters.once import Once
from gradcode.clusters.passage import checked
from gradcode.clusters.simulation import Run
from gradcode.clusters.station import ScriptedLoss, Station, World
from gradcode.delays import Delays, DelayTable
from gradcode.delays.law import Source as DelaySource
from gradcode.errors import GradcodeError, Shortfall
from gradcode.network import Traffic, Transmission, Uplink
from gradcode.protocol import Iteration, Layout, Outcome, Scheme, Source
from gradcode.topology import tree
from gradcode.training.seeding import preserved


class SimulatedCluster:
    """Carries out orders under a virtual clock, events in order of time, ties broken by worker index.

    Gradients are real; each partition's is computed once per iteration, however many workers hold it. A worker does
    its orders one after the other; an order of m partitions takes m times its compute delay and then the time of
    its message. An edge node takes no time but that of its message, the master none but what the delays say it takes to
    receive each reply, one after the other.

    Args:
        workers: N; may be left out where there is a topology.
        delays: how long work takes: anything of :mod:`gradcode.delays`, or a recorded or scripted ``DelayTable``.
            None: everything is instant.
        abandon: ``"instant"``: a worker whose work is no longer wanted is free at once; ``"partition"``: it first
            ends the partition it is at, as real clusters do.
        topology: edge nodes between master and workers: a list of how many workers each has, or a nested list.
        losses: workers that die, and when; edge nodes, which take their workers along, are numbered after the workers.
        restart: seconds after which a lost worker is back.
        on_shortfall: ``"wait"``, ``"approximate"`` or ``"raise"`` when too few workers are left.
        uplink: that replies pass through when they are ready, after whatever time the delays give a message: all share
            it, and a worker is free once its reply waits to be admitted. The queues go on from iteration to iteration.
            None: each worker has a link of its own. Goes with workers that the master speaks to itself.
        seed: of the drawn delays, and of the uplink's channel; None: the session's.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        workers: int | None = None,
        delays: Delays | DelaySource | DelayTable | None = None,
        *,
        topology: Sequence[Any] | None = None,
        abandon: Literal["instant", "partition"] = "instant",
        losses: Sequence[Sequence[float]] = (),
        restart: float = 0.0,
        on_shortfall: OnShortfall = "wait",
        uplink: Uplink | None = None,
        seed: int | None = None,
    ) -> None:
        self.topology = tree(workers, topology)
        self.workers = len(self.topology.workers)
        if abandon not in ("instant", "partition"):
            raise ValueError(f'abandon={abandon!r} must be "instant" or "partition"')
        if on_shortfall not in ON_SHORTFALL:
            raise ValueError(f"on_shortfall={on_shortfall!r} must be one of {', '.join(ON_SHORTFALL)}")
        self.on_shortfall = on_shortfall
        self._delays, self._seed = delays, seed
        self._abandon, self._restart = abandon, restart
        self.uplink = checked(uplink, self.topology)
        self.traffic: Traffic | None = None
        self._losses = [_scripted(loss, self.workers + len(self.topology.edges)) for loss in losses]
        self._now = 0.0
        self._transmission: Transmission | None = None
        self._root: Station | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def open(
        self,
        source: Source,
        layout: Layout,
        seed: int,
        like: Tensor,
        reply_dtype: torch.dtype,
        inner: Sequence[Scheme | None] = (),
    ) -> None:
        """See :class:`gradcode.protocol.Cluster`.

        Raises:
            GradcodeError: the cluster is open already.
        """
        if self._root is not None:
            raise GradcodeError("this SimulatedCluster is in use already: give every session a cluster of its own")
        check_edges(layout, inner)
        self._source = Once(source.copy())
        self.parameters = like.new_zeros(source.length)
        self.buffers = torch.zeros(source.buffers, dtype=torch.float64)
        self._source.bind(self.parameters, self.buffers, 0)
        table = delay_table(self._delays, self.topology, seed if self._seed is None else self._seed)
        if self.uplink is not None:
            self._transmission = self.uplink.start(seed if self._seed is None else self._seed)
        world = World(
            self._source,
            seed,
            self.parameters,
            self.buffers,
            table,
            self._losses,
            self.workers,
            self._abandon,
            self._restart,
            self.on_shortfall,
            self._transmission,
        )
        branch = self.topology if any(inner) else self.topology.flat
        self._root = Station(world, branch, layout, inner, reply_dtype)
        self.rows = self._root.rows

    @property
    def memory(self) -> Tensor | None:
        return None if self._root is None else self._root.memory

    def alive(self) -> tuple[int, ...]:
        return () if self._root is None else self._root.alive()

    def away(self) -> tuple[int, ...]:
        return () if self._root is None else self._root.away(self._now)

    def clock(self) -> float:
        return self._now

    def close(self) -> None:
        self._root = None

    def state_dict(self) -> dict[str, Any]:
        """The memories, what is kept, how long workers are still busy with what nobody wants, and the uplink."""
        busy = [(station.busy - (self._now - station.ended)).clip(0.0).tolist() for station in self._stations()]
        kept = None if self._root is None else (self._root.kept.clone(), self._root.kept_buffers.clone())
        uplink = None if self._transmission is None else self._transmission.state_dict()
        return {"memory": self.memory, "busy": busy, "kept": kept, "uplink": uplink}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.memory is not None:
            self.memory.copy_(state["memory"])
        if self._root is not None and len(self._root.kept):
            for own, saved in zip((self._root.kept, self._root.kept_buffers), state["kept"], strict=True):
                own.copy_(saved)
            self._root.standing.holders.clear()
        for station, busy in zip(self._stations(), state.get("busy", ()), strict=False):
            station.busy, station.ended = np.array(busy, dtype=np.float64), self._now
        if self._transmission is not None and state.get("uplink") is not None:
            self._transmission.load_state_dict(state["uplink"])

    def run(self, scheme: Scheme, iteration: Iteration) -> Outcome:
        """One iteration; see :class:`gradcode.protocol.Cluster`.

        What a worker's own code raises is raised as it is, with its traceback.

        Raises:
            GradcodeError: the cluster is not open.
            Shortfall: the iteration can never end.
        """
        if self._root is None:
            raise GradcodeError("this SimulatedCluster is closed: open a new one")
        with preserved():  # workers seed the generators that the master's own code draws from
            self._source.renew()
            self._source.prepare(iteration.number)
            run = Run(self._root, scheme, iteration, self._now, 0.0)
            run.begin()
            try:
                while not run.done:
                    if run.due[0] == np.inf:
                        raise Shortfall(
                            f"iteration {iteration.number} never ends: {scheme!r} has replies of workers "
                            f"{sorted(run.ledger.heard)} and waits for workers that never answer (infinite delay); "
                            f"give the scheme a deadline or a higher tolerance"
                        )
                    run.step()
            finally:
                if self._transmission is not None:
                    self.traffic = self._transmission.end(run.now)
        self._now += run.now
        return run.ledger.outcome(run.now, run.sending, time.monotonic(), *run.injected.known)

    def _stations(self) -> list[Station]:
        """The root, and all edge nodes below."""
        stations = [] if self._root is None else [self._root]
        for station in stations:
            stations += [below for below in station.below if below is not None]
        return stations


def _scripted(loss: Sequence[float], number: int) -> ScriptedLoss:
    """A scripted loss as a user may write it.

    Raises:
        ValueError: it is not (iteration, worker, seconds).
    """
    if len(loss) != 3 or loss[0] != int(loss[0]) or loss[1] not in range(number) or not loss[2] >= 0:
        raise ValueError(
            f"losses: {tuple(loss)} must be (iteration, worker, seconds), the worker from 0 to {number - 1}"
        )
    return ScriptedLoss(int(loss[0]), int(loss[1]), float(loss[2]))
