"""An edge node: a worker to its parent, a master to its children.

It is the same small object in the simulator, in a process and in a Ray actor. Its parent's order is the target of an
iteration of its own, and the gradient that its scheme then decodes is the answer.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import count
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from torch import Tensor

from gradcode.clusters.driver import Ledger
from gradcode.clusters.worker import Answer, EndOfPartition, OrderBook, Rows
from gradcode.protocol import Iteration, Layout, Order, Scheme, Source

if TYPE_CHECKING:
    from gradcode.clusters.carrier import Carrier
    from gradcode.clusters.realtime import RealTimeCluster


class EdgeNode:
    """Turns an order into an iteration, and its end into an answer.

    Args:
        scheme: how it splits what it is asked for among its children.
        length: coordinates of a gradient.
        like: any tensor of the gradient's dtype on the CPU.
    """

    def __init__(self, scheme: Scheme, length: int, like: Tensor) -> None:
        self.scheme, self._length, self._like = scheme, length, like
        self._serials = count()
        self._scratch: Tensor | None = None

    def iteration(
        self, order: Order, number: int, sizes: npt.NDArray[np.int64], workers: tuple[int, ...], away: tuple[int, ...]
    ) -> Iteration:
        """What the scheme is told of ``order``, in iteration ``number`` of the training.

        ``workers`` are the children that can be given orders; ``away`` those of them that are being started again.

        Raises:
            ValueError: the order asks for what an edge node cannot give.
        """
        past = order.compare is not None or order.subtract or order.remember is not None or order.at is not None
        if order.block is not None or order.codec is not None or order.hold or order.running or past:
            raise ValueError(f"{order!r} is for an edge node, which answers whole, plain combinations only")
        return Iteration(number, next(self._serials), order.combination, workers, sizes, away=away)

    def answer(self, order: Order, ledger: Ledger, rows: Tensor, out: Tensor) -> Answer:
        """Decodes the children's ``rows`` into the parent's row ``out`` once the scheme is done."""
        if out.dtype == self._like.dtype:
            self.scheme.gradient(rows, out[: self._length])
        else:
            if self._scratch is None:
                self._scratch = self._like.new_empty(self._length)
            self.scheme.gradient(rows, self._scratch)
            out[: self._length].copy_(self._scratch)
        out[self._length :].zero_()
        size, statistics = out.shape[0] * out.element_size(), ledger.heard_of(order.combination)
        return Answer(order, size, statistics, clipped=ledger.clipped)


class EdgeBook(OrderBook):
    """Carries out the orders of an edge node that is a process of its own.

    Args:
        worker, source, layout, rows, seed, like: as those of :class:`OrderBook`; the layout is the parent's.
        node: what it does with an order.
        children: who does the work.
    """

    def __init__(
        self,
        worker: int,
        source: Source,
        layout: Layout,
        rows: Rows,
        seed: int,
        like: Tensor,
        node: EdgeNode,
        children: RealTimeCluster,
    ) -> None:
        super().__init__(worker, source, layout, rows, None, seed, like)
        self._node, self._children = node, children
        self.carrier: Carrier | None = None

    def carry_out(
        self, order: Order, number: int, end_of_partition: EndOfPartition, later: Collection[Order] = ()
    ) -> Answer | None:
        node, children, carrier = self._node, self._children, self.carrier
        assert carrier is not None
        iteration = node.iteration(order, number, self.source.sizes(number), children.alive(), children.away())
        try:
            ended = children.serve(node.scheme, iteration, carrier.began, lambda: carrier.wanted(order))
        finally:
            self.computed += children.ledger.computations
            carrier.overruns += children.ledger.overruns
        if not ended or not end_of_partition(order):
            return None
        return node.answer(order, children.ledger, children.rows, self.rows[order.row])


def check_edges(layout: Layout, inner: Sequence[Scheme | None]) -> None:
    """Whether a scheme may have edge nodes.

    Raises:
        ValueError: it wants of its children what an edge node cannot give.
    """
    if any(inner) and (layout.codec is not None or layout.packed or layout.fold != 1 or layout.memory or layout.kept):
        raise ValueError(
            f"{layout} is no layout for a scheme with edge nodes, which answer plain combinations: give its code real "
            f"coefficients, and leave codecs and memory to the schemes that the edge nodes run"
        )
    stale = next((scheme for scheme in inner if scheme is not None and scheme.layout.stale), None)
    if stale is not None:
        raise ValueError(
            f"{stale!r} cannot run at an edge node, whose parent would take stale gradients for new ones: run it at "
            f"the master, over edge nodes that pass messages on (a cluster with a topology, a scheme without)"
        )
