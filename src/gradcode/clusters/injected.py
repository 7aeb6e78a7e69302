"""Delays from a table, as every cluster takes them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from gradcode.clusters.worker import OrderBook
from gradcode.delays import Delays, DelayTable, as_table
from gradcode.delays.law import Source as DelaySource
from gradcode.protocol import Floats, Order

NOTICE_BYTES = 16  # of an answer without payload


def delay_table(delays: Delays | DelaySource | DelayTable | None, workers: int, seed: int) -> DelayTable | None:
    """The one table of a cluster's delays; None: everything is instant, or as quick as it really is."""
    return None if delays is None else as_table(delays, workers, seed)


class Injected:
    """The delays of one iteration, zero where there is no table.

    Args:
        table: of the cluster.
        number: of the iteration.
        workers: N.
        book: knows how long the answer to an order is.
    """

    def __init__(self, table: DelayTable | None, number: int, workers: int, book: OrderBook) -> None:
        self._table, self._number, self._book = table, number, book
        self._compute = np.zeros((workers, 1)) if table is None else table.compute(number)
        self._stages: dict[int, int] = {}  # slot -> which batch of orders it came with
        self._batches = 0
        self._messages: dict[int, Floats] = {}  # bytes -> seconds of every worker's message

    def give(self, orders: Iterable[Order]) -> None:
        """Orders are given: those not given before are a stage of their own."""
        fresh = [order.slot for order in orders if order.slot not in self._stages]
        self._stages.update(dict.fromkeys(fresh, self._batches))
        self._batches += bool(fresh)

    def pace(self, order: Order) -> float:
        """Seconds per unit of load."""
        stage = min(self._stages[order.slot], self._compute.shape[1] - 1)
        return float(self._compute[order.worker, stage])

    def message(self, order: Order) -> float:
        """Seconds of the answer's message."""
        if self._table is None:
            return 0.0
        size = NOTICE_BYTES if order.hold else self._book.size(order)
        if size not in self._messages:
            self._messages[size] = self._table.communicate(self._number, size)
        return float(self._messages[size][order.worker])

    @property
    def compute(self) -> Floats | None:
        """(N, stages) seconds per unit of load; None where there is no table."""
        return None if self._table is None else self._compute

    @property
    def communicate(self) -> Floats | None:
        """(N,) seconds of a full row's message; None where there is no table."""
        return None if self._table is None else self._table.communicate(self._number, self._book.full_size)
