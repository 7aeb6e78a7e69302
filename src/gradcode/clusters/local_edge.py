"""The process of an edge node: a worker of the cluster above it, with a cluster of its own below."""

from __future__ import annotations

import multiprocessing as mp
import selectors
import sys
from contextlib import AbstractContextManager, nullcontext
from multiprocessing.context import ForkContext, ForkServerContext

from torch import Tensor

from gradcode.clusters import process
from gradcode.clusters.arena import Parcel
from gradcode.clusters.edge import EdgeBook, EdgeNode
from gradcode.clusters.local import LocalCluster
from gradcode.delays import DelayTable
from gradcode.protocol import Layout, Source


def main(setup: process.Setup) -> None:
    """Runs until the parent closes the orders' pipe or dies; its own workers die with it."""
    # multiprocessing allows no children to a process that dies with its parent; these die with this one.
    mp.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
    with process.settled(setup) as ground:
        children = EdgeCluster(setup, ground)
        children.begin()
        assert setup.edge is not None
        cargo, like, scheme = ground.cargo, ground.common["parameters"], setup.edge.scheme
        rows = ground.arena["rows"][:, : cargo.items]
        node = EdgeNode(scheme, cargo.source.length, like)
        book = EdgeBook(setup.number, cargo.source, cargo.layout, rows, cargo.seed, like, node, children)
        loop = book.carrier = process.Loop(setup, ground, book)
    with children:
        loop.run()


class EdgeCluster(LocalCluster):
    """What is below an edge node.

    Its processes are forked from the edge node's, which has torch loaded and no thread but one, and so die with it.

    Args:
        setup, ground: of the edge node's process.
    """

    def __init__(self, setup: process.Setup, ground: process.Ground) -> None:
        assert setup.edge is not None
        self._edge, self._setup, self._ground = setup.edge, setup, ground
        branch = setup.edge.branch
        super().__init__(
            len(branch.workers),
            delay_mode=setup.mode,
            threads=setup.threads,
            on_shortfall=setup.edge.on_shortfall,
            patience=setup.edge.patience,
        )
        self.topology = branch
        self._first_edge = setup.number - branch.edge

    def begin(self) -> None:
        """Starts the children and waits until they are ready."""
        cargo, scheme = self._ground.cargo, self._edge.scheme
        like = self._ground.common["parameters"]
        self.open(cargo.source, scheme.layout, cargo.seed, like, self._edge.reply_dtype, scheme.inner)
        assert self._selector is not None
        self._selector.register(self._ground.inbox.fd, selectors.EVENT_READ, (None, "parent"))

    def _make_table(self, seed: int) -> DelayTable | None:
        return self._edge.table

    def _nursery(self, layout: Layout) -> AbstractContextManager[ForkServerContext | ForkContext]:
        return nullcontext(mp.get_context("fork"))

    def _make_common(self, source: Source, like: Tensor) -> process.Place:
        return self._setup.common

    def _packed(self, cargo: process.Cargo) -> tuple[process.Cargo | None, Parcel | None]:
        return cargo, None  # a forked process has it already

    def _inherited(self) -> tuple[int, ...]:
        mine = [descriptor for hand in self._hands for descriptor in hand.descriptors]
        return (*mine, self._setup.orders.fd, self._setup.records.fd)

    def _hear_parent(self) -> None:
        self._ground.inbox.wait(0.0)
        if self._ground.inbox.ended:
            sys.exit(0)
