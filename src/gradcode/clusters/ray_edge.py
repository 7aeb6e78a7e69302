"""An edge node of the Ray cluster: an actor that is a cluster to actors of its own."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch

from gradcode.clusters.edge import EdgeBook, EdgeNode
from gradcode.clusters.ray import RayCluster
from gradcode.clusters.ray_actor import Rows, Setup, Work
from gradcode.clusters.ray_connection import ray
from gradcode.delays import DelayTable
from gradcode.protocol import Order, Source


class Forwarding(Work):
    """An edge node's work: its workers compute, and it adds up.

    Args:
        setup: of its actor.
        sent: the object that the source is in.
    """

    def __init__(self, setup: Setup, sent: Any) -> None:
        assert setup.edge is not None
        cargo, scheme = setup.cargo, setup.edge.scheme
        source: Source = ray.get(sent)
        like = torch.zeros(0, dtype=cargo.dtype)
        rows = Rows(cargo.layout, source.length, cargo.reply_dtype)
        self._children = EdgeCluster(setup, sent)
        self._children.open(source, scheme.layout, cargo.seed, like, cargo.reply_dtype, scheme.inner)
        node = EdgeNode(scheme, source.length, like)
        book = EdgeBook(setup.number, source, cargo.layout, rows, cargo.seed, like, node, self._children)
        super().__init__(setup, book, rows)
        book.carrier = self

    def take(self, parameters: Sequence[Any]) -> None:
        self._children.pass_on(parameters[0])

    def over(self, serial: int) -> None:
        super().over(serial)
        self._children.wake()

    def abandon(self, serial: int, slots: tuple[int, ...]) -> None:
        super().abandon(serial, slots)
        self._children.wake()

    def below(self) -> dict[int, int | None]:
        return self._children.below()


class EdgeCluster(RayCluster):
    """What is below an edge node: actors of its own actor, which Ray ends with it.

    Args:
        setup, sent: as those of :class:`Forwarding`.
    """

    def __init__(self, setup: Setup, sent: Any) -> None:
        assert setup.edge is not None
        edge = setup.edge
        super().__init__(
            len(edge.branch.workers),
            delay_mode=setup.mode,
            threads=setup.threads,
            on_shortfall=edge.on_shortfall,
            patience=edge.patience,
            max_restarts=edge.max_restarts,
            start_timeout=edge.start_timeout,
        )
        self.topology, self._edge_table, self._sent = edge.branch, edge.table, sent
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=True
        )
        self._options = {**edge.options, "scheduling_strategy": here}

    def pass_on(self, parameters: Any) -> None:
        """The object that the workers read their parameters from, from now on."""
        self._passed = parameters

    def wake(self) -> None:
        """Has the edge node look whether its parent still waits."""
        self._mail.wake()

    def _connect(self, until_closed: ExitStack) -> None:
        """The actor is connected already."""

    def _send(self, source: Source) -> Any:
        return self._sent

    def _check_room(self) -> None:
        """The master has looked at all workers together."""

    def _make_table(self, seed: int) -> DelayTable | None:
        return self._edge_table

    def _want(self, orders: Sequence[Order]) -> None:
        self._shared = self._passed
