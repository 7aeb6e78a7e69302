"""Delays from a table, as every cluster takes them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from gradcode.clusters.driver import NOTICE_BYTES
from gradcode.clusters.worker import OrderBook
from gradcode.delays import Delays, DelayTable, as_table
from gradcode.delays.law import Source as DelaySource
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
        self._stages: dict[int, int] = {}  # slot -> which batch of orders it came with
        self._batches = 0
        self._messages: dict[int, tuple[Floats, Floats]] = {}  # bytes -> seconds: of every worker, of every edge node

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

    def message(self, order: Order, sent: bool = True) -> float:
        """Seconds of the answer's message; not ``sent``: of one without payload."""
        if self._table is None:
            return 0.0
        size = self._book.size(order) if sent and not order.hold else NOTICE_BYTES
        if size not in self._messages:
            self._messages[size] = self._seconds(size)
        workers, edges = self._messages[size]
        edge = self._edges[order.worker]
        return float(workers[self._workers[order.worker]] if edge < 0 else edges[edge])

    @property
    def receive(self) -> float:
        """Seconds that the master takes for each reply; an edge node takes none."""
        return 0.0 if self._table is None or self._branch.edge >= 0 else self._table.receive

    @property
    def compute(self) -> Floats | None:
        """(N, stages) seconds per unit of load of all workers; None where there is no table."""
        return None if self._table is None else self._compute

    @property
    def communicate(self) -> Floats | None:
        """Seconds of a full row's message, of all workers and then of the edge nodes unless those only pass it on."""
        if self._table is None:
            return None
        workers, edges = self._seconds(self._book.full_size)
        return workers if self._relayed or not len(edges) else np.concatenate([workers, edges])

    def _seconds(self, size: int) -> tuple[Floats, Floats]:
        assert self._table is not None
        workers = self._table.communicate(self._number, size)
        if self._relayed:
            workers = workers + self._table.relay(self._number, size)
        edges = self._table.uplink(self._number, size)
        if not len(edges):  # a table that was recorded without edge nodes
            edges = np.zeros(1 + max((child.edge for child in self._branch.edges), default=-1))
        return workers, edges
