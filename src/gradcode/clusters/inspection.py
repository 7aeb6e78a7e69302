"""What the master checks before it uses a reply: its shape, its dtype, and that its numbers are finite.

Its iteration is checked by the serial (see :mod:`gradcode.clusters.driver`). A reply that fails is a straggler's, and
a worker that fails three times in a row is given no more work.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gradcode.clusters.worker import OrderBook
from gradcode.protocol import Failure, Floats, Order, Reply

Array = npt.NDArray[Any]

STRIKES = 3
_PIECE = 1 << 18  # coordinates: a copy and a sum of so many share the processor's cache


class Inspection:
    """Examines the replies of one cluster's workers.

    Args:
        book: knows how long the answer to an order is.
        edges: children that are edge nodes.
    """

    def __init__(self, book: OrderBook, edges: Collection[int] = ()) -> None:
        self._book, self._edges = book, frozenset(edges)
        self._in_a_row: Counter[int] = Counter()

    @property
    def excluded(self) -> frozenset[int]:
        """Workers whose last :data:`STRIKES` replies were all refused."""
        return frozenset(worker for worker, count in self._in_a_row.items() if count >= STRIKES)

    def forgive(self, worker: int) -> None:
        """The worker was started again: it begins with nothing held against it."""
        self._in_a_row.pop(worker, None)

    def examine(self, reply: Reply) -> Reply | Failure:
        """The reply, or why it is refused. Reads the payload once."""
        order, payload = reply.order, reply.payload
        if payload is not None:
            size, most = payload.numel(), self._book.size(order)
            if size > most or (order.codec is None and size < most):
                return self.refuse(order, reply.time, f"{size} bytes in place of {most}")
            if order.codec is None and not finite(as_array(payload.view(self._book.rows.dtype))):
                return self.refuse_numbers(order, reply.time, reply.statistics)
        if not self._sound(order, reply.statistics):
            return self.refuse_numbers(order, reply.time, reply.statistics)
        self._in_a_row.pop(order.worker, None)
        return reply

    def take(self, reply: Reply, array: Array) -> Reply | Failure:
        """The reply with its payload, which came as ``array`` and is copied into its row, or why it is refused.

        The copy and the check are one pass over memory.
        """
        order, time, statistics = reply.order, reply.time, reply.statistics
        most = self._book.size(order)
        # A codec's message may be shorter, and then only so much of the row is its payload.
        shorter = order.codec is not None and array.nbytes < most
        expected = self._book.payload(order, array.nbytes if shorter else most)
        assert expected is not None
        own = as_array(expected if order.codec is not None else expected.view(self._book.rows.dtype))
        if array.shape != own.shape or array.dtype != own.dtype:
            found, wanted = f"{array.shape} of {array.dtype}", f"{own.shape} of {own.dtype}"
            return self.refuse(order, time, f"an array {found} in place of {wanted}")
        healthy = True
        for begin in range(0, len(own), _PIECE):
            own[begin : begin + _PIECE] = array[begin : begin + _PIECE]
            healthy = healthy and (order.codec is not None or finite(own[begin : begin + _PIECE]))
        if not healthy or not self._sound(order, statistics):
            return self.refuse_numbers(order, time, statistics)
        self._in_a_row.pop(order.worker, None)
        return replace(reply, payload=expected)

    def _sound(self, order: Order, statistics: Floats) -> bool:
        finite_ones = np.isfinite(statistics)
        # What an edge node left out of its sum is NaN as a whole; a worker's own NaN never came past it.
        return bool(
            (finite_ones.all(axis=1) | ~finite_ones.any(axis=1)).all()
            if order.worker in self._edges
            else finite_ones.all()
        )

    def refuse(self, order: Order, time: float, found: str) -> Failure:
        """A reply of the wrong shape or dtype."""
        self._in_a_row[order.worker] += 1
        return Failure(order.worker, time, f"the reply of worker {order.worker} is {found}", "misshapen")

    def refuse_numbers(self, order: Order, time: float, statistics: Floats) -> Failure:
        """A reply with NaN or infinity in it."""
        self._in_a_row[order.worker] += 1
        losses = f" (its loss is {statistics[:, 0].mean()})" if len(statistics) else ""
        message = f"the reply of worker {order.worker} holds numbers that are not finite{losses}"
        return Failure(order.worker, time, message, "not finite")


def finite(values: Array) -> bool:
    """Whether every number is finite: NaN and infinities survive a sum, so one pass without a copy tells.

    By NumPy, which stays in this thread: torch would wait for cores that workers are busy on.
    """
    if values.dtype == np.int16:  # bfloat16: not finite is who has all bits of the exponent set
        return not ((values & 0x7F80) == 0x7F80).any()
    with np.errstate(all="ignore"):
        total = values.sum(dtype=np.float32 if values.itemsize < 4 else values.dtype)
    # A sum may overflow though every term is finite: only then are the terms looked at.
    return bool(np.isfinite(total)) or bool(np.isfinite(values).all())


def as_array(values: Tensor) -> Array:
    """``values`` as NumPy sees them; bfloat16, which NumPy lacks, by its bits."""
    return values.view(torch.int16).numpy() if values.dtype == torch.bfloat16 else values.numpy()
