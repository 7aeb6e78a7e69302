"""Delays from a table, as every cluster takes them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from gradcode.clusters.driver import NOTICE_BYTES
from gradcode.clusters.worker import OrderBook
from gradcode.delays import Delays, DelayTable, as_table
from gradcode.delays.law import Source as DelaySource
from gradcode.delays.link import LinkState
from gradcode.protocol import Floats, Order
from gradcode.topology import Branch


def delay_table(delays: Delays | DelaySource | DelayTable | None, tree: Branch, seed: int) -> DelayTable | None:
    """The one table of a cluster's delays; None: everything is instant, or as quick as it really is."""
    return None if delays is None else as_table(delays, len(tree.workers), seed, tree.above if tree.edges else ())


class Injected:
    """The delays of one iteration of a master and its children, zero where there is no table.

    Args:
        table: of the whole cluster.
        number: of the iteration.
        branch: the children.
        relayed: workers are reached past edge nodes that only pass messages on.
        book: knows how long the answer to an order is.
    """

    def __init__(self, table: DelayTable | None, number: int, branch: Branch, relayed: bool, book: OrderBook) -> None:
        self._table, self._number, self._book = table, number, book
        self._branch, self._relayed = branch, relayed
        # What an edge node takes to its parent is its message alone: its children have delays of their own.
        self._workers = [-1 if isinstance(child, Branch) else child for child in branch.children]
        self._edges = [child.edge if isinstance(child, Branch) else -1 for child in branch.children]
        self._compute = np.zeros((1, 1)) if table is None else table.compute(number)
        self._start = np.zeros(1) if table is None else table.start(number)
        self._stages: dict[int, int] = {}  # slot -> which batch of orders it came with
        self._batches = 0
        self._links = None if table is None else self._states(table)  # of the workers, of the edge nodes

    def give(self, orders: Iterable[Order]) -> None:
        """Orders are given: those not given before are a stage of their own."""
        fresh = [order.slot for order in orders if order.slot not in self._stages]
        self._stages.update(dict.fromkeys(fresh, self._batches))
        self._batches += bool(fresh)

    def pace(self, order: Order) -> float:
        """Seconds per unit of load."""
        worker = self._workers[order.worker]
        if worker < 0 or self._table is None:
            return 0.0
        return float(self._compute[worker, min(self._stages[order.slot], self._compute.shape[1] - 1)])

    def link(self, child: int) -> tuple[float, float]:
        """A child's link: seconds per message, and per byte of it."""
        if self._links is None:
            return 0.0, 0.0
        edge, (workers, edges) = self._edges[child], self._links
        state, index = (workers, self._workers[child]) if edge < 0 else (edges, edge)
        return float(state.fixed[index]), float(state.per_byte[index])

    def message(self, child: int, sent: int | None) -> float:
        """Seconds of a child's answer with ``sent`` bytes of payload; None: without one."""
        return transport(self.link(child), sent)

    def wait(self, child: int) -> float:
        """Seconds from the iteration's start before which a child begins nothing; an edge node begins at once."""
        worker = self._workers[child]
        return 0.0 if worker < 0 or self._table is None else float(self._start[worker])

    @property
    def receive(self) -> float:
        """Seconds that the master takes for each reply; an edge node takes none."""
        return 0.0 if self._table is None or self._branch.edge >= 0 else self._table.receive

    @property
    def known(self) -> tuple[Floats | None, Floats | None, Floats | None]:
        """What an outcome tells of them, see :class:`gradcode.report.Outcome`; None where there is no table."""
        if self._links is None:
            return None, None, None
        workers, edges = (link.seconds(self._book.full_size) for link in self._links)
        alone = self._relayed or not len(edges)
        return self._compute, workers if alone else np.concatenate([workers, edges]), self._start

    def _states(self, table: DelayTable) -> tuple[LinkState, LinkState]:
        _, workers, edges, relay, _ = table.at(self._number)
        if self._relayed:
            workers = LinkState(workers.fixed + relay.fixed, workers.per_byte + relay.per_byte)
        if not len(edges.fixed):  # a table that was recorded without edge nodes
            nothing = np.zeros(1 + max((child.edge for child in self._branch.edges), default=-1))
            edges = LinkState(nothing, nothing)
        return workers, edges


def transport(link: tuple[float, float], sent: int | None) -> float:
    """Seconds of an answer over a link of so many seconds per message and per byte.

    ``sent``: the bytes of payload that it really has, which with some codecs nobody knows before; None: it has none.
    """
    fixed, per_byte = link
    return fixed + per_byte * (NOTICE_BYTES if sent is None else sent)
