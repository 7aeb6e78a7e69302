"""What a simulated master, or edge node, is between two iterations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gradcode.clusters.driver import OnShortfall, Standing
from gradcode.clusters.edge import EdgeNode
from gradcode.clusters.inspection import Inspection
from gradcode.clusters.once import Once
from gradcode.clusters.past import SharedShelf
from gradcode.clusters.worker import OrderBook, SharedMemories
from gradcode.delays import DelayTable
from gradcode.network import Transmission
from gradcode.protocol import Keep, Layout, Scheme
from gradcode.topology import Branch


class ScriptedLoss(NamedTuple):
    """A worker dies ``time`` seconds into an iteration (counted from 0); edge nodes are numbered after the workers."""

    iteration: int
    worker: int
    time: float


@dataclass(frozen=True)
class World:
    """What all of a simulation shares."""

    source: Once
    seed: int
    parameters: Tensor
    buffers: Tensor
    table: DelayTable | None
    losses: Sequence[ScriptedLoss]
    workers: int
    abandon: Literal["instant", "partition"]
    restart: float
    on_shortfall: OnShortfall
    uplink: Transmission | None = None


class Station:
    """A master, or an edge node, between iterations: its children, their rows, and how long they are still busy.

    Args:
        world: what all share.
        branch: the children.
        layout: of the scheme that is run here.
        inner: the schemes of children that are edge nodes.
        reply_dtype: of the rows.
    """

    def __init__(
        self, world: World, branch: Branch, layout: Layout, inner: Sequence[Scheme | None], reply_dtype: torch.dtype
    ) -> None:
        source, like = world.source, world.parameters
        self.world, self.branch, self.layout = world, branch, layout
        self.relayed = branch.edge < 0 and not branch.edges  # if there are edge nodes, they only pass messages on
        items, pitch = layout.row_shape(source.length, reply_dtype.itemsize)
        row_dtype = reply_dtype if layout.codec is None else torch.uint8
        self.rows = torch.zeros(layout.rows, pitch, dtype=row_dtype)[:, :items]
        self.memory = like.new_zeros(layout.memory, 2, source.length) if layout.memory else None
        self.kept = like.new_zeros(layout.kept, source.length)
        self.kept_buffers = torch.zeros(layout.kept, source.buffers, dtype=torch.float64)
        memories = None if self.memory is None else SharedMemories(self.memory)
        shelf = SharedShelf(self.kept, self.kept_buffers) if layout.kept else None
        self.books = [
            OrderBook(
                child.edge if isinstance(child, Branch) else child,
                source,
                layout,
                self.rows,
                memories,
                world.seed,
                like,
                shelf,
            )
            for child in branch.children
        ]
        self.below: list[Station | None] = [None] * len(branch.children)
        self.nodes: list[EdgeNode | None] = [None] * len(branch.children)
        for child, (own, scheme) in enumerate(
            zip(branch.children, inner or (None,) * len(branch.children), strict=True)
        ):
            if isinstance(own, Branch):
                assert scheme is not None
                self.below[child] = Station(world, own, scheme.layout, scheme.inner, reply_dtype)
                self.nodes[child] = EdgeNode(scheme, source.length, like)
        self.busy = np.zeros(len(branch.children))  # seconds after the end of its last run, which was
        self.ended = 0.0  # on the cluster's clock
        self.back = np.zeros(len(branch.children))  # when those that were lost have been started again
        self.standing = Standing()
        edges = [child for child, node in enumerate(self.nodes) if node is not None]
        self.inspection = Inspection(self.books[0], edges)

    def alive(self) -> tuple[int, ...]:
        """Children that can be given orders."""
        return tuple(child for child in range(len(self.books)) if child not in self.inspection.excluded)

    def away(self, now: float) -> tuple[int, ...]:
        """Those of them that are being started again."""
        return tuple(child for child in self.alive() if self.back[child] > now)

    def keep(self, keep: Keep) -> None:
        """Keeps it for the workers."""
        entry, world = keep.version.entry, self.world
        self.kept[entry].copy_(world.parameters if keep.vector is None else keep.vector)
        if keep.vector is None:
            self.kept_buffers[entry].copy_(world.buffers)

    def forget(self, back: float) -> None:
        """An edge node is lost, and its children with it, until ``back``."""
        self.back[:], self.busy[:] = back, 0.0
        for book in self.books:
            book.forget()
        for station in self.below:
            if station is not None:
                station.forget(back)
